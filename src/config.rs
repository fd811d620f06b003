//! `Config`: flags, environment and file as one checked whole. The flag wins, then the environment, then the file, then
//! the default; every problem is named in one message.
//!
//! Names are the file's: `data_dir` at the top, `tier.age_max` in a section. The environment has them in capitals with
//! `_` for the dot and `AQUIFER_` in front. Reading is a pure function of the three sources ([`resolve`]); the shell
//! around it ([`Config::load`]) only fetches them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;
use std::path::PathBuf;

use aquifer_server::settings::ServerSettings;
use aquifer_sql::engine::QuerySettings;
use aquifer_storage::PARTITIONS_MAX;
use aquifer_storage::settings::{OBJECT_STORE_OPTIONS, ObjectStoreOptions, SettingInfo, StorageSettings};

use crate::args::ServeFlags;
use crate::failure::Failure;

const ENVIRONMENT_PREFIX: &str = "AQUIFER_";
/// The configuration file is at most this large; anything more is not one.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A commit is one frame in memory.
const COMMIT_BYTES_MAX: i128 = 1 << 30;
/// Smallest and largest segment.
const SEGMENT_BYTES_MIN: i128 = 64 << 10;
const SEGMENT_BYTES_MAX: i128 = 16 << 30;
/// They stand in every snapshot of the log, which may have four times as much.
const OFFSETS_BYTES_MAX: i128 = 1 << 30;
/// With less no query can sort or join anything, and caches hold nothing.
const MEMORY_BYTES_MIN: i128 = 16 << 20;
/// More than a machine has ports for.
const CONNECTIONS_MAX: i128 = 1 << 20;

/// What the process itself is told, beside the tables of storage and server: name, unit, reason.
const PROCESS_SETTINGS: [(&str, &str, &str); 7] = [
    ("data_dir", "path", "directory for the log and, unless told otherwise, the objects"),
    (
        "object_store",
        "URL",
        "where history goes: s3://, gs://, az://, file:/// or memory:; empty for a folder below the data directory",
    ),
    ("take_over", "true or false", "begin from the object store alone if the data directory is empty"),
    ("kafka_addr", "HOST:PORT", "where Kafka clients connect"),
    ("kafka_advertised", "HOST:PORT", "what Kafka clients are told to connect to; empty for the address listened on"),
    ("postgres_addr", "HOST:PORT", "where psql and Postgres drivers connect"),
    ("http_addr", "HOST:PORT", "where /health, /ready and /metrics answer"),
];

/// A node's configuration, checked.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Where the log lives.
    pub(crate) data_dir: PathBuf,
    /// `None`: a folder below the data directory.
    pub(crate) object_store: Option<String>,
    /// An empty data directory is made from the object store.
    pub(crate) take_over: bool,
    /// What the URL does not say of it.
    pub(crate) object_store_options: ObjectStoreOptions,
    /// `HOST:PORT`.
    pub(crate) kafka_addr: String,
    /// `HOST:PORT`; `None`: the bound address.
    pub(crate) kafka_advertised: Option<String>,
    /// `HOST:PORT`.
    pub(crate) postgres_addr: String,
    /// `HOST:PORT`.
    pub(crate) http_addr: String,
    /// Numbers of storage.
    pub(crate) storage: StorageSettings,
    /// Numbers of queries.
    pub(crate) queries: QuerySettings,
    /// Numbers of the listeners.
    pub(crate) server: ServerSettings,
    /// What looked odd but does no harm; for the log.
    pub(crate) warnings: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("./aquifer-data"),
            object_store: None,
            take_over: false,
            object_store_options: ObjectStoreOptions::default(),
            kafka_addr: "127.0.0.1:9092".to_owned(),
            kafka_advertised: None,
            postgres_addr: "127.0.0.1:5433".to_owned(),
            http_addr: "127.0.0.1:8081".to_owned(),
            storage: StorageSettings::default(),
            queries: QuerySettings::default(),
            server: ServerSettings::default(),
            warnings: Vec::new(),
        }
    }
}

