//! `save`, `restore`, `move`, `forget`: the whole content of a queue, and its keys.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use ipc_queue::snapshot::{self, Moved};
use ipc_queue::transport::Wait;
use ipc_queue::{Key, QueueOptions};
use nix::sys::statfs::{FsType, TMPFS_MAGIC, statfs};
use serde_json::json;

use crate::address;
use crate::cli;
use crate::exit::Exit;
use crate::settings::Settings;
use crate::show::{self, Show};

pub fn save(what: &cli::Save, show: &Show) -> Result<()> {
    let (queue, file) = (&what.queue, &what.file);
    let wait = Wait::at_most(what.timeout);
    let saved = snapshot::save(&address::shared(queue)?.to_string(), file, wait)?;
    if is_in_memory(file) == Some(true) {
        show::note(&format!(
            "{} is in memory: move it to a disk before a reboot",
            file.display()
        ));
    }
    let file = file.display();
    show.done(&figures(&saved), || match saved.was_done {
        false => format!(
            "{} of {queue} are in {file}, and {queue} is removed",
            all(&saved)
        ),
        true => format!(
            "{} of {queue} are in {file}, by an earlier save",
            all(&saved)
        ),
    });
    Ok(())
}

/// Returns whether a reboot would lose this file or folder. `None` if that is unknown.
pub fn is_in_memory(path: &Path) -> Option<bool> {
    const RAMFS: FsType = FsType(0x8584_58f6);
    let kind = statfs(path).ok()?.filesystem_type();
    Some([TMPFS_MAGIC, RAMFS].contains(&kind))
}

pub fn restore(what: &cli::Restore, show: &Show) -> Result<()> {
    let (queue, file) = (&what.queue, &what.file);
    let options = options(&what.settings)?;
    let address = address::shared(queue)?.to_string();
    if what.if_exists && !file.try_exists()? {
        show.say(&figures(&Moved::default()), || {
            format!("there is no {}, and nothing to restore", file.display())
        });
        return Ok(());
    }
    let restored = snapshot::restore(file, &address, &options, Wait::at_most(what.timeout))?;
    let file = file.display();
    show.done(&figures(&restored), || match restored.was_done {
        false => format!("{} are in {queue}, and {file} is removed", all(&restored)),
        true => format!(
            "everything in {file} was already in {queue}, from an earlier run or an unfinished save; {file} is removed"
        ),
    });
    Ok(())
}

pub fn move_queue(what: &cli::Move, show: &Show) -> Result<()> {
    let options = options(&what.settings)?;
    let [from, to] = [&what.from, &what.to].map(|queue| address::shared(queue));
    let (from, to) = (from?.to_string(), to?.to_string());
    let moved = snapshot::move_queue(&from, &to, &options, Wait::at_most(what.timeout))?;
    show.done(&figures(&moved), || {
        format!(
            "{} are in {}, and {} is removed",
            all(&moved),
            what.to,
            what.from
        )
    });
    Ok(())
}

/// Opens a queue that an operation left frozen.
pub fn give_up(queue: &str, show: &Show) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(5);
    snapshot::give_up(
        &address::shared(queue)?.to_string(),
        Wait::at_most(PATIENCE),
    )?;
    show.done(&json!({ "frozen": false }), || {
        format!("{queue} is open with what is in it; do not run again what left it frozen")
    });
    Ok(())
}

pub fn forget(what: &cli::Forget, show: &Show) -> Result<()> {
    let (queue, key) = (&what.queue, Key::of(what.key.as_bytes()));
    if key.is_empty() {
        return Err(Exit::Usage.error("the key is empty (is a variable unset?)"));
    }
    let opened = address::open(queue)?;
    if !opened.transport().forget(key)? {
        return Err(Exit::NotThere.error(format!(
            "{queue} does not remember the key {:?}: it was not sent within the window, or is just being sent",
            what.key
        )));
    }
    show.done(&json!({ "forgotten": true }), || {
        format!("{queue} has forgotten the key, and takes a message with it")
    });
    Ok(())
}

fn options(settings: &Settings) -> Result<QueueOptions> {
    match &settings.type_name {
        None => Ok(settings.apply(QueueOptions::new())),
        Some(_) => {
            Err(Exit::Usage.error("--type can't be changed: what is encoded stays as it is"))
        }
    }
}

fn all(moved: &Moved) -> String {
    let keys = match moved.keys {
        0 => String::new(),
        keys => format!(" and {keys} keys"),
    };
    format!("{} messages{keys}", moved.messages + moved.known)
}

fn figures(moved: &Moved) -> serde_json::Value {
    json!({
        "messages": moved.messages,
        "known": moved.known,
        "keys": moved.keys,
        "was_done": moved.was_done,
    })
}
