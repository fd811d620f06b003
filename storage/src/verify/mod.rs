//! `verify`: whether everything that is stored is what it says it is, looked at while no node runs. Never writes.
//!
//! 1. [`log`] reads the data directory: every frame and batch, headers and footers, snapshots. [`frames`] judges what the
//!    frames say of positions, sequences, times and offsets, [`footers`] what a footer says of its frames.
//! 2. [`bucket`] reads the object store: claims, checkpoints, manifests, chunks, and by [`object`] what is in each object; and whether
//!    nothing lies between the end of the cold part and the beginning of the hot one.
//!
//! What is found wrong is told as it is found, with its place; the rest is looked at all the same. What has no checksum
//! is not seen: the zeros behind a frame, and of an object what only other programs read (page indexes, bloom filters).

mod bucket;
mod footers;
mod frames;
mod log;
mod object;
mod spans;

use std::fmt;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::storage::OpenOptions;
use crate::worker;

/// How much a finding means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Something is not what it must be.
    Violation,
    /// Worth knowing, and as it may be.
    Note,
}

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How much it means.
    pub severity: Severity,
    /// File or object, and where in it.
    pub place: String,
    /// What is wrong there.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Violation => "violation",
            Severity::Note => "note",
        };
        write!(f, "{severity}: {}: {}", self.place, self.what)
    }
}

/// What was looked at, and how much was wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Findings that must not be.
    pub violations: u64,
    /// Other findings.
    pub notes: u64,
    /// Files of the data directory, and claims, roots and chunks of the bucket.
    pub files: u64,
    /// Frames of the log.
    pub frames: u64,
    /// Batches in them.
    pub batches: u64,
    /// Records in these, markers included.
    pub records: u64,
    /// Objects of manifests.
    pub objects: u64,
    /// Those whose data were read too.
    pub objects_read: u64,
    /// Rows read from these.
    pub rows: u64,
    /// Bytes read.
    pub bytes: u64,
}

/// Told of each finding.
pub type Tell = Arc<dyn Fn(&Finding) + Send + Sync>;

/// Looks at a data directory and its object store; of a share `sample` (0 to 1) of the objects the data too. No node may
/// run on the directory.
///
/// # Errors
/// What kept it from looking: [`Error::Config`] if a node runs, if there is nothing to look at, or if a newer program wrote
/// it, [`Error::Io`], [`Error::ObjectStore`]. What is damaged is no error but a finding.
pub async fn verify(options: OpenOptions, sample: f64, tell: Tell) -> Result<VerifyReport> {
    if !(0.0..=1.0).contains(&sample) {
        return Err(Error::Config { reason: format!("a sample of {sample} is no share; write a number from 0 to 1") });
    }
    if !options.data_dir.is_dir() {
        let shown = options.data_dir.display();
        return Err(Error::Config { reason: format!("there is no data directory {shown}; name one with --data-dir") });
    }
    let bucket = options.opening().open_to_read()?;
    let mut findings = Findings { tell, report: VerifyReport::default() };
    let data_dir = options.data_dir.clone();
    let (findings, view) = worker::blocking(move || {
        let view = log::look(&data_dir, &mut findings)?;
        Ok((findings, view))
    })
    .await?;
    let mut findings = findings;
    match (bucket, view) {
        (Some(bucket), Some(view)) => {
            // Held until all is read, as the directory's lock is.
            let looked = Box::pin(bucket::look(&bucket, &options, &view, sample, &mut findings)).await;
            looked.map_err(|error| options.opening().advised(error))?;
            drop(view);
        }
        (None, Some(view)) if view.past.has_claimed() => {
            let what = "it is memory's, of which nothing is left, but a node with this data directory has claimed one that lasts; \
                        name that one with --object-store";
            findings.violation("object store", what);
        }
        (None, _) => findings.note("object store", "it is memory's: nothing of it outlives its process"),
        (Some(_), None) => findings.note("object store", "not looked at, since the directory's own file is damaged"),
    }
    Ok(findings.report)
}

/// Takes findings, tells them, counts.
struct Findings {
    tell: Tell,
    report: VerifyReport,
}

impl Findings {
    fn violation(&mut self, place: impl fmt::Display, what: impl fmt::Display) {
        self.report.violations += 1;
        self.put(Severity::Violation, place.to_string(), what.to_string());
    }

    fn note(&mut self, place: impl fmt::Display, what: impl fmt::Display) {
        self.report.notes += 1;
        self.put(Severity::Note, place.to_string(), what.to_string());
    }

    fn put(&self, severity: Severity, place: String, what: String) {
        (self.tell)(&Finding { severity, place, what });
    }

    /// The value, or a violation if reading it found damage; what kept it from being read at all is an error.
    fn judged<T>(&mut self, place: &str, read: Result<T>) -> Result<Option<T>> {
        match read {
            Ok(value) => Ok(Some(value)),
            Err(error) => match (error.kind(), error) {
                (_, Error::Corrupt { place, reason }) => {
                    self.violation(place, reason);
                    Ok(None)
                }
                (_, Error::ObjectStore { source, .. }) if matches!(*source, object_store::Error::NotFound { .. }) => {
                    self.violation(place, "it is not there");
                    Ok(None)
                }
                (ErrorKind::Repair, error) => {
                    self.violation(place, full(&error));
                    Ok(None)
                }
                (_, Error::CorruptBatch { reason } | Error::InvalidBatch { reason }) => {
                    self.violation(place, reason);
                    Ok(None)
                }
                (_, error) => Err(error),
            },
        }
    }
}

/// An error with its causes.
fn full(error: &Error) -> String {
    let mut words = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        words.push_str(&format!(": {error}"));
        cause = error.source();
    }
    words
}
