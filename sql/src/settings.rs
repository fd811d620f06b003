//! Settings of one session: names, defaults, what is allowed, what the client must be told of.
//!
//! Settings drivers send as a matter of course are known here; where only one value can be kept, any other is refused
//! rather than taken and ignored.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Result, SqlState};

/// What a setting takes.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Any text.
    Text,
    /// One of these, in whatever case.
    OneOf(&'static [&'static str]),
    /// Milliseconds, also `5s`, `1min`; 0 is never.
    Milliseconds,
    /// A whole number in this range.
    Number(i64, i64),
    /// A time zone.
    Zone,
    /// Names of schemas.
    SchemaList,
    /// Told, not set.
    ReadOnly,
}

struct Known {
    name: &'static str,
    default: &'static str,
    kind: Kind,
    unit: &'static str,
    reason: &'static str,
    reported: bool,
}

const fn known(
    name: &'static str,
    default: &'static str,
    kind: Kind,
    unit: &'static str,
    reason: &'static str,
) -> Known {
    Known { name, default, kind, unit, reason, reported: false }
}

const fn reported(known: Known) -> Known {
    Known { reported: true, ..known }
}

use Kind::{Milliseconds, Number, OneOf, ReadOnly, SchemaList, Text, Zone};

const ON: Kind = OneOf(&["on", "true", "yes", "1"]);
const OFF: Kind = OneOf(&["off", "false", "no", "0"]);

const KNOWN: &[Known] = &[
    known(
        "aquifer.replay_from",
        "",
        Text,
        "text",
        "where SELECT … EMIT CHANGES begins, if auto_offset_reset is not to say",
    ),
    reported(known("application_name", "", Text, "text", "who the client says it is")),
    known("auto_offset_reset", "latest", OneOf(&["latest", "earliest"]), "word", "where SELECT … EMIT CHANGES begins"),
    known("bytea_output", "hex", OneOf(&["hex"]), "word", "how bytes are shown as text"),
    reported(known("client_encoding", "UTF8", OneOf(&["UTF8", "UTF-8", "unicode"]), "word", "encoding of all text")),
    known(
        "client_min_messages",
        "notice",
        OneOf(&["debug5", "debug4", "debug3", "debug2", "debug1", "log", "notice", "warning", "error"]),
        "word",
        "least notice that is sent",
    ),
    reported(known(
        "DateStyle",
        "ISO, MDY",
        OneOf(&["ISO, MDY", "ISO", "ISO, DMY", "ISO, YMD"]),
        "word",
        "how dates show",
    )),
    known(
        "default_transaction_isolation",
        "read committed",
        OneOf(&["read committed", "read uncommitted"]),
        "word",
        "isolation of a block",
    ),
    reported(known("default_transaction_read_only", "off", OFF, "word", "whether blocks may write")),
    known("extra_float_digits", "1", Number(-15, 3), "digits", "floats are shown so that they read back the same"),
    known(
        "idle_in_transaction_session_timeout",
        "0",
        OneOf(&["0"]),
        "ms",
        "an open block holds no locks, so it may idle",
    ),
    reported(known("in_hot_standby", "off", ReadOnly, "word", "whether this node only follows")),
    reported(known("integer_datetimes", "on", ReadOnly, "word", "times travel as 64-bit integers")),
    known("IntervalStyle", "postgres", OneOf(&["postgres"]), "word", "how intervals show"),
    reported(known("is_superuser", "on", ReadOnly, "word", "whoever connects may do all")),
    known("lock_timeout", "0", Milliseconds, "ms", "longest wait for a lock; there are none to wait for"),
    known("max_identifier_length", "249", ReadOnly, "characters", "longest name of a topic"),
    known("row_security", "on", OneOf(&["on", "off"]), "word", "there are no row policies to apply"),
    known("search_path", "\"$user\", public", SchemaList, "schemas", "where a bare name is looked for"),
    reported(known("server_encoding", "UTF8", ReadOnly, "word", "encoding of stored text")),
    reported(known("server_version", "15.18", ReadOnly, "version", "the Postgres whose behaviour is kept")),
    known("server_version_num", "150018", ReadOnly, "version", "the same as a number"),
    reported(known("session_authorization", "", ReadOnly, "text", "the user, as the client says")),
    reported(known("standard_conforming_strings", "on", ON, "word", "a backslash in '…' is a backslash")),
    known("statement_timeout", "0", Milliseconds, "ms", "longest time of a statement; 0 is without end"),
    known("synchronous_commit", "on", ON, "word", "a commit is answered when it is durable"),
    reported(known("TimeZone", "UTC", Zone, "zone", "times without a zone are read as UTC, and all are shown in it")),
    known(
        "transaction_isolation",
        "read committed",
        OneOf(&["read committed", "read uncommitted"]),
        "word",
        "isolation of this block",
    ),
    known("transaction_read_only", "off", OFF, "word", "whether this block may write"),
];