/// The three sources as text, before anybody has looked at them.
#[derive(Debug, Default)]
struct Sources<'a> {
    flags: Vec<(&'static str, &'a str)>,
    environment: Vec<(String, String)>,
    /// Path and content.
    file: Option<(String, String)>,
}

impl Config {
    /// Fetches environment and file and resolves them with the flags.
    ///
    /// # Errors
    /// [`Failure::Config`] with every problem.
    pub(crate) fn load(flags: &ServeFlags) -> Result<Self, Failure> {
        let mut problems = Vec::new();
        let mut environment = Vec::new();
        for (name, value) in std::env::vars_os() {
            let Some(name) = name.to_str().filter(|name| name.starts_with(ENVIRONMENT_PREFIX)) else { continue };
            match value.to_str() {
                Some(value) => environment.push((name.to_owned(), value.to_owned())),
                None => problems.push(format!("{name} is not UTF-8")),
            }
        }
        let named_in_environment = environment.iter().find(|(name, _)| name == "AQUIFER_CONFIG");
        let path = flags.stored.config.clone().or_else(|| named_in_environment.map(|(_, path)| PathBuf::from(path)));
        let file = path.and_then(|path| {
            let name = path.display().to_string();
            match read_file(&path) {
                Ok(content) => Some((name, content)),
                Err(error) => {
                    problems.push(format!("cannot read the configuration file {name}: {error}"));
                    None
                }
            }
        });
        resolve(&Sources { flags: flags.given(), environment, file }, problems)
    }

    /// The node's part of `SHOW ALL`.
    pub(crate) fn describe(&self) -> Vec<SettingInfo> {
        let values = [
            self.data_dir.display().to_string(),
            self.object_store.clone().unwrap_or_default(),
            self.take_over.to_string(),
            self.kafka_addr.clone(),
            self.kafka_advertised.clone().unwrap_or_default(),
            self.postgres_addr.clone(),
            self.http_addr.clone(),
        ];
        let process = PROCESS_SETTINGS.into_iter().zip(values);
        let process = process.map(|((name, unit, reason), value)| SettingInfo { name, value, unit, reason });
        let process = process.chain(self.object_store_options.describe());
        let process = process.chain(self.storage.describe()).chain(self.queries.describe());
        process.chain(self.server.describe()).collect()
    }

    /// Sets one by name; the error says what is allowed.
    fn set(&mut self, name: &str, text: &str) -> Result<(), String> {
        match name {
            "data_dir" if text.is_empty() => return Err("is empty; name a directory".to_owned()),
            "data_dir" => self.data_dir = PathBuf::from(text),
            "object_store" => self.object_store = (!text.is_empty()).then(|| text.to_owned()),
            "take_over" => {
                self.take_over = text.parse().map_err(|_| format!("'{text}' is neither true nor false"))?;
            }
            "kafka_addr" => self.kafka_addr = checked_address(text)?,
            "kafka_advertised" => self.kafka_advertised = Some(checked_advertised(text)?),
            "postgres_addr" => self.postgres_addr = checked_address(text)?,
            "http_addr" => self.http_addr = checked_address(text)?,
            _ => {
                let text = text_for_unit(text, self.unit_of(name))?;
                let known = self.storage.set(name, &text).or_else(|| self.queries.set(name, &text));
                let known = known.or_else(|| self.server.set(name, &text));
                let known = known.or_else(|| self.object_store_options.set(name, &text));
                return known.unwrap_or_else(|| Err("is not a setting".to_owned()));
            }
        }
        Ok(())
    }

