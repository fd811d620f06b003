//! What is measured, one file per workload. Each starts a node of its own and stops it when it returns.

use clap::ValueEnum;

use crate::Suite;
use crate::bench::Bench;
use crate::disk::Disk;
use crate::failure::Result;
use crate::report::Measured;

mod cold;
mod consume;
mod freshness;
mod history;
mod idle;
mod log;
mod produce;
mod scan;
mod start;

/// A workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    Idle,
    Produce,
    ConsumeHot,
    ConsumeCold,
    ScanHot,
    ScanCold,
    Start,
    FreshnessSelect,
    FreshnessPush,
    FreshnessTable,
    LogProduce,
    LogLatency,
    LogConsume,
    LogPartitions,
    LogTiering,
    LogStart,
    LogOthers,
    HistoryYear,
    HistoryHot,
    HistoryLookUp,
    HistoryCopy,
    HistoryInsert,
    HistoryCommits,
}

impl Workload {
    /// The workloads of a suite, in the order they run.
    pub(crate) fn of(suite: Suite) -> &'static [Self] {
        match suite {
            Suite::Basics => &[
                Self::Idle,
                Self::Produce,
                Self::ConsumeHot,
                Self::ConsumeCold,
                Self::ScanHot,
                Self::ScanCold,
                Self::Start,
                Self::FreshnessSelect,
                Self::FreshnessPush,
                Self::FreshnessTable,
            ],
            Suite::Log => &[
                Self::LogProduce,
                Self::LogLatency,
                Self::LogConsume,
                Self::LogPartitions,
                Self::LogTiering,
                Self::LogStart,
                Self::LogOthers,
            ],
            Suite::History => &[
                Self::HistoryYear,
                Self::HistoryHot,
                Self::HistoryLookUp,
                Self::HistoryCopy,
                Self::HistoryInsert,
                Self::HistoryCommits,
            ],
        }
    }

    /// As typed after `--only`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Produce => "produce",
            Self::ConsumeHot => "consume-hot",
            Self::ConsumeCold => "consume-cold",
            Self::ScanHot => "scan-hot",
            Self::ScanCold => "scan-cold",
            Self::Start => "start",
            Self::FreshnessSelect => "freshness-select",
            Self::FreshnessPush => "freshness-push",
            Self::FreshnessTable => "freshness-table",
            Self::LogProduce => "log-produce",
            Self::LogLatency => "log-latency",
            Self::LogConsume => "log-consume",
            Self::LogPartitions => "log-partitions",
            Self::LogTiering => "log-tiering",
            Self::LogStart => "log-start",
            Self::LogOthers => "log-others",
            Self::HistoryYear => "history-year",
            Self::HistoryHot => "history-hot",
            Self::HistoryLookUp => "history-look-up",
            Self::HistoryCopy => "history-copy",
            Self::HistoryInsert => "history-insert",
            Self::HistoryCommits => "history-commits",
        }
    }

    /// Measures it.
    pub(crate) async fn run(self, bench: &Bench, disk: &Disk) -> Result<Measured> {
        let measurements = match self {
            Self::Idle => idle::run(bench).await?,
            Self::Produce => produce::run(bench, disk).await?,
            Self::ConsumeHot => consume::run_hot(bench).await?,
            Self::ConsumeCold => consume::run_cold(bench).await?,
            Self::ScanHot => scan::run_hot(bench).await?,
            Self::ScanCold => scan::run_cold(bench).await?,
            Self::Start => start::run(bench).await?,
            Self::FreshnessSelect => freshness::run_select(bench, disk).await?,
            Self::FreshnessPush => freshness::run_push(bench, disk).await?,
            Self::FreshnessTable => freshness::run_table(bench, disk).await?,
            Self::LogProduce => log::produce::run(bench).await?,
            Self::LogLatency => log::latency::run(bench).await?,
            Self::LogConsume => log::consume::run(bench).await?,
            Self::LogPartitions => log::partitions::run(bench).await?,
            Self::LogTiering => log::tiering::run(bench).await?,
            Self::LogStart => log::start::run(bench).await?,
            Self::LogOthers => log::others::run(bench).await?,
            Self::HistoryYear => return history::year::run(bench).await,
            Self::HistoryHot => return history::hot::run(bench).await,
            Self::HistoryLookUp => history::look_up::run(bench).await?,
            Self::HistoryCopy => history::writing::run_copy(bench).await?,
            Self::HistoryInsert => history::writing::run_insert(bench).await?,
            Self::HistoryCommits => history::writing::run_commits(bench, disk).await?,
        };
        Ok(measurements.into())
    }
}
