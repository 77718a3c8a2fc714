//! The encoding of what programs give each other: inputs and outputs of jobs, control messages.
//!
//! Both sides may be different programs, or different releases of one. So values are encoded as in
//! a typed queue, with the names of fields and the types of numbers. A value that the other side
//! can't take is an error, never another value. The next release may have further fields.

use ipc_proto::{CodecError, Encoding};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, CodecError> {
    let mut bytes = Vec::new();
    Encoding::default().append(value, &mut bytes)?;
    Ok(bytes)
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    Encoding::default().decode(bytes)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Transfer {
        from: u32,
        to: u32,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct NextTransfer {
        to: u32,
        from: u32,
        #[serde(default)]
        note: Option<String>,
    }

    #[test]
    fn fields_that_changed_their_order_are_not_swapped() {
        let sent = encode(&Transfer { from: 1, to: 2 }).unwrap();
        let next = NextTransfer {
            to: 2,
            from: 1,
            note: None,
        };
        assert_eq!(decode::<NextTransfer>(&sent).unwrap(), next);
        let sent = encode(&next).unwrap();
        assert_eq!(
            decode::<Transfer>(&sent).unwrap(),
            Transfer { from: 1, to: 2 }
        );
    }

    #[test]
    fn a_number_of_another_type_keeps_its_value_or_is_refused() {
        assert_eq!(decode::<u32>(&encode(&7_i32).unwrap()).unwrap(), 7);
        assert_eq!(decode::<i64>(&encode(&7_u8).unwrap()).unwrap(), 7);
        decode::<u32>(&encode(&-1_i32).unwrap()).unwrap_err();
        decode::<u8>(&encode(&300_u16).unwrap()).unwrap_err();
        decode::<(u8, u8)>(&encode(&(1_u8, 2_u8, 3_u8)).unwrap()).unwrap_err();
        decode::<String>(&encode(&7_u8).unwrap()).unwrap_err();
    }
}
