//! Payloads above the server's limit: kept in the object store, one bucket for each queue.

use async_nats::jetstream::object_store;
use bytes::Bytes;
use tokio::io::AsyncReadExt;

use crate::address::storage;
use crate::content::Content;
use crate::record::Record;
use crate::request_error::RequestError;
use crate::shared::Shared;

/// The bytes of a message reserved for records and subjects.
const HEADROOM: usize = 8 * 1024;

impl Shared {
    /// The payload's length, if it is too large for a message that also has the headers.
    pub(crate) fn needs_object(&self, content: &Content) -> Option<u64> {
        let most = self
            .connection
            .client
            .max_payload()
            .saturating_sub(HEADROOM);
        (content.most_bytes() > most).then_some(content.payload.len() as u64)
    }

    /// Stores the payload if the record says so, and returns what is left to go with the message.
    pub(crate) async fn store(
        &self,
        _: usize,
        key: &str,
        record: &Record,
        content: Content,
    ) -> Result<Content, RequestError> {
        if record.object.is_none() {
            return Ok(content);
        }
        let bucket = self.bucket().await?;
        let mut bytes = &content.payload[..];
        let stored = bucket.put(key, &mut bytes).await;
        stored.map_err(|error| self.object_error(&error))?;
        Ok(Content::new(content.headers, Bytes::new()))
    }

    /// Fetches the payload from where it is stored.
    pub(crate) async fn fetch(
        &self,
        _: usize,
        key: &str,
        record: &Record,
        payload: &Bytes,
    ) -> Result<Vec<u8>, RequestError> {
        let Some(len) = record.object else {
            return Ok(payload.to_vec());
        };
        let bucket = self.bucket().await?;
        let object = bucket.get(key).await;
        let mut object = object.map_err(|error| self.object_error(&error))?;
        let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or_default());
        let read = object.read_to_end(&mut bytes).await;
        read.map_err(|error| self.object_error(&error))?;
        Ok(bytes)
    }

    /// Deletes the stored object of a message that is gone.
    pub(crate) async fn drop_object(&self, _: usize, key: &str, record: &Record) {
        if record.object.is_some()
            && let Ok(bucket) = self.bucket().await
        {
            let _ = bucket.delete(key).await;
        }
    }

    async fn bucket(&self) -> Result<object_store::ObjectStore, RequestError> {
        let name = bucket_name(self.entry.id);
        let jetstream = &self.connection.jetstream;
        if let Ok(bucket) = jetstream.get_object_store(&name).await {
            return Ok(bucket);
        }
        let config = object_store::Config {
            bucket: name,
            description: Some(format!("large payloads of {}", self.name)),
            num_replicas: self.entry.replicas,
            storage: storage(self.entry.in_memory),
            ..object_store::Config::default()
        };
        let made = jetstream.create_object_store(config).await;
        made.map_err(|error| self.object_error(&error))
    }

    fn object_error(&self, error: &dyn std::error::Error) -> RequestError {
        let servers = &self.connection.servers;
        RequestError::Server(format!(
            "the NATS server at {servers} has error with a large payload: {error}"
        ))
    }
}

pub(crate) fn bucket_name(id: u64) -> String {
    format!("ipc-{id:016x}")
}
