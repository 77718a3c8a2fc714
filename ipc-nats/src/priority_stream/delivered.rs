//! The server's data about a delivery.

/// The server's data about a delivery, from the subject that acks go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Delivered {
    /// The number of deliveries of the message, including this one.
    pub(crate) times: u64,
    /// The message's sequence in its stream.
    pub(crate) seq: u64,
    /// When it was stored, by the server's clock, in nanoseconds since 1970.
    pub(crate) written_at: u64,
    /// The number of messages after it.
    pub(crate) pending: u64,
}

impl Delivered {
    /// `$JS.ACK.stream.consumer.times.seq.consumer-seq.time.pending`, in later servers with a
    /// domain and an account before the stream and a random part at the end.
    pub(crate) fn read(reply: &str) -> Option<Self> {
        let parts: Vec<&str> = reply.split('.').collect();
        let first = if parts.len() > 9 { 6 } else { 4 };
        let number = |index: usize| parts.get(first + index)?.parse().ok();
        Some(Self {
            times: number(0)?,
            seq: number(1)?,
            written_at: number(3)?,
            pending: number(4)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_ack_subject_are_read() {
        let expected = Some(Delivered {
            times: 2,
            seq: 10,
            written_at: 1_700_000_000,
            pending: 3,
        });
        let old = "$JS.ACK.stream.consumer.2.10.12.1700000000.3";
        assert_eq!(Delivered::read(old), expected);
        let new = "$JS.ACK._.hash.stream.consumer.2.10.12.1700000000.3.random";
        assert_eq!(Delivered::read(new), expected);
        assert_eq!(Delivered::read("$JS.ACK.short"), None);
    }
}
