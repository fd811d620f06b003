//! Carrying over: what is still needed of a segment is copied to the end of the log, offsets and commit times
//! unchanged, so that the segment can go.
//!
//! The copies take the usual way: queued in pieces of bounded size, written in frames, synced, shown. Once shown, the
//! index has them in place of the originals; only then may the segment be removed. So a crash at any point leaves the
//! original, the copy, or both, and recovery takes the later one. Readers who hold the original read on.
//!
//! What is damaged is not carried: its offsets are named, and stay so when the segment is gone.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::error::{Error, Result};
use crate::ids::TopicPartition;
use crate::log::frame::PlacedBatch;
use crate::log::hot::{HotRun, HotStretch, Piece};
use crate::log::index::DamagedOffsets;
use crate::log::ledger::Request;
use crate::log::line::Line;
use crate::log::pipe::Done;
use crate::log::shared::Shared;
use crate::worker;

/// Bytes carried over in one commit, at the most, unless a single run has more.
const PIECE_BYTES_MAX: u64 = 4 << 20;

/// One part in so many of the reserve may be spent on emptying one segment.
pub(crate) const RESERVE_SHARE: u64 = 4;

/// A stretch to be carried over, from an offset on.
#[derive(Debug)]
pub(crate) struct Needed {
    pub(crate) stretch: HotStretch,
    pub(crate) from: i64,
}

/// What is not read yet.
#[derive(Debug)]
struct Source {
    stretches: VecDeque<Needed>,
    runs: VecDeque<(i64, TopicPartition, HotRun)>,
}

/// What one step has read.
#[derive(Debug, Default)]
struct Read {
    batches: Vec<PlacedBatch>,
    bytes: u64,
    lost: Vec<(TopicPartition, DamagedOffsets)>,
}

/// Carries these over; returns when the index has the copies.
///
/// # Errors
/// [`Error::Io`] and those of a commit.
pub(crate) async fn carry(shared: &Arc<Shared>, line: &Arc<Line>, needed: Vec<Needed>) -> Result<()> {
    let bytes_max = PIECE_BYTES_MAX.min(shared.settings.wal_commit_bytes_max);
    let all: u64 = needed.iter().map(|needed| needed.stretch.stretch.log_bytes()).sum();
    let spares_reserve = all > shared.settings.wal_reserve_bytes / RESERVE_SHARE;
    let mut source = Source { stretches: needed.into(), runs: VecDeque::new() };
    while !source.is_empty() {
        let (rest, read) = worker::blocking(move || {
            let read = source.read(bytes_max)?;
            Ok((source, read))
        })
        .await?;
        source = rest;
        for (partition, offsets) in read.lost {
            shared.note_lost(partition, offsets);
        }
        if !read.batches.is_empty() {
            metrics::counter!("aquifer_log_carried_bytes_total").increment(read.bytes);
            let request = Request { carried: read.batches, spares_reserve, ..Request::default() };
            submit(shared, line, request).await?;
            worker::crash_point("after a piece is carried over");
        }
    }
    Ok(())
}

/// Queues a request in the order of the calls and waits for its answer. It goes on when nobody waits any more.
pub(crate) async fn submit(shared: &Arc<Shared>, line: &Arc<Line>, request: Request) -> Result<Done> {
    let (answer, answered) = oneshot::channel();
    line.join(shared, request, answer);
    answered
        .await
        .unwrap_or_else(|_| Err(shared.read_only().map_or(Error::Closed, |reason| Error::ReadOnly { reason })))
}

impl Source {
    fn is_empty(&self) -> bool {
        self.stretches.is_empty() && self.runs.is_empty()
    }

    /// The next piece. Blocks on the file.
    fn read(&mut self, bytes_max: u64) -> Result<Read> {
        let mut read = Read::default();
        while !self.is_empty() {
            let Some((from, partition, run)) = self.runs.front() else {
                if let Some(Needed { stretch, from }) = self.stretches.pop_front() {
                    let runs = stretch.runs()?.into_iter().filter(|run| run.last_offset >= from);
                    self.runs.extend(runs.map(|run| (from, stretch.partition, run)));
                }
                continue;
            };
            if read.bytes > 0 && read.bytes + u64::from(run.len) > bytes_max {
                break;
            }
            read.take(*partition, *from, run)?;
            self.runs.pop_front();
        }
        Ok(read)
    }
}

impl Read {
    fn take(&mut self, partition: TopicPartition, from: i64, run: &HotRun) -> Result<()> {
        for piece in run.read()? {
            match piece {
                Piece::Damaged { offsets, .. } if offsets.end <= from => {}
                Piece::Damaged { offsets, .. } => self.lost.push((partition, offsets)),
                Piece::Batches(batches) => {
                    for found in batches.into_iter().filter(|found| found.batch.header().last_offset() >= from) {
                        let (base_offset, batch) = (found.batch.header().base_offset, found.batch);
                        self.bytes += batch.bytes().len() as u64;
                        let carried_us = Some(found.commit_time_us);
                        self.batches.push(PlacedBatch { partition, base_offset, batch, carried_us });
                    }
                }
            }
        }
        Ok(())
    }
}
