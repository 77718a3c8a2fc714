//! Key-value buckets, created here: the client's own creation makes requests that servers 2.9 can't
//! answer.

use std::time::Duration;

use async_nats::jetstream::kv::Store;
use async_nats::jetstream::stream::{Config, DiscardPolicy};

use crate::address::NatsAddress;
use crate::connection::Connection;

/// Opens the bucket with that name, or creates it as `address` says. Its values are forgotten after
/// `keep`; zero: never.
pub(crate) async fn open(
    connection: &Connection,
    bucket: &str,
    address: &NatsAddress,
    keep: Duration,
) -> Result<Store, String> {
    let jetstream = &connection.jetstream;
    let known = jetstream.get_key_value(bucket).await;
    if let Ok(store) = known {
        return Ok(store);
    }
    let config = Config {
        name: format!("KV_{bucket}"),
        subjects: vec![format!("$KV.{bucket}.>")],
        max_messages_per_subject: 1,
        max_age: keep,
        storage: address.storage(),
        num_replicas: address.replicas,
        discard: DiscardPolicy::New,
        allow_rollup: true,
        deny_delete: true,
        // Only the leader may answer: the data of other servers may be old.
        allow_direct: false,
        ..Config::default()
    };
    // If another process created it meanwhile, it exists.
    let made = jetstream.create_stream(config).await;
    let store = jetstream.get_key_value(bucket).await;
    store.map_err(|error| match made {
        Err(why) => why.to_string(),
        Ok(_) => error.to_string(),
    })
}
