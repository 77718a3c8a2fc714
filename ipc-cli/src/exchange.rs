//! `export`, `import`, `delete`, `move` of some messages, and `revoke`.

use anyhow::{Context, Result};
use ipc_queue::transport::Wait;
use ipc_queue::{ByteQueue, SendOptions};
use serde_json::json;

use crate::address::{self, Subject};
use crate::cli;
use crate::exit::Exit;
use crate::payload::Payloads;
use crate::select::{Selected, Selection};
use crate::show::{self, Show};

/// Prints messages, one line of JSON each. They stay in the queue.
pub fn export(queue: &str, selection: &Selection, show: &Show) -> Result<()> {
    let subject = Subject::open(queue)?;
    let payloads = Payloads::of(subject.payload());
    for message in selection.find(queue, &subject)? {
        show.line(&message.line(&payloads).to_string());
    }
    Ok(())
}

pub fn delete(what: &cli::Delete, show: &Show) -> Result<()> {
    let cli::Delete {
        queue,
        selection,
        all,
    } = what;
    if !selection.is_given() && !all {
        return Err(Exit::Usage.error(
            "say which messages (see --help), or --all for all that wait; nothing was deleted",
        ));
    }
    let opened = address::open(queue)?;
    let selected = selection.find(queue, &Subject::open(queue)?)?;
    check_ids(queue, selection, &selected)?;
    let mut deleted = 0;
    for message in &selected {
        deleted += u64::from(message.delete(&opened)?);
    }
    show.done(&json!({ "deleted": deleted }), || {
        format!("{deleted} messages deleted")
    });
    Ok(())
}

/// Checks that every given id was found.
fn check_ids(queue: &str, selection: &Selection, selected: &[Selected]) -> Result<()> {
    let is_there = |id: &&String| selected.iter().any(|one| one.id.to_string() == **id);
    match selection.ids.iter().find(|id| !is_there(id)) {
        None => Ok(()),
        Some(id) => Err(Exit::NotThere.error(format!(
            "{queue} has no message {id} in such a state: see ipc peek {queue} --json, and ipc \
             export {queue} --state dead; nothing was changed"
        ))),
    }
}

/// Moves some messages: each is sent to the other queue, then deleted in the first.
pub fn move_some(what: &cli::Move, show: &Show) -> Result<()> {
    let cli::Move {
        from,
        to,
        selection,
        ..
    } = what;
    let source = address::open(from).with_context(|| format!("opening {from}"))?;
    let target = address::open_or_create(to, &like(&source, what))?;
    if source.transport().id() == target.transport().id() {
        return Err(Exit::Usage.error(format!("{from} and {to} are the same queue")));
    }
    let (ours, theirs) = (source.transport().payload(), target.transport().payload());
    if let (Some(ours), Some(theirs)) = (ours, theirs)
        && ours != theirs
    {
        return Err(Exit::Refused.error(format!(
            "{from} carries {} and {to} carries {}",
            crate::payload::short(ours),
            crate::payload::short(theirs)
        )));
    }
    let selected = selection.find(from, &Subject::open(from)?)?;
    check_ids(from, selection, &selected)?;
    let has_keys = target.transport().settings().dedup_window.is_some();
    let (mut moved, mut doubled) = (0, 0);
    for message in &selected {
        put(message, &target, to, has_keys).with_context(|| {
            format!("{moved} messages were moved, the others are in {from} still")
        })?;
        match message.delete(&source)? {
            true => moved += 1,
            false => doubled += 1,
        }
    }
    if doubled > 0 {
        show::note(&format!(
            "{doubled} messages were taken by receivers of {from} at the same time, and are also in {to}"
        ));
    }
    let done = json!({ "moved": moved, "in_both": doubled });
    show.done(&done, || format!("{moved} messages are in {to}"));
    Ok(())
}

/// A created queue carries the same type and has the same settings, except those given.
fn like(source: &ByteQueue, what: &cli::Move) -> ipc_queue::QueueOptions {
    let settings = source.transport().settings().clone();
    let mut options = ipc_queue::QueueOptions::new().settings(settings);
    if let Some(name) = source.transport().payload().filter(|name| !name.is_empty()) {
        options = options.type_name(name);
    }
    what.settings.apply(options)
}

fn put(message: &Selected, target: &ByteQueue, to: &str, has_keys: bool) -> Result<()> {
    let mut options = SendOptions::new()
        .kind(message.kind)
        .headers(message.headers.clone());
    if message.priority != ipc_queue::Priority::Normal && target.transport().settings().priorities {
        options = options.priority(message.priority);
    }
    if has_keys {
        // If this is killed between the two and run again, the message is sent twice. The key makes
        // the second one a duplicate.
        options = options.key(message.id.to_string());
    }
    // A message whose key was sent before counts as sent.
    let sent = target
        .sender()
        .send_with(&message.payload, &options.wait(Wait::No));
    sent.with_context(|| format!("sending to {to}"))?;
    Ok(())
}

/// Takes messages back from the receivers that hold them.
pub fn revoke(what: &cli::Revoke, show: &Show) -> Result<()> {
    let queue = &what.queue;
    let opened = address::open(queue)?;
    let transport = opened.transport();
    let held = transport.leases()?;
    for id in &what.messages {
        let lease = held.iter().find(|held| held.message.to_string() == *id);
        let revoked = match lease {
            Some(lease) => transport.revoke(lease.message)?,
            None => false,
        };
        let Some(lease) = lease.filter(|_| revoked) else {
            return Err(Exit::NotThere.error(format!(
                "no receiver of {queue} holds message {id} (any more): see ipc stat {queue}"
            )));
        };
        let done = json!({ "revoked": id, "holder": lease.holder, "pid": lease.pid });
        show.done(&done, || {
            format!(
                "message {id} is taken back from {} (process {}), whose ack will be refused",
                lease.holder, lease.pid
            )
        });
    }
    Ok(())
}