    fn unit_of(&self, name: &str) -> &'static str {
        self.describe().into_iter().find(|setting| setting.name == name).map_or("", |setting| setting.unit)
    }

    /// What only the whole can show.
    fn check(&self, problems: &mut Vec<String>) {
        if is_wildcard(&self.kafka_addr) && self.kafka_advertised.is_none() {
            problems.push(format!(
                "kafka_addr = {} listens everywhere, so clients must be told where: set --kafka-advertised HOST:PORT",
                self.kafka_addr
            ));
        }
        // The segment that is written and one that can go: with less the log fills once and never empties.
        let (log, segment) = (self.storage.wal_bytes_max, self.storage.wal_segment_bytes);
        if log < segment.saturating_mul(2) {
            problems.push(format!("wal.bytes_max = {log} must be at least twice wal.segment_bytes = {segment}"));
        }
        for (name, value, least, most) in self.ranges() {
            if !(least..=most).contains(&value) {
                let allowed =
                    if most == i128::MAX { format!("at least {least}") } else { format!("{least} to {most}") };
                problems.push(format!("{name} = {value} must be {allowed}"));
            }
        }
    }

    /// What each number may be where its type allows more: name, value, least, most.
    fn ranges(&self) -> [(&'static str, i128, i128, i128); 29] {
        const ANY: i128 = i128::MAX;
        let (storage, server) = (&self.storage, &self.server);
        [
            ("topic.partitions", storage.topic_partitions.into(), 1, PARTITIONS_MAX.into()),
            ("topic.retention_ms", storage.topic_retention_ms.into(), -1, ANY),
            ("topic.retention_bytes", storage.topic_retention_bytes.into(), -1, ANY),
            ("topic.local_retention_ms", storage.topic_local_retention_ms.into(), -1, ANY),
            ("topic.local_retention_bytes", storage.topic_local_retention_bytes.into(), -1, ANY),
            ("topic.max_message_bytes", storage.topic_max_message_bytes.into(), 1, ANY),
            ("topic.delete_retention_ms", storage.topic_delete_retention_ms.into(), 0, ANY),
            ("tier.age_max", storage.tier_age_max_ms.into(), -1, ANY),
            ("tier.run_bytes_max", storage.tier_run_bytes_max.into(), 1, ANY),
            ("merge.object_bytes", storage.merge_object_bytes.into(), 1, ANY),
            ("compaction.memory_bytes", storage.compaction_memory_bytes.into(), 1, ANY),
            // A frame's length has 32 bits, and own records stand beside what a commit brings.
            ("wal.commit_bytes_max", storage.wal_commit_bytes_max.into(), 1, COMMIT_BYTES_MAX),
            ("wal.segment_bytes", storage.wal_segment_bytes.into(), SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX),
            ("wal.queue_bytes_max", storage.wal_queue_bytes_max.into(), 1, ANY),
            ("batch.decompressed_bytes_max", storage.batch_decompressed_bytes_max.into(), 1, ANY),
            ("transaction.timeout_max", storage.transaction_timeout_max_ms.into(), 1, ANY),
            ("transaction.id_expiration", storage.transaction_id_expiration_ms.into(), 1, ANY),
            ("offsets.retention", storage.offsets_retention_ms.into(), -1, ANY),
            ("offsets.bytes_max", storage.offsets_bytes_max.into(), 1, OFFSETS_BYTES_MAX),
            ("object_store.attempts_max", storage.object_store_attempts_max.into(), 1, ANY),
            ("memory.limit", storage.memory_limit.into(), MEMORY_BYTES_MIN, ANY),
            ("query.heavy_max", self.queries.heavy_max as i128, 1, ANY),
            ("kafka.request_bytes_max", server.kafka_request_bytes_max as i128, 1, i32::MAX.into()),
            ("kafka.request_bytes_in_flight_max", server.kafka_request_bytes_in_flight_max as i128, 1, ANY),
            ("kafka.connections_max", server.kafka_connections_max as i128, 1, CONNECTIONS_MAX),
            ("postgres.connections_max", server.postgres_connections_max as i128, 1, CONNECTIONS_MAX),
            ("postgres.message_bytes_max", server.postgres_message_bytes_max as i128, 1, i32::MAX.into()),
            ("http.connections_max", server.http_connections_max as i128, 1, CONNECTIONS_MAX),
            ("http.request_timeout", server.http_request_timeout_ms.into(), 1, ANY),
        ]
    }
}

