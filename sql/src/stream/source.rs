//! `Source`: a topic's raw records as ticks, from a position on.
//!
//! History is read from one pinned snapshot whose scans stay open from tick to tick; when they are drained, the next
//! snapshot pins the tail only. A tick holds at most [`TICK_RECORDS_MAX`] records, and bytes up to a limit that its last
//! batch may exceed.
//!
//! A source reads the partitions it was told of; that there are more ends its wait, and whoever reads decides.

use std::collections::HashMap;

use aquifer_storage::record::columns::RecordColumn;
use aquifer_storage::{RowStream, ScanRequest, Snapshot, Storage, TopicId, TopicPartition};
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use futures::TryStreamExt;

use super::position::Position;
use super::tick::{Run, Tick};
use crate::error::{Error, Result};

/// Records of one tick.
pub(crate) const TICK_RECORDS_MAX: usize = 64 << 10;
/// Arrow bytes of one tick whose output is small, exceeded by one batch at the most.
pub(crate) const TICK_BYTES_MAX: usize = 32 << 20;
/// Records asked of a scan at once.
const SCAN_BATCH_RECORDS: usize = 4 << 10;

/// See the head of this file.
pub(crate) struct Source {
    storage: Storage,
    topic: TopicId,
    columns: Vec<RecordColumn>,
    partitions: i32,
    position: Position,
    until: Option<Position>,
    tick_bytes_max: usize,
    scans: Vec<Scan>,
    snapshot: Option<Snapshot>,
}

/// One partition of the pinned snapshot.
struct Scan {
    partition: i32,
    end: i64,
    rows: RowStream,
}

impl Source {
    /// Reads so many partitions of a topic from `position` on.
    pub(crate) fn new(
        storage: Storage,
        (topic, partitions): (TopicId, i32),
        columns: Vec<RecordColumn>,
        position: Position,
    ) -> Self {
        let (until, scans, snapshot) = (None, Vec::new(), None);
        let tick_bytes_max = TICK_BYTES_MAX;
        Self { storage, topic, columns, partitions, position, until, tick_bytes_max, scans, snapshot }
    }

    /// Reads the partitions that the topic has got since, too.
    pub(crate) fn grow(&mut self) {
        self.partitions = partitions_of(&self.storage, self.topic).max(self.partitions);
    }

    /// Never reads past `until`.
    pub(crate) fn until(self, until: Position) -> Self {
        Self { until: Some(until), ..self }
    }

    /// Ends a tick at so many bytes.
    pub(crate) fn with_tick_bytes_max(self, tick_bytes_max: usize) -> Self {
        Self { tick_bytes_max, ..self }
    }

    /// The next records that are there now; `None` if there are none yet.
    ///
    /// # Errors
    /// What storage says; the source can be asked again.
    pub(crate) async fn next(&mut self) -> Result<Option<Tick>> {
        if self.scans.is_empty() && !self.pin()? {
            return Ok(None);
        }
        let tick = self.read().await;
        if tick.is_err() {
            // What a broken scan had read is read again from the position.
            self.scans.clear();
        }
        let tick = tick?;
        self.position = tick.after(&self.position);
        if self.scans.is_empty() {
            self.snapshot = None;
        }
        Ok(Some(tick))
    }

    /// Returns when there may be more to read, which records behind an open transaction are not, or partitions have been
    /// added.
    pub(crate) fn wait(&self) -> impl Future<Output = ()> + Send + use<> {
        let offsets: Vec<_> =
            self.partitions().map(|(partition, offset)| (self.partition(partition), offset)).collect();
        let (storage, topic, partitions) = (self.storage.clone(), self.topic, self.partitions);
        async move { storage.wait_past_or_growth(&offsets, topic, partitions).await }
    }

    fn partitions(&self) -> impl Iterator<Item = (i32, i64)> {
        (0..self.partitions).map(|partition| (partition, self.position.at(partition)))
    }

    fn partition(&self, partition: i32) -> TopicPartition {
        TopicPartition { topic: self.topic, partition }
    }

    /// Pins what there is past the position and opens the scans; false if there is nothing.
    fn pin(&mut self) -> Result<bool> {
        let from: HashMap<_, _> = self.partitions().map(|(partition, at)| (self.partition(partition), at)).collect();
        let snapshot = self.storage.snapshot(&[self.topic], &from).map_err(Error::from)?;
        let mut scans = Vec::new();
        for (partition, offset) in self.partitions() {
            let Some(range) = snapshot.range(self.partition(partition)) else { continue };
            let limit = self.until.as_ref().map_or(i64::MAX, |until| until.at(partition));
            let end = range.end.min(limit);
            if end <= offset {
                continue;
            }
            let request = ScanRequest {
                offset_start: offset,
                offset_end: end,
                batch_rows: SCAN_BATCH_RECORDS,
                ..ScanRequest::all(self.columns.clone())
            };
            let rows = snapshot.scan(self.partition(partition), request).map_err(Error::from)?;
            scans.push(Scan { partition, end, rows });
        }
        self.scans = scans;
        self.snapshot = Some(snapshot);
        Ok(!self.scans.is_empty())
    }

