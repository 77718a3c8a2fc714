//! Tests of the header.

use super::*;

const KIND: Kind = Kind::new("test");

fn header() -> Header {
    let payload = PayloadType::named("Task");
    let header = Header::new(KIND, 7, payload, 3, [5; PARAMS], 10_000).unwrap();
    header.with_tool_slots(2).unwrap()
}

fn expected() -> Expected {
    Expected {
        kind: KIND,
        layout_hash: 7,
        payload: Some(PayloadType::named("Task")),
    }
}

fn read(bytes: &[u8; FLAGS]) -> Result<Header, HeaderError> {
    Header::from_bytes(bytes, &[], header().total_bytes as u64, &expected())
}

#[test]
fn a_header_round_trips_through_its_bytes() {
    assert_eq!(read(&header().to_bytes()), Ok(header()));
}

#[test]
fn a_long_type_name_follows_the_slots_and_is_truncated_when_damaged() {
    let payload = PayloadType::named(&"Job".repeat(2000));
    let header = Header::new(KIND, 7, payload.clone(), 3, [5; PARAMS], 10_000).unwrap();
    let bytes = header.to_bytes();
    let (name, at) = header.long_name().unwrap();
    let (found_at, room) = Header::long_name_at(&bytes).unwrap();
    assert_eq!((found_at, room >= name.len()), (at, true));
    assert!(at + name.len() <= header.body_offset);
    let expected = Expected {
        payload: None,
        ..expected()
    };
    let read = |name: &[u8]| {
        Header::from_bytes(&bytes, name, header.total_bytes as u64, &expected).unwrap()
    };
    let padded = [name, &[0; 9]].concat();
    assert_eq!(read(&padded), header);
    let cut = &payload.name()[..TYPE_NAME_BYTES];
    assert_eq!(read(&padded[1..]).payload.name(), cut);
    assert_eq!(read(&[]).payload.name(), cut);
    assert_eq!(Header::long_name_at(&self::header().to_bytes()), None);
}

#[test]
fn every_flipped_bit_is_detected() {
    let good = header().to_bytes();
    for bit in 0..8 * (CRC + 8) {
        let mut bad = good;
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(read(&bad).is_err(), "bit {bit} of byte {}", bit / 8);
    }
}

#[test]
fn each_mismatch_has_its_own_error() {
    let bytes = header().to_bytes();
    let with = |change: fn(&mut Expected)| {
        let mut expected = expected();
        change(&mut expected);
        Header::from_bytes(&bytes, &[], header().total_bytes as u64, &expected).unwrap_err()
    };
    assert!(matches!(
        with(|e| e.kind = Kind::new("other")),
        HeaderError::Kind { .. }
    ));
    assert!(matches!(
        with(|e| e.layout_hash = 8),
        HeaderError::Layout { .. }
    ));
    let error = with(|e| e.payload = Some(PayloadType::named("Job")));
    assert!(
        error
            .to_string()
            .contains("carries Task, this program wants Job"),
        "{error}"
    );
    let error = Header::from_bytes(&bytes, &[], 4096, &expected()).unwrap_err();
    assert!(
        matches!(error, HeaderError::Size { found: 4096, .. }),
        "{error}"
    );
}

#[test]
fn a_header_larger_than_the_address_space_is_refused() {
    let huge = |bytes| Header::new(KIND, 7, PayloadType::bytes(), 3, [0; PARAMS], bytes);
    assert_eq!(huge(usize::MAX), None);
    assert_eq!(huge(usize::MAX - 8192), None);
}

#[test]
fn a_kind_is_one_to_eight_lower_case_letters() {
    for bad in ["", "ninechars", "a/b", "Queue", "a1", "a\0"] {
        assert!(
            std::panic::catch_unwind(|| Kind::new(bad)).is_err(),
            "{bad:?}"
        );
    }
    assert_eq!(Kind::new("abcdefgh").as_str(), "abcdefgh");
}
