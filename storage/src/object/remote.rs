//! Stores that answer over HTTP: S3 and what speaks it, Google's, Azure's; and what their refusals mean to a person.
//!
//! Credentials come from the variables each cloud's own tools use; what the configuration says goes before them. The
//! crate's retries and its time limit for a whole request are off: both are ours ([`crate::object::retry`]).

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzure, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorage, GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ClientConfigKey, Error, ObjectStore, RetryConfig};
use url::Url;

use crate::object::retry::{sentence, status};
use crate::settings::ObjectStoreOptions;

/// The crate's limit for one request; ours is shorter, or grows with what is moved.
const REQUEST_TIME_MAX: &str = "1 hour";

/// Longest part of a store's own words in a message.
const WORDS_MAX: usize = 400;

/// Whose interface a store speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cloud {
    /// Amazon's S3 and whatever speaks it.
    S3,
    /// Google Cloud Storage.
    Google,
    /// Azure Blob Storage.
    Azure,
}

impl Cloud {
    /// By a URL's scheme.
    pub(crate) fn of(scheme: &str) -> Option<Self> {
        match scheme {
            "s3" | "s3a" => Some(Self::S3),
            "gs" => Some(Self::Google),
            "az" | "azure" | "abfs" | "abfss" => Some(Self::Azure),
            _ => None,
        }
    }

    /// The options that mean something to it.
    fn options(self) -> &'static [&'static str] {
        match self {
            Self::S3 => &[
                "endpoint",
                "region",
                "allow_http",
                "virtual_hosted_style",
                "skip_signature",
                "access_key_id",
                "secret_access_key",
                "session_token",
            ],
            Self::Google => &["endpoint", "allow_http", "service_account_path", "service_account_key"],
            Self::Azure => &["endpoint", "allow_http", "skip_signature", "account_name", "account_key", "sas_token"],
        }
    }

    /// Where its credentials come from.
    fn credentials(self) -> &'static str {
        match self {
            Self::S3 => {
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (profiles in ~/.aws are not read), run with an instance or web identity role, or say access_key_id and secret_access_key under [object_store]"
            }
            Self::Google => {
                "set GOOGLE_APPLICATION_CREDENTIALS to a service account's file, or say service_account_path under [object_store]"
            }
            Self::Azure => {
                "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or say account_name and account_key under [object_store]"
            }
        }
    }

    fn container(self) -> &'static str {
        if self == Self::Azure { "container" } else { "bucket" }
    }
}

/// A client for `url`, below the prefix in it. The error says what to change.
pub(crate) fn build(cloud: Cloud, url: &Url, options: &ObjectStoreOptions) -> Result<Arc<dyn ObjectStore>, String> {
    let known = cloud.options();
    for (name, _) in options.said() {
        if !known.iter().any(|known| name.strip_prefix("object_store.") == Some(known)) {
            return Err(format!("{name} means nothing to {}://; it takes {}", url.scheme(), known.join(", ")));
        }
    }
    let said = |name: &str| options.get(&format!("object_store.{name}"));
    let prefix = Path::from_url_path(url.path()).map_err(|error| format!("its prefix is no name: {error}"))?;
    match cloud {
        Cloud::S3 => below(prefix, s3(url, said)?),
        Cloud::Google => below(prefix, google(url, said)?),
        Cloud::Azure => below(prefix, azure(url, said)?),
    }
}

fn below(prefix: Path, store: impl ObjectStore) -> Result<Arc<dyn ObjectStore>, String> {
    if prefix.as_ref().is_empty() { Ok(Arc::new(store)) } else { Ok(Arc::new(PrefixStore::new(store, prefix))) }
}

fn no_retries() -> RetryConfig {
    RetryConfig { max_retries: 0, retry_timeout: Duration::ZERO, ..RetryConfig::default() }
}