/// Schemas a search path may name.
const SCHEMAS: [&str; 5] = ["$user", "public", "pg_catalog", "topics", "aquifer"];

/// A row of `SHOW ALL`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingRow {
    /// Its name.
    pub name: String,
    /// Its value, as text.
    pub value: String,
    /// Unit of the number, or the kind of word.
    pub unit: String,
    /// Why one would change it.
    pub reason: String,
}

/// Values of one session.
#[derive(Clone, Debug)]
pub(crate) struct SessionSettings {
    values: BTreeMap<&'static str, String>,
    /// What `RESET` goes back to: the defaults, and what the startup message said.
    resets: BTreeMap<&'static str, String>,
    /// Values from before `SET LOCAL`.
    before_local: BTreeMap<&'static str, String>,
    changed: BTreeSet<&'static str>,
    version: u64,
}

fn find(name: &str) -> Option<&'static Known> {
    let name = if name.eq_ignore_ascii_case("auto.offset.reset") { "auto_offset_reset" } else { name };
    KNOWN.iter().find(|known| known.name.eq_ignore_ascii_case(name))
}

fn unknown(name: &str) -> Error {
    Error::new(SqlState::UndefinedObject, format!("unrecognized configuration parameter \"{name}\""))
        .with_hint("SHOW ALL lists what there is")
}

impl SessionSettings {
    /// Defaults, for this user.
    pub(crate) fn new(user: &str, application_name: &str) -> Self {
        let mut values: BTreeMap<&'static str, String> =
            KNOWN.iter().map(|known| (known.name, known.default.to_owned())).collect();
        values.insert("session_authorization", user.to_owned());
        values.insert("application_name", application_name.to_owned());
        let changed = KNOWN.iter().filter(|known| known.reported).map(|known| known.name).collect();
        Self { resets: values.clone(), values, before_local: BTreeMap::new(), changed, version: 0 }
    }

    /// Another number whenever a value has changed.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// A value by its name in whatever case; `None` if it is not of the session.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        find(name).and_then(|known| self.values.get(known.name)).map(String::as_str)
    }

    /// Sets one; `None` is its default.
    ///
    /// # Errors
    /// 42704, 22023.
    pub(crate) fn set(&mut self, name: &str, value: Option<&str>, local: bool) -> Result<()> {
        let known = find(name).ok_or_else(|| unknown(name))?;
        let value = match value {
            Some(value) => check(known, value)?,
            None => self.resets.get(known.name).cloned().unwrap_or_default(),
        };
        if local {
            let before = self.values.get(known.name).cloned().unwrap_or_default();
            self.before_local.entry(known.name).or_insert(before);
        } else {
            self.before_local.remove(known.name);
        }
        self.put(known, value);
        Ok(())
    }

    /// Sets what `RESET` goes back to, as the startup message does.
    ///
    /// # Errors
    /// 42704, 22023.
    pub(crate) fn set_at_startup(&mut self, name: &str, value: &str) -> Result<()> {
        self.set(name, Some(value), false)?;
        if let Some(known) = find(name) {
            self.resets.insert(known.name, self.values.get(known.name).cloned().unwrap_or_default());
        }
        Ok(())
    }

    fn put(&mut self, known: &'static Known, value: String) {
        let before = self.values.insert(known.name, value);
        if before.as_ref() == self.values.get(known.name) {
            return;
        }
        self.version += 1;
        if known.reported {
            self.changed.insert(known.name);
        }
    }

    /// All as at the start.
    pub(crate) fn reset_all(&mut self) {
        for known in KNOWN {
            if let Some(value) = self.resets.get(known.name).cloned() {
                self.put(known, value);
            }
        }
        self.before_local.clear();
    }

    /// Ends a block: what was LOCAL is undone.
    pub(crate) fn end_block(&mut self) {
        for (name, value) in std::mem::take(&mut self.before_local) {
            if let Some(known) = find(name) {
                self.put(known, value);
            }
        }
    }

    /// Ends a block that is rolled back, or goes back to a savepoint: all is as it was `before`, and what was LOCAL then is
    /// still to be undone.
    pub(crate) fn restore(&mut self, before: &Self) {
        for known in KNOWN {
            if let Some(value) = before.values.get(known.name).cloned() {
                self.put(known, value);
            }
        }
        self.before_local.clone_from(&before.before_local);
    }

    /// Reported settings changed since the last call.
    pub(crate) fn take_changes(&mut self) -> Vec<(String, String)> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|name| (name.to_owned(), self.values.get(name).cloned().unwrap_or_default())).collect()
    }

    /// Rows of `SHOW ALL`.
    pub(crate) fn rows(&self) -> Vec<SettingRow> {
        let row = |known: &Known| SettingRow {
            name: known.name.to_owned(),
            value: self.values.get(known.name).cloned().unwrap_or_default(),
            unit: known.unit.to_owned(),
            reason: known.reason.to_owned(),
        };
        KNOWN.iter().map(row).collect()
    }

    /// `statement_timeout`; `None` is without end.
    pub(crate) fn statement_timeout(&self) -> Option<std::time::Duration> {
        let ms = self.get("statement_timeout").and_then(|value| milliseconds(value).ok())?;
        (ms > 0).then(|| std::time::Duration::from_millis(ms))
    }
}

