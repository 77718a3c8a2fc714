//! The statistics of a queue: its counters, and a count of its cells.

use std::sync::atomic::Ordering;

use ipc_shm::{Participants, clock};

use super::contents::Contents;
use super::keys::nanos;
use super::tally::{Received, Sent, Side};
use super::word::CellKind;
use super::{CLOSED, PAUSED};
use crate::stats::QueueStats;

impl Contents {
    /// Returns the queue's statistics. `table` is the table of participants.
    pub(super) fn stats(&self, table: &Participants) -> QueueStats {
        let sent = |what: Sent| self.counters.total(Side::Send, what as usize);
        let received = |what: Received| self.counters.total(Side::Receive, what as usize);
        let mut stats = QueueStats {
            sent: sent(Sent::Messages),
            bytes_sent: sent(Sent::Bytes),
            refused: sent(Sent::Refused),
            received: received(Received::Messages),
            bytes_received: received(Received::Bytes),
            redelivered: received(Received::Again),
            acked: received(Received::Acked),
            nacked: received(Received::Nacked),
            buried: received(Received::Buried),
            leases_lost: received(Received::Lost),
            expiries: sent(Sent::Expiries),
            crashes: sent(Sent::Crashes),
            expired: received(Received::Expired),
            purged: sent(Sent::Purged),
            overflowed: sent(Sent::Overflowed),
            duplicates: sent(Sent::Duplicates),
            ..QueueStats::default()
        };
        let cells = self
            .rings()
            .flat_map(|ring| (0..ring.cells()).map(|index| ring.seen(index)));
        for state in cells {
            match state.kind {
                CellKind::Free | CellKind::Inside => {}
                CellKind::Writing => stats.writing += 1,
                CellKind::Ready => stats.ready += 1,
                CellKind::Leased => stats.leased += 1,
                CellKind::Delayed => stats.delayed += 1,
                CellKind::Dead => stats.dead += 1,
                CellKind::Quarantined => stats.quarantined += 1,
            }
        }
        let live = |slot: &ipc_shm::Participant| slot.presence == ipc_shm::Presence::Live;
        stats.chunks_in_use = self
            .rings()
            .map(|ring| u64::from(ring.chunks_in_use()))
            .sum();
        let now = nanos(clock::monotonic());
        stats.keys = self.keys.as_ref().map_or(0, |keys| keys.count(now));
        let flags = self.flag().load(Ordering::SeqCst);
        stats.paused = flags & PAUSED != 0;
        stats.closed = flags & CLOSED != 0;
        stats.participants = table.iter().filter(live).count() as u64;
        stats
    }
}
