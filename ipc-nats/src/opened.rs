//! The queues that this process has open, and the tasks that run for each.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::StreamExt;

use crate::connection::Connection;
use crate::directory::{self, Directory, Entry};
use crate::lease_keeper;
use crate::runtime::spawn;
use crate::shared::{Life, Shared};

/// Keyed by the queue's number and the connection's address.
type Opened = HashMap<(u64, usize), Weak<Shared>>;

static OPENED: LazyLock<Mutex<Opened>> = LazyLock::new(Mutex::default);

fn opened() -> MutexGuard<'static, Opened> {
    OPENED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// This process's openings of the queue with this number, over any connection.
pub(crate) fn find(id: u64) -> Vec<Arc<Shared>> {
    let opened = opened();
    let of_it = opened.iter().filter(|((queue, _), _)| *queue == id);
    of_it.filter_map(|(_, shared)| shared.upgrade()).collect()
}

/// The queue of this entry, as opened by this process.
pub(crate) fn open(
    connection: &Arc<Connection>,
    directory: &Directory,
    name: &str,
    entry: Entry,
    revision: u64,
) -> Arc<Shared> {
    let place = (entry.id, Arc::as_ptr(connection).addr());
    let mut opened = opened();
    if let Some(shared) = opened.get(&place).and_then(Weak::upgrade)
        && !shared.connection.is_forked()
    {
        shared.learn(Some(&(entry, revision)));
        return shared;
    }
    let shared = Arc::new(Shared::new(connection, directory, name, entry, revision));
    opened.retain(|_, known| known.strong_count() > 0);
    opened.insert(place, Arc::downgrade(&shared));
    drop(opened);
    spawn(lease_keeper::keep(
        Arc::downgrade(&shared),
        Arc::clone(&shared.changed),
    ));
    spawn(watch(Arc::downgrade(&shared)));
    shared
}

/// Follows the directory's entry, until this process no longer has the queue open.
async fn watch(shared: Weak<Shared>) {
    const PAUSE: Duration = Duration::from_millis(200);
    loop {
        let Some(queue) = shared.upgrade() else {
            return;
        };
        if queue.life() == Life::Removed {
            return;
        }
        let watched = queue.directory.watch(&queue.name).await;
        drop(queue);
        if let Ok(mut watch) = watched {
            while let Some(next) = next_or_gone(&shared, &mut watch).await {
                let Some(queue) = shared.upgrade() else {
                    return;
                };
                match next {
                    Ok(entry) => queue.learn(directory::seen(&entry).as_ref()),
                    Err(_) => break,
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

type Seen = <async_nats::jetstream::kv::Watch as futures_util::Stream>::Item;

async fn next_or_gone(
    shared: &Weak<Shared>,
    watch: &mut async_nats::jetstream::kv::Watch,
) -> Option<Seen> {
    const LOOKS_EVERY: Duration = Duration::from_secs(1);
    const QUIET: u32 = 3;
    let mut quiet: u32 = 0;
    loop {
        quiet = quiet.wrapping_add(1);
        match tokio::time::timeout(LOOKS_EVERY, watch.next()).await {
            Ok(next) => return next,
            // The connection that reports changes may have been to a server that died. The client
            // takes long to detect that.
            Err(_) if quiet.is_multiple_of(QUIET) => shared.upgrade()?.look_up().await,
            Err(_) if shared.strong_count() == 0 => return None,
            Err(_) => {}
        }
    }
}
