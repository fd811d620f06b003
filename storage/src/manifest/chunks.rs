//! Chunks as they are read and written: each once, then from a cache that is bounded by bytes.
//!
//! A chunk never changes under its name, so the cache needs no invalidation; and whoever holds an old root reads the old
//! chunks, which the sweep leaves alone as long as somebody does.

use std::sync::Arc;

use object_store::PutPayload;

use crate::error::{Error, Result};
use crate::ids::TopicId;
use crate::manifest::codec::{self, Content, METADATA_BYTES_MAX};
use crate::manifest::invariant;
use crate::manifest::model::{ChunkName, ChunkRef, Entry, TopicManifest};
use crate::object::bucket::Bucket;
use crate::object::cache::Cache;
use crate::object::paths;
use crate::view::CacheInfo;

/// See the top of this file.
#[derive(Debug)]
pub(crate) struct Chunks {
    bucket: Bucket,
    known: Cache<ChunkName, Arc<Content>>,
}

impl Chunks {
    /// Of this bucket, at most so many bytes of them in memory.
    pub(crate) fn new(bucket: Bucket, bytes_max: usize) -> Self {
        Self { bucket, known: Cache::new(bytes_max) }
    }

    /// How the cache does.
    pub(crate) fn info(&self) -> CacheInfo {
        self.known.info("manifest_chunks")
    }

    /// What a chunk of this manifest holds, checked.
    ///
    /// # Errors
    /// [`Error::Corrupt`] naming it if it is damaged, gone or not what the manifest knows; [`Error::ObjectStore`].
    pub(crate) async fn read(&self, manifest: &TopicManifest, reference: &ChunkRef) -> Result<Arc<Content>> {
        if let Some(known) = self.known.get(&reference.name) {
            return Ok(known);
        }
        let place = paths::chunk(manifest.topic, reference.name.epoch, reference.name.id).to_string();
        let Some(content) = self.find(manifest.topic, reference.name).await? else {
            return Err(Error::Corrupt { place, reason: "a manifest names it but it is gone".to_owned() });
        };
        codec::check_chunk(reference, &content, &place)?;
        invariant::chunk_is_sound(manifest, &content, &place)?;
        let content = Arc::new(content);
        self.keep(reference.name, &content);
        Ok(content)
    }

    /// What a chunk holds, unchecked; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::ObjectStore`].
    pub(crate) async fn find(&self, topic: TopicId, name: ChunkName) -> Result<Option<Content>> {
        let path = paths::chunk(topic, name.epoch, name.id);
        let bytes = self.bucket.get(&path, METADATA_BYTES_MAX).await?;
        bytes.map(|bytes| codec::decode_chunk(topic, &bytes, path.as_ref())).transpose()
    }

    /// Puts a chunk under a name nobody has; gives its size.
    ///
    /// # Errors
    /// [`Error::ObjectStore`]; [`Error::Format`], which is a bug.
    pub(crate) async fn write(&self, topic: TopicId, name: ChunkName, content: Content) -> Result<u64> {
        let bytes = codec::encode_chunk(topic, &content)?;
        let stored_bytes = bytes.len() as u64;
        // The name is fresh, so a taken one is an earlier attempt of this very put.
        self.bucket.put_new(&paths::chunk(topic, name.epoch, name.id), PutPayload::from(bytes)).await?;
        metrics::counter!("aquifer_manifest_chunk_bytes_total").increment(stored_bytes);
        self.keep(name, &Arc::new(content));
        Ok(stored_bytes)
    }

    fn keep(&self, name: ChunkName, content: &Arc<Content>) {
        let bytes = match &**content {
            Content::Entries(entries) => entries.iter().map(|entry| size_of::<Entry>() + 2 * entry.weight()).sum(),
            Content::Chunks(chunks) => chunks.iter().map(|chunk| size_of::<ChunkRef>() + 2 * chunk.weight()).sum(),
            // Read once.
            Content::Gone(_) => return,
        };
        self.known.insert(name, Arc::clone(content), bytes);
    }
}