    /// Reads the scans in turn until a limit is reached or all are drained.
    async fn read(&mut self) -> Result<Tick> {
        let mut runs: Vec<Run> = Vec::new();
        let (mut records, mut bytes, mut turn) = (0, 0, 0);
        while records + SCAN_BATCH_RECORDS <= TICK_RECORDS_MAX && bytes < self.tick_bytes_max && !self.scans.is_empty()
        {
            turn %= self.scans.len();
            let scan = &mut self.scans[turn];
            let run = match runs.iter().position(|run| run.partition == scan.partition) {
                Some(run) => &mut runs[run],
                None => {
                    let start = self.position.at(scan.partition);
                    runs.push(Run { partition: scan.partition, start, batches: Vec::new(), end: start });
                    let last = runs.len() - 1;
                    &mut runs[last]
                }
            };
            match scan.rows.try_next().await.map_err(Error::from)? {
                Some(batch) if batch.num_rows() == 0 => {}
                Some(batch) => {
                    records += batch.num_rows();
                    bytes += batch.get_array_memory_size();
                    run.end = offset_of(&batch, batch.num_rows() - 1) + 1;
                    run.batches.push(batch);
                    turn += 1;
                }
                None => {
                    run.end = scan.end;
                    drop(self.scans.remove(turn));
                }
            }
        }
        Ok(Tick { runs })
    }
}

/// How many partitions a topic has now; none if it is gone.
pub(crate) fn partitions_of(storage: &Storage, topic: TopicId) -> i32 {
    storage.topic_by_id(topic).map_or(0, |topic| topic.partitions)
}

/// The offset of a raw batch's row.
pub(crate) fn offset_of(batch: &RecordBatch, row: usize) -> i64 {
    let offsets = batch.column_by_name(RecordColumn::Offset.name());
    offsets.and_then(|offsets| offsets.as_primitive_opt::<Int64Type>()).map_or(-1, |offsets| offsets.value(row))
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::time::Duration;

    use aquifer_storage::clock::{SystemClock, SystemRandom};
    use aquifer_storage::record::batch::{BatchBuilder, CheckedBatch, Compression, TimestampType};
    use aquifer_storage::settings::StorageSettings;
    use aquifer_storage::{Append, Commit, OpenOptions, TopicConfig};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn batch(bytes: usize) -> CheckedBatch {
        let mut builder = BatchBuilder::new(0, TimestampType::CreateTime);
        builder.push(0, None, Some(&vec![7; bytes]), &[]);
        builder.build(Compression::None).unwrap()
    }

    #[tokio::test]
    async fn a_source_waits_behind_an_open_transaction_and_is_woken_by_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let options = OpenOptions {
            data_dir: dir.path().to_owned(),
            object_store_url: None,
            object_store: Default::default(),
            settings: StorageSettings { wal_commit_bytes_max: 64 << 10, ..StorageSettings::default() },
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
        };
        let storage = Storage::open(options).await.unwrap();
        let topic = storage.create_topic("t", Some(1), TopicConfig::default()).await.unwrap().id;
        let at = TopicPartition { topic, partition: 0 };
        let mut open = storage.begin().await.unwrap();
        for _ in 0..3 {
            open.append(Append { topic, partition: 0, batch: batch(40 << 10) }).await.unwrap();
        }
        tokio::time::timeout(PATIENCE, storage.wait_past(&[(at, 0)])).await.expect("durable in time");
        let ends = storage.watermarks(at).unwrap();
        assert!(ends.high_watermark > 0 && ends.last_stable_offset == 0, "{ends:?}");

        let mut source = Source::new(storage.clone(), (topic, 1), vec![RecordColumn::Offset], Position::start(1));
        assert!(source.next().await.unwrap().is_none());
        let mut wait = pin!(source.wait());
        assert!(futures::poll!(&mut wait).is_pending(), "there is nothing to read yet");
        open.commit(Commit::default()).await.unwrap();
        tokio::time::timeout(PATIENCE, wait).await.expect("woken by the commit");
        let tick = source.next().await.unwrap().unwrap();
        assert_eq!(tick.runs[0].batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 3);
        storage.close().await.unwrap();
    }
}
