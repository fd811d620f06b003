//! Where an object store answers and who we are to it: words that the URL does not say, some of them secret.
//!
//! What is not said here is taken from the variables everybody uses (`AWS_…`, `GOOGLE_…`, `AZURE_…`). A secret is
//! handed to the store's client and shown to nobody: not in `SHOW ALL`, not in an error, not when a struct is printed.

use std::collections::BTreeMap;
use std::fmt;

use crate::settings::SettingInfo;

/// What stands in the place of a secret.
const HIDDEN: &str = "***";

/// One thing that can be said about an object store.
#[derive(Clone, Copy, Debug)]
pub struct ObjectStoreOption {
    /// Dotted name, as in the TOML file.
    pub name: &'static str,
    /// Not to be shown.
    pub secret: bool,
    /// The kind of word.
    pub unit: &'static str,
    /// Why one would say it, and for which URLs.
    pub reason: &'static str,
}

const fn open(name: &'static str, unit: &'static str, reason: &'static str) -> ObjectStoreOption {
    ObjectStoreOption { name, secret: false, unit, reason }
}

const fn secret(name: &'static str, reason: &'static str) -> ObjectStoreOption {
    ObjectStoreOption { name, secret: true, unit: "secret", reason }
}

/// Everything that can be said.
pub const OBJECT_STORE_OPTIONS: [ObjectStoreOption; 13] = [
    open("object_store.endpoint", "URL", "where the store answers, if not where its cloud does; empty for the cloud's"),
    open("object_store.region", "region", "region of an s3:// bucket; else AWS_REGION, else us-east-1"),
    open("object_store.allow_http", "true or false", "whether an endpoint without TLS is allowed"),
    open(
        "object_store.virtual_hosted_style",
        "true or false",
        "whether an s3:// endpoint already has the bucket in its host name",
    ),
    open("object_store.skip_signature", "true or false", "whether requests go out without credentials"),
    open("object_store.access_key_id", "word", "access key of s3://; else AWS_ACCESS_KEY_ID"),
    secret("object_store.secret_access_key", "its secret; else AWS_SECRET_ACCESS_KEY"),
    secret("object_store.session_token", "its session's token; else AWS_SESSION_TOKEN"),
    open("object_store.account_name", "word", "account of az://; else AZURE_STORAGE_ACCOUNT_NAME"),
    secret("object_store.account_key", "its key; else AZURE_STORAGE_ACCOUNT_KEY"),
    secret("object_store.sas_token", "its shared access signature instead of a key; else AZURE_STORAGE_SAS_KEY"),
    open(
        "object_store.service_account_path",
        "path",
        "file with the service account of gs://; else GOOGLE_APPLICATION_CREDENTIALS",
    ),
    secret("object_store.service_account_key", "the service account itself, as JSON"),
];

/// What was said.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ObjectStoreOptions {
    values: BTreeMap<&'static str, String>,
}

impl ObjectStoreOptions {
    /// Sets one by its dotted name; an empty text takes it back. `None` if the name is not of this table.
    pub fn set(&mut self, name: &str, text: &str) -> Option<Result<(), String>> {
        let option = OBJECT_STORE_OPTIONS.iter().find(|option| option.name == name)?;
        if option.unit == "true or false" && !["", "true", "false"].contains(&text) {
            return Some(Err(format!("'{text}' is neither true nor false")));
        }
        if text.is_empty() {
            self.values.remove(option.name);
        } else {
            self.values.insert(option.name, text.to_owned());
        }
        Some(Ok(()))
    }

    /// What was said of one.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// The names of which something was said.
    pub(crate) fn said(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.values.iter().map(|(name, value)| (*name, value.as_str()))
    }

    /// The rows of `SHOW ALL`, secrets hidden.
    #[must_use]
    pub fn describe(&self) -> Vec<SettingInfo> {
        let row = |option: &ObjectStoreOption| {
            let value = match self.get(option.name) {
                Some(_) if option.secret => HIDDEN,
                Some(value) => value,
                None => "",
            };
            SettingInfo { name: option.name, value: value.to_owned(), unit: option.unit, reason: option.reason }
        };
        OBJECT_STORE_OPTIONS.iter().map(row).collect()
    }
}

impl fmt::Debug for ObjectStoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.describe();
        f.debug_map()
            .entries(shown.iter().filter(|row| !row.value.is_empty()).map(|row| (row.name, &row.value)))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_shown_to_nobody() {
        let mut options = ObjectStoreOptions::default();
        for option in OBJECT_STORE_OPTIONS {
            let text = if option.unit == "true or false" { "true" } else { "hush" };
            assert_eq!(options.set(option.name, text), Some(Ok(())));
        }
        for option in OBJECT_STORE_OPTIONS.iter().filter(|option| option.secret) {
            assert_eq!(options.get(option.name), Some("hush"));
            let shown = options.describe();
            assert_eq!(shown.iter().find(|row| row.name == option.name).map(|row| row.value.as_str()), Some(HIDDEN));
        }
        let printed = format!("{options:?}");
        assert_eq!(
            printed.matches("hush").count(),
            OBJECT_STORE_OPTIONS.iter().filter(|o| o.unit != "true or false" && !o.secret).count()
        );
        assert_eq!(options.set("object_store.colour", "blue"), None);
        assert!(options.set("object_store.allow_http", "yes").is_some_and(|refused| refused.is_err()));
        assert_eq!(options.set("object_store.region", ""), Some(Ok(())));
        assert_eq!(options.get("object_store.region"), None);
    }
}
