//! What topics' configurations ask of a commit's batches, done before the commit is queued: keys where the latest of each
//! key is kept, the topic's codec, its largest batch.
//!
//! The callers' threads do it, for it decompresses; the writer does nothing but put the append time in. A configuration
//! that changes between this and the writer's verdict holds for the next commit.

use parking_lot::RwLock;

use crate::commit::{Append, Commit, TopicChange};
use crate::error::{Error, Result};
use crate::ids::TopicId;
use crate::log::published::Published;
use crate::record::batch::BatchLimits;
use crate::settings::StorageSettings;
use crate::topic_config::{CompressionType, ResolvedTopicConfig};

/// Makes a commit's batches what their topics ask for. A topic that is not known is the writer's to refuse.
///
/// # Errors
/// [`Error::KeylessRecords`], [`Error::TooLarge`], [`Error::CorruptBatch`].
pub(crate) fn admit(published: &RwLock<Published>, settings: &StorageSettings, commit: &mut Commit) -> Result<()> {
    let limits = BatchLimits {
        decompressed_bytes_max: usize::try_from(settings.batch_decompressed_bytes_max).unwrap_or(usize::MAX),
    };
    let mut last: Option<(TopicId, ResolvedTopicConfig)> = None;
    for append in &mut commit.appends {
        let config = match last.filter(|(topic, _)| *topic == append.topic) {
            Some((_, config)) => config,
            None => match config_of(published, settings, &commit.topics, append.topic) {
                Some(config) => config,
                None => continue,
            },
        };
        last = Some((append.topic, config));
        check_keys(published, append, config, limits)?;
        if let CompressionType::Codec(codec) = config.compression_type {
            append.batch = append.batch.clone().recompressed(codec, limits)?;
        }
        let bytes = append.batch.bytes().len() as u64;
        // What is larger than a commit may be is refused by that name, by the writer.
        if bytes > config.max_message_bytes && config.max_message_bytes < settings.wal_commit_bytes_max {
            let (what, setting, limit_bytes) = ("batch", "max.message.bytes", config.max_message_bytes);
            return Err(Error::TooLarge { what, bytes, setting, limit_bytes });
        }
    }
    Ok(())
}

fn config_of(
    published: &RwLock<Published>,
    settings: &StorageSettings,
    changes: &[TopicChange],
    topic: TopicId,
) -> Option<ResolvedTopicConfig> {
    let made = changes.iter().find_map(|change| match change {
        TopicChange::Create { id, config, .. } if *id == topic => Some(config.resolve(settings)),
        _ => None,
    });
    made.or_else(|| published.read().own.topics.get(&topic).map(|topic| topic.config.resolve(settings)))
}

fn check_keys(
    published: &RwLock<Published>,
    append: &Append,
    config: ResolvedTopicConfig,
    limits: BatchLimits,
) -> Result<()> {
    if !config.cleanup_policy.compacts() || append.batch.header().is_control() {
        return Ok(());
    }
    let indexes = append.batch.keyless_records(limits)?;
    if indexes.is_empty() {
        return Ok(());
    }
    let known = published.read().own.topics.get(&append.topic).map(|topic| topic.name.clone());
    Err(Error::KeylessRecords { topic: known.unwrap_or_else(|| append.topic.to_string()), indexes })
}
