//! Measures a release binary the way its users meet it: over the wires, from a fresh directory, with the disk beside it.
//!
//! Every workload starts a node of its own, so that none runs in the shadow of another. The result of a run is one JSON
//! line with machine, commit and settings; numbers without them cannot be compared.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use serde::Serialize;

use crate::bench::Bench;
use crate::failure::Result;
use crate::report::Report;
use crate::workload::Workload;

mod bench;
mod disk;
mod failure;
mod load;
mod machine;
mod node;
mod paced;
mod peer;
mod report;
mod sql;
mod statistics;
mod workload;

/// Measures an aquifer binary.
#[derive(Debug, Parser)]
#[command(name = "aquifer-benchmarks", version)]
struct Args {
    /// Which workloads
    #[arg(value_enum, default_value_t = Suite::Basics)]
    suite: Suite,
    /// The binary to measure [default: `aquifer` beside this one]
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Where nodes keep their data, on the disk to be measured; emptied afterwards [default: beside the binary]
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// The file that gets one line per run
    #[arg(long, value_name = "FILE", default_value = "benchmarks/results/runs.jsonl")]
    results: PathBuf,
    /// Only these workloads of the suite
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', value_enum)]
    only: Vec<Workload>,
    /// Data to produce, consume, scan and start with
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    mib: u32,
    /// Records per kind of freshness
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    probes: u32,
    /// Partitions of the topics
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(i32).range(1..=1000))]
    partitions: i32,
    /// How long records are offered while they are tiered
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u32).range(3..=86_400))]
    tiering_seconds: u32,
    /// Log that a node is started with
    #[arg(long, value_name = "GIB", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1 << 10))]
    start_gib: u32,
    #[command(flatten)]
    history: HistoryArgs,
}

/// How much the history suite writes and asks.
#[derive(Clone, Debug, clap::Args, Serialize)]
struct HistoryArgs {
    /// Page views of the year
    #[arg(long, value_name = "N", default_value_t = 50_000_000, value_parser = clap::value_parser!(u64).range(1_000..=10_000_000_000))]
    history_rows: u64,
    /// Page views that are asked from the log, then from objects
    #[arg(long, value_name = "N", default_value_t = 2_000_000, value_parser = clap::value_parser!(u64).range(1_000..=1_000_000_000))]
    hot_rows: u64,
    /// Rows of the keyed table that is looked up in
    #[arg(long, value_name = "N", default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1_000..=1_000_000_000))]
    table_rows: u64,
    /// Rows that COPY writes; INSERT of many rows writes a fifth
    #[arg(long, value_name = "N", default_value_t = 2_000_000, value_parser = clap::value_parser!(u64).range(1_000..=1_000_000_000))]
    write_rows: u64,
    /// How long look-ups, single INSERTs and paced ingest each run
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    history_seconds: u32,
    /// The query set
    #[arg(long, value_name = "DIR", default_value = "benchmarks/queries")]
    queries: PathBuf,
}

/// Workloads that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Suite {
    /// A node alone: produce, consume, scan, start, freshness
    Basics,
    /// The log beside Apache Kafka and others
    Log,
    /// SQL over a year of history beside DuckDB
    History,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            report::say(&format!("benchmarks failed: {failure}"));
            ExitCode::FAILURE
        }
    }
}

/// Runs the workloads asked for; says whether all of them ran to their end.
async fn run(args: Args) -> Result<bool> {
    let (suite, only, results) = (args.suite, args.only.clone(), args.results.clone());
    let bench = Bench::new(args)?;
    let disk = disk::measure(bench.directory())?;
    report::say(&format!("disk: fdatasync median {:.2} ms, p99 {:.2} ms", disk.sync_p50_ms, disk.sync_p99_ms));
    let mut report = Report::new(&bench, disk)?;
    for workload in Workload::of(suite) {
        if only.is_empty() || only.contains(workload) {
            let workload = *workload;
            report.add(workload, Box::pin(workload.run(&bench, &disk)).await);
        }
    }
    report.append_to(&results)?;
    Ok(report.is_whole())
}
