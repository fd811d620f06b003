//! One line per setting gives its name, type, default, unit and reason; the struct, the defaults, the parser and the
//! rows of `SHOW ALL` all come from that line.
//!
//! Settings are numbers and words; components (clock, object store) are objects and are handed over separately.
//! The macro serves the crates above too: each keeps its own table, the root merges them.

mod object_store;

pub use object_store::{OBJECT_STORE_OPTIONS, ObjectStoreOption, ObjectStoreOptions};

/// What `SHOW ALL` says about one setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingInfo {
    /// Dotted name, `section.key`, as in the TOML file; the environment has it as `AQUIFER_SECTION_KEY`.
    pub name: &'static str,
    /// The value in force, as text.
    pub value: String,
    /// The unit of the number, or the kind of word.
    pub unit: &'static str,
    /// Why one would change it.
    pub reason: &'static str,
}

/// A value that can be read from the text of a flag, a variable or a file.
pub trait SettingValue: Sized {
    /// Reads the text; the error says what is allowed.
    fn parse_setting(text: &str) -> Result<Self, String>;
    /// Writes it back for `SHOW`.
    fn show_setting(&self) -> String;
}

macro_rules! number_setting {
    ($($kind:ty),*) => {$(
        impl SettingValue for $kind {
            fn parse_setting(text: &str) -> Result<Self, String> {
                let (digits, factor) = split_unit(text.trim());
                let number: $kind = digits.trim().replace('_', "").parse().map_err(|_| format!("'{text}' is not a number"))?;
                number.checked_mul(<$kind>::try_from(factor).map_err(|_| format!("'{text}' is too large"))?)
                    .ok_or_else(|| format!("'{text}' is too large"))
            }
            fn show_setting(&self) -> String {
                self.to_string()
            }
        }
    )*};
}

/// Splits `16 MiB` into the digits and the factor of the unit; a bare number has factor 1.
fn split_unit(text: &str) -> (&str, u64) {
    const UNITS: [(&str, u64); 4] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];
    for (unit, factor) in UNITS {
        if let Some(digits) = text.strip_suffix(unit) {
            return (digits, factor);
        }
    }
    (text, 1)
}

number_setting!(i32, i64, u32, u64, usize);

impl SettingValue for bool {
    fn parse_setting(text: &str) -> Result<Self, String> {
        match text.trim().to_ascii_lowercase().as_str() {
            "true" | "on" => Ok(true),
            "false" | "off" => Ok(false),
            _ => Err(format!("'{text}' is neither true nor false")),
        }
    }
    fn show_setting(&self) -> String {
        self.to_string()
    }
}