fn read_file(path: &std::path::Path) -> std::io::Result<String> {
    let bytes = std::fs::metadata(path)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(std::io::Error::other(format!("it has {bytes} bytes, more than {FILE_BYTES_MAX}")));
    }
    std::fs::read_to_string(path)
}

/// The file's name for the object store's URL when a section of that name says more about it: TOML has no word and
/// section of one name.
const URL_IN_SECTION: &str = "object_store.url";

/// Every name there is, in the order of `SHOW ALL`.
fn names() -> impl Iterator<Item = &'static str> {
    let process = PROCESS_SETTINGS.into_iter().map(|(name, _, _)| name);
    let process = process.chain(OBJECT_STORE_OPTIONS.iter().map(|option| option.name));
    let process = process.chain(StorageSettings::NAMES.iter().copied()).chain(QuerySettings::NAMES.iter().copied());
    process.chain(ServerSettings::NAMES.iter().copied())
}

fn environment_name(name: &str) -> String {
    format!("{ENVIRONMENT_PREFIX}{}", name.replace('.', "_").to_uppercase())
}

/// Lays the sources over the defaults, weakest first.
fn resolve(sources: &Sources<'_>, mut problems: Vec<String>) -> Result<Config, Failure> {
    let mut config = Config::default();
    // Name -> (text, where it was said). Later layers replace earlier ones, so only what is in force is checked.
    let mut told: BTreeMap<&'static str, (String, String)> = BTreeMap::new();
    if let Some((path, content)) = &sources.file {
        match content.parse::<toml::Table>() {
            Ok(table) => file_layer(path, &table, &mut told, &mut problems),
            Err(error) => problems.push(format!("{path} is not TOML: {}", error.to_string().trim())),
        }
    }
    for (variable, text) in &sources.environment {
        match names().find(|name| environment_name(name) == *variable) {
            Some(name) => drop(told.insert(name, (text.clone(), variable.clone()))),
            None if ["AQUIFER_CONFIG", "AQUIFER_COMMIT"].contains(&variable.as_str()) => {}
            // Not refused: orchestrators add variables of their own for a service called aquifer.
            None => config.warnings.push(format!("{variable} in the environment is not a setting")),
        }
    }
    for &(name, text) in &sources.flags {
        told.insert(name, (text.to_owned(), format!("--{}", name.replace('_', "-"))));
    }
    for (name, (text, place)) in told {
        if let Err(reason) = config.set(name, &text) {
            problems.push(format!("{name} ({place}): {reason}"));
        }
    }
    config.check(&mut problems);
    if problems.is_empty() { Ok(config) } else { Err(Failure::Config(told_together(&problems))) }
}

fn told_together(problems: &[String]) -> String {
    let mut message = match problems.len() {
        1 => "the configuration has a problem".to_owned(),
        count => format!("the configuration has {count} problems"),
    };
    for (index, problem) in problems.iter().enumerate() {
        let _ = write!(message, "{} {problem}", if index == 0 { ":" } else { ";" });
    }
    message
}

fn file_layer(
    path: &str,
    table: &toml::Table,
    told: &mut BTreeMap<&'static str, (String, String)>,
    problems: &mut Vec<String>,
) {
    for (key, value) in table {
        let entries: Vec<(String, &toml::Value)> = match value {
            toml::Value::Table(section) => {
                section.iter().map(|(inner, value)| (format!("{key}.{inner}"), value)).collect()
            }
            value => vec![(key.clone(), value)],
        };
        for (written, value) in entries {
            let known_as = if written == URL_IN_SECTION { "object_store" } else { written.as_str() };
            let Some(name) = names().find(|name| *name == known_as) else {
                problems.push(format!("{path} has an unknown key {written}; {}", known_beside(&written)));
                continue;
            };
            match value_text(value) {
                Some(text) => drop(told.insert(name, (text, path.to_owned()))),
                None => problems.push(format!("{name} ({path}): must be a string, a whole number, true or false")),
            }
        }
    }
}