fn s3<'a>(url: &Url, said: impl Fn(&str) -> Option<&'a str>) -> Result<AmazonS3, String> {
    let bucket = format!("s3://{}", url.host_str().unwrap_or_default());
    let mut builder = AmazonS3Builder::from_env()
        .with_url(bucket)
        .with_retry(no_retries())
        .with_config(AmazonS3ConfigKey::Client(ClientConfigKey::Timeout), REQUEST_TIME_MAX);
    for (name, key) in [
        ("endpoint", AmazonS3ConfigKey::S3Endpoint),
        ("region", AmazonS3ConfigKey::Region),
        ("allow_http", AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp)),
        ("virtual_hosted_style", AmazonS3ConfigKey::VirtualHostedStyleRequest),
        ("skip_signature", AmazonS3ConfigKey::SkipSignature),
        ("access_key_id", AmazonS3ConfigKey::AccessKeyId),
        ("secret_access_key", AmazonS3ConfigKey::SecretAccessKey),
        ("session_token", AmazonS3ConfigKey::Token),
    ] {
        if let Some(value) = said(name) {
            builder = builder.with_config(key, value);
        }
    }
    let value = |key| builder.get_config_value(&key);
    let endpoint = value(AmazonS3ConfigKey::S3Endpoint).or_else(|| value(AmazonS3ConfigKey::Endpoint));
    check_http(endpoint, value(AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp)), "AWS_ALLOW_HTTP=true")?;
    builder.build().map_err(|error| cannot_build(Cloud::S3, &error))
}

fn google<'a>(url: &Url, said: impl Fn(&str) -> Option<&'a str>) -> Result<GoogleCloudStorage, String> {
    let bucket = format!("gs://{}", url.host_str().unwrap_or_default());
    let mut builder = GoogleCloudStorageBuilder::from_env()
        .with_url(bucket)
        .with_retry(no_retries())
        .with_config(GoogleConfigKey::Client(ClientConfigKey::Timeout), REQUEST_TIME_MAX);
    for (name, key) in [
        ("endpoint", GoogleConfigKey::BaseUrl),
        ("allow_http", GoogleConfigKey::Client(ClientConfigKey::AllowHttp)),
        ("service_account_path", GoogleConfigKey::ServiceAccount),
        ("service_account_key", GoogleConfigKey::ServiceAccountKey),
    ] {
        if let Some(value) = said(name) {
            builder = builder.with_config(key, value);
        }
    }
    let value = |key| builder.get_config_value(&key);
    let allowed = value(GoogleConfigKey::Client(ClientConfigKey::AllowHttp));
    check_http(value(GoogleConfigKey::BaseUrl), allowed, "allow_http = true under [object_store]")?;
    builder.build().map_err(|error| cannot_build(Cloud::Google, &error))
}

fn azure<'a>(url: &Url, said: impl Fn(&str) -> Option<&'a str>) -> Result<MicrosoftAzure, String> {
    let user = if url.username().is_empty() { String::new() } else { format!("{}@", url.username()) };
    let container = format!("{}://{user}{}", url.scheme(), url.host_str().unwrap_or_default());
    let mut builder = MicrosoftAzureBuilder::from_env()
        .with_url(container)
        .with_retry(no_retries())
        .with_config(AzureConfigKey::Client(ClientConfigKey::Timeout), REQUEST_TIME_MAX);
    for (name, key) in [
        ("endpoint", AzureConfigKey::Endpoint),
        ("allow_http", AzureConfigKey::Client(ClientConfigKey::AllowHttp)),
        ("skip_signature", AzureConfigKey::SkipSignature),
        ("account_name", AzureConfigKey::AccountName),
        ("account_key", AzureConfigKey::AccessKey),
        ("sas_token", AzureConfigKey::SasKey),
    ] {
        if let Some(value) = said(name) {
            builder = builder.with_config(key, value);
        }
    }
    let value = |key| builder.get_config_value(&key);
    let allowed = value(AzureConfigKey::Client(ClientConfigKey::AllowHttp));
    check_http(value(AzureConfigKey::Endpoint), allowed, "AZURE_ALLOW_HTTP=true")?;
    builder.build().map_err(|error| cannot_build(Cloud::Azure, &error))
}

/// Without TLS only when told so: credentials would be readable on the way.
fn check_http(endpoint: Option<String>, allowed: Option<String>, by: &str) -> Result<(), String> {
    match endpoint {
        Some(endpoint) if endpoint.starts_with("http://") && allowed.as_deref() != Some("true") => Err(format!(
            "its endpoint {endpoint} has no TLS; use https://, or allow it with object_store.allow_http = true or {by}"
        )),
        _ => Ok(()),
    }
}

fn cannot_build(cloud: Cloud, error: &Error) -> String {
    format!("{}; {}", words(error), cloud.credentials())
}

