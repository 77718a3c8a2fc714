//! `peek`: shows the messages that are not leased, without receiving them.

use anyhow::Result;
use ipc_queue::shm::Waiting;
use serde_json::Value;

use crate::address;
use crate::format;
use crate::headers;
use crate::payload::Payloads;
use crate::select::Selected;
use crate::show::Show;
use crate::table::{Column, Table, plain};

/// The last column is left out if no message has headers.
const COLUMNS: [Column; 7] = [
    ("message", 2),
    ("sent", 1),
    ("priority", 5),
    ("#attempts", 4),
    ("#bytes", 3),
    ("payload", 0),
    ("headers", 6),
];

pub fn peek(queue: &str, most: usize, show: &Show) -> Result<()> {
    let inspector = address::inspect(queue)?;
    let payloads = Payloads::of(Some(inspector.payload_type()));
    let waiting = inspector.waiting(most);
    let rows: Vec<_> = waiting.iter().map(|one| value(one, &payloads)).collect();
    show.rows(&rows, || {
        let any = waiting.iter().any(|message| !message.headers.is_empty());
        let columns = COLUMNS.len() - usize::from(!any);
        let mut table = Table::new(&COLUMNS[..columns]);
        for message in &waiting {
            let mut row = vec![
                plain(message.message),
                plain(format!(
                    "{} ago",
                    format::time(format::age(message.sent_at))
                )),
                plain(format!("{:?}", message.priority).to_lowercase()),
                plain(message.attempts),
                plain(message.payload.len()),
                plain(payloads.excerpt(&message.payload)),
                plain(headers::in_a_line(&message.headers)),
            ];
            row.truncate(columns);
            table.add(row);
        }
        table
    });
    Ok(())
}

/// For programs: the same object as `export` prints.
pub fn value(message: &Waiting, payloads: &Payloads) -> Value {
    Selected::waiting(message.clone()).line(payloads)
}