/// What the section of an unknown key does know.
fn known_beside(written: &str) -> String {
    let section = written.split_once('.').map(|(section, _)| section);
    let beside: Vec<_> = names().filter(|name| name.split_once('.').map(|(section, _)| section) == section).collect();
    match (section, beside.as_slice()) {
        (Some(section), []) => {
            let mut sections: Vec<_> = names().filter_map(|name| Some(name.split_once('.')?.0)).collect();
            let mut seen = std::collections::BTreeSet::new();
            sections.retain(|section| seen.insert(*section));
            format!("there is no section [{section}], only {}", sections.join(", "))
        }
        (_, known) => format!("known are {}", known.join(", ")),
    }
}

fn value_text(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(word) => Some(word.to_string()),
        _ => None,
    }
}

/// A unit is allowed only where it fits: times in settings of milliseconds, `MiB` in settings of bytes.
fn text_for_unit(text: &str, unit: &str) -> Result<String, String> {
    match unit {
        "ms" => parse_ms(text).map(|number| number.to_string()),
        "bytes" => Ok(text.to_owned()),
        _ if text.contains("iB") => Err(format!("'{text}' is in bytes, write a number of {unit}")),
        _ => Ok(text.to_owned()),
    }
}

/// Reads `10 min`, `500 ms`, `1 h` or a bare number of milliseconds.
fn parse_ms(text: &str) -> Result<i64, String> {
    let refused =
        || format!("'{text}' is not a time, write for example 500 ms, 10 s, 10 min, 1 h, 7 d or a number of ms");
    let trimmed = text.trim();
    let unit_at = trimmed.find(|letter: char| letter.is_ascii_alphabetic()).unwrap_or(trimmed.len());
    let (digits, unit) = trimmed.split_at(unit_at);
    let factor = match unit {
        "" | "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(refused()),
    };
    let number: i64 = digits.trim().replace('_', "").parse().map_err(|_| refused())?;
    number.checked_mul(factor).ok_or_else(|| format!("'{text}' is too long a time"))
}

fn checked_address(text: &str) -> Result<String, String> {
    split_address(text).map(|_| text.to_owned())
}

fn checked_advertised(text: &str) -> Result<String, String> {
    match split_address(text)? {
        (_, 0) => Err(format!("'{text}' has port 0, clients need the real one")),
        _ if is_wildcard(text) => Err(format!("'{text}' is everywhere, clients need one host")),
        _ => Ok(text.to_owned()),
    }
}

fn split_address(text: &str) -> Result<(&str, u16), String> {
    let refused = || format!("'{text}' is not an address, write HOST:PORT, an IPv6 host in brackets");
    let (host, port) = text.rsplit_once(':').ok_or_else(refused)?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    if host.is_empty() || (host.contains(':') && !bracketed) {
        return Err(refused());
    }
    Ok((host, port.parse().map_err(|_| refused())?))
}