/// What went wrong when the store was asked for the first time, and what to do.
pub(crate) fn advice(cloud: Cloud, error: &Error) -> String {
    let said = sentence(error);
    let has = |codes: &[&str]| codes.iter().any(|code| said.contains(code));
    let container = cloud.container();
    let advice = if has(&["NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist"]) {
        format!("the {container} does not exist; make it, or name another")
    } else if has(&["169.254.169.254", "metadata.google.internal", "/latest/api/token", "MissingAccessKeyId"]) {
        format!("no credentials were found; {}", cloud.credentials())
    } else if has(&["PermanentRedirect", "AuthorizationHeaderMalformed", "incorrectly configured region"])
        || status(error) == Some(301)
    {
        "the bucket is in another region; set AWS_REGION, or region under [object_store]".to_owned()
    } else if matches!(status(error), Some(401 | 403)) {
        format!("the credentials are not accepted or may not write here; {}", cloud.credentials())
    } else if status(error) == Some(404) {
        format!("the {container} or the endpoint is not there; check the name and object_store.endpoint")
    } else if status(error).is_some() {
        "the store refuses; its words follow".to_owned()
    } else {
        "it does not answer; check that it runs, the endpoint, and the way there, then start again".to_owned()
    };
    format!("{advice} ({})", words(error))
}

/// The store's own words, short: code and message of its XML where there is one.
pub(crate) fn words(error: &Error) -> String {
    let said = sentence(error);
    let between = |tag: &str| {
        let (_, after) = said.split_once(&format!("<{tag}>"))?;
        Some(after.split_once('<')?.0.trim().to_owned())
    };
    let short = match (between("Code"), between("Message")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        _ => said.split_whitespace().collect::<Vec<_>>().join(" "),
    };
    short.chars().take(WORDS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCOUNT: &str = r#"{"disable_oauth": true, "client_email": "", "private_key": "", "private_key_id": ""}"#;

    fn options(said: &[(&str, &str)]) -> ObjectStoreOptions {
        let mut options = ObjectStoreOptions::default();
        for (name, value) in said {
            options.set(&format!("object_store.{name}"), value).unwrap().unwrap();
        }
        options
    }

    fn refusal(url: &str, said: &[(&str, &str)]) -> String {
        let url = Url::parse(url).unwrap();
        build(Cloud::of(url.scheme()).unwrap(), &url, &options(said)).err().unwrap()
    }

    #[test]
    fn what_means_nothing_to_a_cloud_is_refused_by_name() {
        let said = refusal("s3://b", &[("account_key", "hush")]);
        assert!(said.contains("object_store.account_key means nothing to s3://") && !said.contains("hush"), "{said}");
        let said = refusal("s3://b", &[("endpoint", "http://127.0.0.1:9")]);
        assert!(said.contains("no TLS") && said.contains("object_store.allow_http"), "{said}");
        let said = refusal("s3://b", &[("access_key_id", "a")]);
        assert!(said.contains("AWS_SECRET_ACCESS_KEY"), "{said}");
    }

    #[test]
    fn every_cloud_is_built_from_what_is_said() {
        let http = [("endpoint", "http://127.0.0.1:9"), ("allow_http", "true")];
        for (url, more) in [
            (
                "s3://b/p/q",
                vec![("region", "eu-west-1"), ("skip_signature", "true"), ("virtual_hosted_style", "false")],
            ),
            ("gs://b/p", vec![("service_account_key", ACCOUNT)]),
            ("az://c/p", vec![("account_name", "acc"), ("account_key", "aHVzaA==")]),
            ("abfss://c@acc.dfs.core.windows.net/p", vec![("account_key", "aHVzaA==")]),
        ] {
            let url = Url::parse(url).unwrap();
            let said: Vec<_> = http.into_iter().chain(more).collect();
            build(Cloud::of(url.scheme()).unwrap(), &url, &options(&said)).unwrap();
        }
    }

    #[test]
    fn refusals_become_advice() {
        let error = |words: &str| Error::Generic { store: "S3", source: words.to_owned().into() };
        for (words, advised) in [
            (
                "status code: 404 Not Found: <Error><Code>NoSuchBucket</Code><Message>no b</Message>",
                "does not exist; make it",
            ),
            (
                "Error performing PUT http://169.254.169.254/latest/api/token in 5s",
                "no credentials were found; set AWS",
            ),
            (
                "Received redirect without LOCATION, this normally indicates an incorrectly configured region",
                "set AWS_REGION",
            ),
            ("status code: 403 Forbidden: <Error><Code>InvalidAccessKeyId</Code><Message>x</Message>", "not accepted"),
            ("error sending request: Connection refused", "it does not answer"),
        ] {
            let advice = advice(Cloud::S3, &error(words));
            assert!(advice.contains(advised), "{advice}");
        }
        assert!(
            advice(Cloud::S3, &error("<Code>NoSuchBucket</Code> <Message>no b</Message>"))
                .contains("(NoSuchBucket: no b)")
        );
    }
}
