//! The result of a run: a line of JSON for comparing, and the same in words for whoever waits.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::bench::{Bench, COLD_SETTINGS, HOT_SETTINGS};
use crate::disk::Disk;
use crate::failure::Result;
use crate::load;
use crate::machine::Machine;
use crate::workload::Workload;

/// One number.
#[derive(Debug, Serialize)]
pub(crate) struct Measurement {
    name: String,
    value: f64,
    unit: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    goal: Option<Goal>,
    /// What one needs to know beside the number.
    #[serde(skip_serializing_if = "Map::is_empty")]
    detail: Map<String, Value>,
}

/// What a workload has found out: numbers, and by name what could not be measured.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    pub(crate) measurements: Vec<Measurement>,
    pub(crate) failures: Vec<(String, String)>,
}

impl From<Vec<Measurement>> for Measured {
    fn from(measurements: Vec<Measurement>) -> Self {
        Self { measurements, failures: Vec::new() }
    }
}

/// What the number should be.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

/// All numbers of a run.
pub(crate) struct Report {
    head: Map<String, Value>,
    measurements: Vec<Measurement>,
    failures: Map<String, Value>,
}

impl Measurement {
    pub(crate) fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        // A tenth of a thousandth is below anything's precision here.
        Self { name: name.into(), value: (value * 1e4).round() / 1e4, unit, goal: None, detail: Map::new() }
    }

    pub(crate) fn with_goal(self, goal: Goal) -> Self {
        Self { goal: Some(goal), ..self }
    }

    pub(crate) fn with_detail(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.detail.insert(name.to_owned(), value.into());
        self
    }

    fn in_words(&self) -> String {
        let goal = self.goal.map_or(String::new(), |goal| {
            let (bound, met) = match goal {
                Goal::AtLeast(least) => (format!("at least {least:.1}"), self.value >= least),
                Goal::AtMost(most) => (format!("at most {most:.1}"), self.value <= most),
            };
            format!("  (goal {bound}: {})", if met { "met" } else { "missed" })
        });
        format!("{:<28}{:>12.2} {}{goal}", self.name, self.value, self.unit)
    }
}

impl Report {
    pub(crate) fn new(bench: &Bench, disk: Disk) -> Result<Self> {
        let version = bench.version()?;
        let commit = version.split(['(', ')']).nth(1).unwrap_or("unknown").to_owned();
        let head = json!({
            "at_unix_s": unix_seconds(),
            "version": version,
            "commit": commit,
            "machine": Machine::this()?,
            "disk": disk,
            "settings": {
                "bytes": bench.bytes(),
                "probes": bench.probes,
                "partitions": bench.partitions,
                "history": bench.history,
                "hot_node": settings(&HOT_SETTINGS),
                "cold_node": settings(&COLD_SETTINGS),
                "producer": settings(&load::PRODUCER_SETTINGS),
                "consumer": settings(&load::CONSUMER_SETTINGS),
            },
        });
        let Value::Object(head) = head else { return Err("the head is an object".into()) };
        Ok(Self { head, measurements: Vec::new(), failures: Map::new() })
    }

    /// Takes the numbers of a workload, or how it failed, and says them.
    pub(crate) fn add(&mut self, workload: Workload, result: Result<Measured>) {
        let measured = result.unwrap_or_else(|failure| Measured {
            failures: vec![(workload.name().to_owned(), failure.to_string())],
            ..Measured::default()
        });
        measured.measurements.iter().for_each(|measurement| say(&measurement.in_words()));
        self.measurements.extend(measured.measurements);
        for (what, failure) in measured.failures {
            say(&format!("{what} failed: {failure}"));
            self.failures.insert(what, failure.into());
        }
    }

    /// Whether nothing failed.
    pub(crate) fn is_whole(&self) -> bool {
        self.failures.is_empty()
    }

    /// Appends the run as one line.
    pub(crate) fn append_to(&self, path: &Path) -> Result<()> {
        let mut line = self.head.clone();
        line.insert("measurements".to_owned(), serde_json::to_value(&self.measurements)?);
        if !self.failures.is_empty() {
            line.insert("failures".to_owned(), Value::Object(self.failures.clone()));
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file = File::options().create(true).append(true).open(path)?;
        writeln!(file, "{}", Value::Object(line))?;
        say(&format!("appended to {}", path.display()));
        Ok(())
    }
}

fn settings(pairs: &[(&str, &str)]) -> Value {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value))).collect::<Map<_, _>>().into()
}

#[expect(clippy::disallowed_methods, reason = "a result bears its date; nothing is decided by it")]
fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A line for whoever waits. If nobody listens, the file still gets its line.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}