/// A name that neither the session nor the node knows.
pub(crate) fn unknown_setting(name: &str) -> Error {
    unknown(name)
}

fn check(known: &Known, value: &str) -> Result<String> {
    let refused = |allowed: String| {
        let message = format!("invalid value for parameter \"{}\": \"{value}\"", known.name);
        Err(Error::new(SqlState::InvalidParameterValue, message).with_hint(allowed))
    };
    match known.kind {
        Kind::ReadOnly => {
            Err(Error::new(SqlState::CannotChangeParameter, format!("parameter \"{}\" cannot be changed", known.name)))
        }
        Kind::Text => Ok(value.to_owned()),
        // Read in one zone and shown in another, a time without a zone would become another time.
        Kind::Zone => Ok("UTC".to_owned()),
        Kind::OneOf(words) => {
            let found = words.iter().find(|word| word.eq_ignore_ascii_case(value.trim()));
            match found {
                // Synonyms stand behind the word they mean.
                Some(_) if words.len() == 4 && words[0] == "on" => Ok("on".to_owned()),
                Some(_) if words.len() == 4 && words[0] == "off" => Ok("off".to_owned()),
                Some(_) if known.name == "client_encoding" => Ok("UTF8".to_owned()),
                Some(word) => Ok((*word).to_owned()),
                None => refused(format!("it can be {}", words.join(", "))),
            }
        }
        Kind::Milliseconds => match milliseconds(value) {
            Ok(ms) => Ok(ms.to_string()),
            Err(()) => refused("give milliseconds, or a number with ms, s, min or h".to_owned()),
        },
        Kind::Number(low, high) => match value.trim().parse::<i64>() {
            Ok(number) if (low..=high).contains(&number) => Ok(number.to_string()),
            _ => refused(format!("it is a number from {low} to {high}")),
        },
        Kind::SchemaList => {
            let names = value.split(',').map(|name| name.trim().trim_matches('"').to_lowercase());
            match names.into_iter().find(|name| !name.is_empty() && !SCHEMAS.contains(&name.as_str())) {
                Some(_) => refused("relations live in public; topics and aquifer are the other schemas".to_owned()),
                None => Ok(value.to_owned()),
            }
        }
    }
}

fn milliseconds(value: &str) -> Result<u64, ()> {
    let value = value.trim();
    let digits = value.trim_end_matches(|char: char| char.is_alphabetic() || char == ' ');
    let factor = match value.get(digits.len()..).unwrap_or("").trim() {
        "" | "ms" => 1,
        "s" => 1000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(()),
    };
    digits.trim().parse::<u64>().ok().and_then(|number| number.checked_mul(factor)).ok_or(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_found_in_any_case_and_under_ksqldb_s_name() {
        let mut settings = SessionSettings::new("me", "");
        settings.set("auto.offset.reset", Some("EARLIEST"), false).unwrap();
        assert_eq!(settings.get("auto_offset_reset"), Some("earliest"));
        assert_eq!(settings.get("timezone"), Some("UTC"));
        assert_eq!(settings.set("no_such", Some("1"), false).unwrap_err().state, SqlState::UndefinedObject);
        assert_eq!(
            settings.set("bytea_output", Some("escape"), false).unwrap_err().state,
            SqlState::InvalidParameterValue
        );
    }

    #[test]
    fn a_timeout_takes_units() {
        let mut settings = SessionSettings::new("me", "");
        settings.set("statement_timeout", Some("2min"), false).unwrap();
        assert_eq!(settings.statement_timeout(), Some(std::time::Duration::from_secs(120)));
        settings.set("statement_timeout", None, false).unwrap();
        assert_eq!(settings.statement_timeout(), None);
    }

    #[test]
    fn what_is_local_ends_with_the_block_and_reported_ones_are_told() {
        let mut settings = SessionSettings::new("me", "");
        assert!(settings.take_changes().iter().any(|(name, _)| name == "server_version"));
        settings.set("application_name", Some("x"), true).unwrap();
        assert_eq!(settings.take_changes(), vec![("application_name".to_owned(), "x".to_owned())]);
        settings.end_block();
        assert_eq!(settings.get("application_name"), Some(""));
    }
}