impl SettingValue for String {
    fn parse_setting(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
    fn show_setting(&self) -> String {
        self.clone()
    }
}

/// Declares a struct of settings. A line is `field: type = default, "section.key", "unit", "reason";`.
#[macro_export]
macro_rules! settings {
    ($(#[$meta:meta])* pub struct $name:ident { $($field:ident: $kind:ty = $default:expr, $key:literal, $unit:literal, $reason:literal;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug)]
        pub struct $name {
            $(#[doc = $reason] #[doc = concat!("\n\nSetting `", $key, "`, in ", $unit, ".")] pub $field: $kind,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl $name {
            /// Every name this table knows, in its order.
            pub const NAMES: &'static [&'static str] = &[$($key),*];

            /// Sets one by its dotted name. `None` if the name is not of this table; the error says what is allowed.
            pub fn set(&mut self, name: &str, text: &str) -> Option<Result<(), String>> {
                match name {
                    $($key => Some(<$kind as $crate::settings::SettingValue>::parse_setting(text).map(|value| self.$field = value)),)*
                    _ => None,
                }
            }

            /// The rows of `SHOW ALL`.
            #[must_use]
            pub fn describe(&self) -> Vec<$crate::settings::SettingInfo> {
                vec![$($crate::settings::SettingInfo {
                    name: $key,
                    value: <$kind as $crate::settings::SettingValue>::show_setting(&self.$field),
                    unit: $unit,
                    reason: $reason,
                },)*]
            }
        }
    };
}

settings! {
    /// What the storage engine can be told.
    pub struct StorageSettings {
        topic_partitions: i32 = 3, "topic.partitions", "partitions", "partitions of a topic made without saying how many";
        topic_auto_create: bool = true, "topic.auto_create", "switch", "whether asking for a topic's metadata makes it, where the client allows that";
        topic_retention_ms: i64 = -1, "topic.retention_ms", "ms", "age at which records may go; -1 keeps them for ever";
        topic_retention_bytes: i64 = -1, "topic.retention_bytes", "bytes", "size of a partition, hot and cold, beyond which its oldest records may go; -1 is no limit";
        topic_local_retention_ms: i64 = 3_600_000, "topic.local_retention_ms", "ms", "how long tiered records stay in the local log too, unless it is fuller than half of wal.bytes_max";
        topic_local_retention_bytes: i64 = -1, "topic.local_retention_bytes", "bytes", "bytes of a partition's tiered records that stay in the local log too; -1 is no limit";
        topic_max_message_bytes: u64 = 8 << 20, "topic.max_message_bytes", "bytes", "largest batch a topic takes, unless wal.commit_bytes_max is smaller";
        topic_delete_retention_ms: i64 = 86_400_000, "topic.delete_retention_ms", "ms", "how long compaction keeps a tombstone";
        tier_bytes_min: u64 = 16 << 20, "tier.bytes_min", "bytes", "untiered bytes of a partition that make it due for tiering";
        tier_age_max_ms: i64 = 600_000, "tier.age_max", "ms", "age of a partition's oldest untiered record that makes it due for tiering";
        checkpoint_interval_ms: u64 = 600_000, "checkpoint.interval", "ms", "how often everything stable is tiered and what a node needs to begin from the object store alone is put there; 0: on CHECKPOINT only";
        sweep_grace_ms: u64 = 900_000, "sweep.grace", "ms", "how long files that no manifest needs any more stay in the object store";
        tier_run_bytes_max: u64 = 128 << 20, "tier.run_bytes_max", "bytes", "log bytes one tiering run takes into memory at the most";
        merge_object_bytes: u64 = 128 << 20, "merge.object_bytes", "bytes", "size that merging aims at, less if that is more than 1/24 of memory.limit; objects of half of it stay as they are";
        compaction_memory_bytes: u64 = 64 << 20, "compaction.memory_bytes", "bytes", "memory for keys and marks while a topic is compacted; more keys take several passes";
        housekeeping_interval_ms: u64 = 60_000, "housekeeping.interval", "ms", "how often retention, compaction, merging and sweeping are looked at; 0: on VACUUM only";
        wal_commit_bytes_max: u64 = 8 << 20, "wal.commit_bytes_max", "bytes", "largest atomic commit";
        wal_sync_interval_max_ms: u64 = 10, "wal.sync_interval_max", "ms", "longest time acks=1 bytes wait for their sync";
        wal_bytes_max: u64 = 64 << 30, "wal.bytes_max", "bytes", "size of the log at which writes are refused";
        wal_reserve_bytes: u64 = 16 << 20, "wal.reserve_bytes", "bytes", "disk kept free for the catalog, markers and deletions";
        wal_segment_bytes: u64 = 128 << 20, "wal.segment_bytes", "bytes", "size of a segment when it is preallocated";
        wal_queue_bytes_max: u64 = 64 << 20, "wal.queue_bytes_max", "bytes", "commits waiting for the writer; more wait outside";
        batch_decompressed_bytes_max: u64 = 64 << 20, "batch.decompressed_bytes_max", "bytes", "largest batch after decompression; guards against zip bombs";
        transaction_timeout_max_ms: i32 = 900_000, "transaction.timeout_max", "ms", "longest timeout a transactional producer may ask for; the node aborts at the timeout";
        transaction_id_expiration_ms: i64 = 604_800_000, "transaction.id_expiration", "ms", "idle time after which a transactional id without an open transaction is forgotten";
        offsets_retention_ms: i64 = 604_800_000, "offsets.retention", "ms", "how long offsets of a consumer group without members are kept after its last commit, looked at every housekeeping.interval; -1 keeps them for ever";
        offsets_bytes_max: u64 = 128 << 20, "offsets.bytes_max", "bytes", "offsets of all consumer groups with their metadata; commits that would make them more are refused";
        object_store_attempts_max: u32 = 5, "object_store.attempts_max", "attempts", "how often one request to the object store is tried, in all";
        object_store_attempt_time_max_ms: u64 = 10_000, "object_store.attempt_time_max", "ms", "longest one attempt may take; 1 s more per MiB moved";
        object_store_retry_time_max_ms: u64 = 25_000, "object_store.retry_time_max", "ms", "longest all attempts of one request may take together; 1 s more per MiB moved";
        object_store_get_price: u64 = 400, "object_store.get_price", "micro-dollars", "price of 1000 GET or HEAD requests, for the cost estimate";
        object_store_put_price: u64 = 5_000, "object_store.put_price", "micro-dollars", "price of 1000 PUT requests, for the cost estimate";
        object_store_list_price: u64 = 5_000, "object_store.list_price", "micro-dollars", "price of 1000 LIST requests, for the cost estimate";
        object_store_delete_price: u64 = 0, "object_store.delete_price", "micro-dollars", "price of 1000 DELETE requests, for the cost estimate";
        cache_bytes_max: u64 = 1 << 30, "cache.bytes_max", "bytes", "disk for ranges of objects read lately; 0 turns it off, a folder as object store needs none";
        cache_hot_bytes_max: u64 = 512 << 20, "cache.hot_bytes_max", "bytes", "memory for rows of the log that queries have decoded, less if that is more than 1/8 of memory.limit; 0 turns it off";
        memory_limit: u64 = 4 << 30, "memory.limit", "bytes", "memory queries and caches may take together";
    }
}

/// The setting's name, by which a refusal is told from others.
pub const OFFSETS_BYTES_MAX: &str = "offsets.bytes_max";

/// Memory for footers of objects, at the most.
const FOOTERS_BYTES_MAX: u64 = 256 << 20;

/// Memory for decoded row groups that consumers read piece by piece, at the most.
const ROW_GROUPS_BYTES_MAX: u64 = 256 << 20;

/// Memory for footers of objects: a share of `memory.limit`.
pub(crate) fn footers_bytes_max(memory_limit: u64) -> u64 {
    (memory_limit / 64).min(FOOTERS_BYTES_MAX)
}

/// Memory for decoded row groups: a share of `memory.limit`.
pub(crate) fn row_groups_bytes_max(memory_limit: u64) -> u64 {
    (memory_limit / 16).min(ROW_GROUPS_BYTES_MAX)
}

/// Memory for chunks of manifests: a share of `memory.limit`.
pub(crate) fn chunks_bytes_max(memory_limit: u64) -> u64 {
    memory_limit / 32
}

/// Memory for what housekeeping remembers of chunks: a share of `memory.limit`.
pub(crate) fn upkeep_bytes_max(memory_limit: u64) -> u64 {
    memory_limit / 256
}

/// Bytes of an object that merging or compaction makes, which is in memory until it is put: a share of `memory.limit`.
/// What would be larger becomes several objects.
pub(crate) fn rewrite_bytes_max(memory_limit: u64) -> u64 {
    memory_limit / 16
}

impl StorageSettings {
    /// What merging aims at: `merge.object_bytes`, or less, so that even the largest merge, half as much again, is not
    /// more than [`rewrite_bytes_max`].
    pub(crate) fn merged_object_bytes(&self) -> u64 {
        self.merge_object_bytes.min(rewrite_bytes_max(self.memory_limit) / 3 * 2).max(1)
    }

    /// Memory for decoded rows of the log: `cache.hot_bytes_max`, but no more than a share of `memory.limit`.
    pub(crate) fn hot_rows_bytes_max(&self) -> u64 {
        self.cache_hot_bytes_max.min(self.memory_limit / 8)
    }

    /// What `memory.limit` leaves for queries beside the caches of storage.
    #[must_use]
    pub fn query_memory_bytes(&self) -> u64 {
        let limit = self.memory_limit;
        let caches = footers_bytes_max(limit) + row_groups_bytes_max(limit) + chunks_bytes_max(limit);
        limit - caches - upkeep_bytes_max(limit) - self.hot_rows_bytes_max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_and_caches_share_the_memory_limit() {
        for memory_limit in [1, 1 << 20, 4 << 30, u64::MAX] {
            let settings = StorageSettings { memory_limit, ..StorageSettings::default() };
            let caches = memory_limit - settings.query_memory_bytes();
            assert!(caches <= memory_limit / 4, "{caches} of {memory_limit}");
        }
    }

    #[test]
    fn merging_aims_at_what_fits_into_memory() {
        let aim = |memory_limit| StorageSettings { memory_limit, ..StorageSettings::default() }.merged_object_bytes();
        assert_eq!((aim(4 << 30), aim(1 << 30), aim(1)), (128 << 20, (64 << 20) / 3 * 2, 1));
    }

    #[test]
    fn a_setting_takes_a_unit_and_refuses_what_is_no_number() {
        let mut settings = StorageSettings::default();
        assert_eq!(settings.set("tier.bytes_min", "4 MiB"), Some(Ok(())));
        assert_eq!(settings.tier_bytes_min, 4 << 20);
        assert_eq!(settings.set("tier.bytes_min", "many"), Some(Err("'many' is not a number".to_owned())));
        assert_eq!(settings.set("topic.auto_create", "Off"), Some(Ok(())));
        assert!(!settings.topic_auto_create);
        let refused = settings.set("topic.auto_create", "2");
        assert_eq!(refused, Some(Err("'2' is neither true nor false".to_owned())));
        assert_eq!(settings.set("no.such", "1"), None);
        assert_eq!(settings.describe().len(), StorageSettings::NAMES.len());
    }
}
