//! `create`: creates a queue with the given settings.

use anyhow::Result;
use ipc_queue::QueueOptions;
use ipc_queue::transport::OpenMode;
use serde_json::json;

use crate::address;
use crate::cli;
use crate::settings;
use crate::show::Show;

pub fn create(what: &cli::Create, show: &Show) -> Result<()> {
    what.settings.check_effect()?;
    let address = address::shared(&what.queue)?.to_string();
    let options = what.settings.apply(QueueOptions::new());
    let queue = options.mode(OpenMode::Create).open_bytes(&address)?;
    let created =
        json!({ "created": what.queue, "settings": settings::value(queue.transport().settings()) });
    show.done(&created, || {
        let settings = queue.transport().settings();
        let keys = settings::keys_in_words(settings)
            .map_or_else(String::new, |keys| format!("; keys: {keys}"));
        let capacity = settings.capacity;
        format!("{} is created, for {capacity} messages{keys}", what.queue)
    });
    Ok(())
}