fn is_wildcard(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn message(outcome: Result<Config, Failure>) -> String {
        outcome.expect_err("should be refused").one_line()
    }

    #[test]
    fn the_flag_wins_then_the_environment_then_the_file_then_the_default() {
        let file = "data_dir = 'file'\nkafka_addr = 'file:1'\npostgres_addr = 'file:2'\n[tier]\nage_max = '1 h'";
        let config = resolve(
            &Sources {
                flags: vec![("data_dir", "flag")],
                environment: environment(&[("AQUIFER_DATA_DIR", "env"), ("AQUIFER_KAFKA_ADDR", "env:1")]),
                file: Some(("a.toml".to_owned(), file.to_owned())),
            },
            Vec::new(),
        )
        .expect("a good configuration");
        assert_eq!(config.data_dir, PathBuf::from("flag"));
        assert_eq!(config.kafka_addr, "env:1");
        assert_eq!(config.postgres_addr, "file:2");
        assert_eq!(config.http_addr, "127.0.0.1:8081");
        assert_eq!(config.storage.tier_age_max_ms, 3_600_000);
    }

    #[test]
    fn every_setting_has_a_variable() {
        let sources = Sources {
            environment: environment(&[
                ("AQUIFER_TIER_AGE_MAX", "10 min"),
                ("AQUIFER_TIER_BYTES_MIN", "4 MiB"),
                ("AQUIFER_KAFKA_REQUEST_BYTES_MAX", "1048576"),
                ("AQUIFER_TOPIC_LOCAL_RETENTION_MS", "-1"),
            ]),
            ..Sources::default()
        };
        let config = resolve(&sources, Vec::new()).expect("a good configuration");
        assert_eq!(config.storage.tier_age_max_ms, 600_000);
        assert_eq!(config.storage.tier_bytes_min, 4 << 20);
        assert_eq!(config.server.kafka_request_bytes_max, 1 << 20);
        assert_eq!(config.storage.topic_local_retention_ms, -1);
    }

    #[test]
    fn an_object_store_has_a_section_and_its_secrets_are_shown_to_nobody() {
        let file = "[object_store]\nurl = 's3://b/p'\nallow_http = true\nsecret_access_key = 'hush'\nput_price = 1";
        let sources = Sources {
            environment: environment(&[("AQUIFER_OBJECT_STORE_ENDPOINT", "http://127.0.0.1:9000")]),
            file: Some(("a.toml".to_owned(), file.to_owned())),
            ..Sources::default()
        };
        let config = resolve(&sources, Vec::new()).expect("a good configuration");
        assert_eq!(config.object_store.as_deref(), Some("s3://b/p"));
        let options = &config.object_store_options;
        assert_eq!(options.get("object_store.endpoint"), Some("http://127.0.0.1:9000"));
        assert_eq!(options.get("object_store.secret_access_key"), Some("hush"));
        assert_eq!(config.storage.object_store_put_price, 1);
        let shown = format!("{:?} {config:?}", config.describe());
        assert!(shown.contains("s3://b/p") && !shown.contains("hush"), "{shown}");
        let file = "[object_store]\nallow_http = 'hush'\nsecret_access_key = ['hush']";
        let sources = Sources { file: Some(("a.toml".to_owned(), file.to_owned())), ..Sources::default() };
        let message = message(resolve(&sources, Vec::new()));
        assert!(message.contains("'hush' is neither true nor false"), "{message}");
        assert_eq!(message.matches("hush").count(), 1, "{message}");
    }

    #[test]
    fn all_problems_come_in_one_message() {
        let file = "colour = 'blue'\n[tier]\nage_max = 'soon'\nage_min = 1\n[teir]\nx = 1\n[topic]\npartitions = 0";
        let sources = Sources {
            flags: vec![("http_addr", "8081")],
            environment: Vec::new(),
            file: Some(("a.toml".to_owned(), file.to_owned())),
        };
        let message = message(resolve(&sources, Vec::new()));
        for part in [
            "6 problems",
            "a.toml has an unknown key colour; known are data_dir, object_store,",
            "a.toml has an unknown key tier.age_min; known are tier.bytes_min, tier.age_max,",
            "a.toml has an unknown key teir.x; there is no section [teir], only object_store, topic, tier,",
            "tier.age_max (a.toml): 'soon' is not a time, write for example 500 ms",
            "http_addr (--http-addr): '8081' is not an address, write HOST:PORT",
            "topic.partitions = 0 must be 1 to 10000",
        ] {
            assert!(message.contains(part), "no {part:?} in {message}");
        }
        assert!(!message.contains('\n'));
    }

    #[test]
    fn numbers_that_no_node_can_work_with_are_refused_with_what_is_allowed() {
        let absurd = [
            ("AQUIFER_TOPIC_PARTITIONS", "2000000000", "topic.partitions = 2000000000 must be 1 to 10000"),
            ("AQUIFER_MEMORY_LIMIT", "1", "memory.limit = 1 must be at least 16777216"),
            (
                "AQUIFER_WAL_BYTES_MAX",
                "1 KiB",
                "wal.bytes_max = 1024 must be at least twice wal.segment_bytes = 134217728",
            ),
            ("AQUIFER_WAL_COMMIT_BYTES_MAX", "4 GiB", "wal.commit_bytes_max = 4294967296 must be 1 to 1073741824"),
            ("AQUIFER_OBJECT_STORE_ATTEMPTS_MAX", "0", "object_store.attempts_max = 0 must be at least 1"),
            ("AQUIFER_OFFSETS_RETENTION", "-2", "offsets.retention = -2 must be at least -1"),
            ("AQUIFER_HTTP_CONNECTIONS_MAX", "0", "http.connections_max = 0 must be 1 to 1048576"),
        ];
        for (variable, value, expected) in absurd {
            let sources = Sources { environment: environment(&[(variable, value)]), ..Sources::default() };
            let message = message(resolve(&sources, Vec::new()));
            assert!(message.contains(expected), "no {expected:?} in {message}");
        }
        let ranges = Config::default().ranges();
        for (name, value, least, most) in ranges {
            assert!(names().any(|known| known == name) && (least..=most).contains(&value), "{name} = {value}");
        }
    }

    #[test]
    fn a_wildcard_needs_an_advertised_address_and_the_advertised_one_a_port() {
        for wildcard in ["0.0.0.0:9092", "[::]:9092"] {
            let sources = Sources { flags: vec![("kafka_addr", wildcard)], ..Sources::default() };
            assert!(message(resolve(&sources, Vec::new())).contains("--kafka-advertised"));
            let flags = vec![("kafka_addr", wildcard), ("kafka_advertised", "db.example:9092")];
            assert!(resolve(&Sources { flags, ..Sources::default() }, Vec::new()).is_ok());
        }
        let flags = vec![("kafka_advertised", "db.example:0")];
        assert!(message(resolve(&Sources { flags, ..Sources::default() }, Vec::new())).contains("port 0"));
    }

    #[test]
    fn a_foreign_variable_is_a_warning_and_a_wrong_unit_an_error() {
        let sources =
            Sources { environment: environment(&[("AQUIFER_SERVICE_HOST", "10.0.0.1")]), ..Sources::default() };
        let config = resolve(&sources, Vec::new()).expect("no harm");
        assert_eq!(config.warnings, ["AQUIFER_SERVICE_HOST in the environment is not a setting"]);
        for (name, value) in [("AQUIFER_TIER_AGE_MAX", "4 MiB"), ("AQUIFER_TOPIC_PARTITIONS", "4 KiB")] {
            let sources = Sources { environment: environment(&[(name, value)]), ..Sources::default() };
            assert!(message(resolve(&sources, Vec::new())).contains(name));
        }
    }

    #[test]
    fn times_are_read_with_their_units() {
        let read = [("500 ms", 500), ("2s", 2_000), ("10 min", 600_000), ("1 h", 3_600_000), ("7 d", 604_800_000)];
        for (text, expected) in read.into_iter().chain([("1_000", 1_000), ("-1", -1), (" 5 ", 5)]) {
            assert_eq!(parse_ms(text), Ok(expected), "{text}");
        }
        for text in ["", "min", "10 minutes", "1.5 h", "9223372036854775807 d"] {
            assert!(parse_ms(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_name_is_described_once() {
        let described: Vec<_> = Config::default().describe().into_iter().map(|setting| setting.name).collect();
        assert_eq!(described, names().collect::<Vec<_>>());
        let variables: std::collections::BTreeSet<_> = names().map(environment_name).collect();
        assert_eq!(variables.len(), described.len(), "two settings share a variable");
    }
}
