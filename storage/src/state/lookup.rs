//! A look-up: the latest records of a few keys as of a snapshot, from the state, then from the log past its position.
//!
//! Why this is what a scan would find: the view of the state was taken before the partitions were pinned, so its position
//! lies at or below their pinned ends, and every record between the two is read here. A record below the partition's pinned
//! start is gone, and so is then every older one of its key. Where the position lies below what the log has, compaction may
//! have taken a tombstone from between the two. What cannot be answered so is answered by a scan.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{Int8Type, Int64Type, TimestampMicrosecondType, TimestampMillisecondType};
use bytes::Bytes;
use futures::TryStreamExt;

use crate::error::{Error, Result};
use crate::ids::{TopicId, TopicPartition};
use crate::record::batch::{RecordView, TimestampType};
use crate::record::columns::RecordColumn;
use crate::record::form::{KeyJudge, key_form};
use crate::record::format::RecordFormat;
use crate::record::rows::{RowBuilder, RowOrigin, schema_of};
use crate::scan::Pinned;
use crate::state::entry::{Entry, KEY_BYTES_MAX, entry_key};
use crate::state::store::View;
use crate::view::ScanRequest;
use crate::worker;

/// Records past the state's position that a look-up reads, over all partitions; behind more of them a scan answers.
const TAIL_RECORDS_MAX: i64 = 16 << 10;

/// What of a record the state keeps, in the order in which it is read from the log.
pub(crate) const KEPT: [RecordColumn; 6] = [
    RecordColumn::Offset,
    RecordColumn::Timestamp,
    RecordColumn::TimestampType,
    RecordColumn::CommittedAt,
    RecordColumn::Key,
    RecordColumn::Value,
];

/// Who asks for what.
#[derive(Debug)]
pub(crate) struct LookUp<'a> {
    /// The topic's state as of before the pin.
    pub(crate) view: &'a View,
    /// What is read past it.
    pub(crate) pinned: &'a Arc<Pinned>,
    /// What the reader is about to commit behind it, with all raw columns.
    pub(crate) own: &'a HashMap<TopicPartition, RecordBatch>,
    /// The topic.
    pub(crate) topic: TopicId,
    /// How many partitions it has.
    pub(crate) partitions: i32,
    /// How the keys were written.
    pub(crate) format: &'a RecordFormat,
}

/// A key's latest record, as far as it is known.
#[derive(Debug)]
struct Found {
    offset: i64,
    timestamp_ms: i64,
    timestamp_type: TimestampType,
    committed_at_us: i64,
    /// `None`: to be read by its offset.
    value: Option<Vec<u8>>,
}

/// Where the log has to be read: from the state's position to the pinned end.
type Tail = (TopicPartition, i64, i64);

/// Latest record of each key in each partition.
type Latest = BTreeMap<(i32, Bytes), Found>;

impl LookUp<'_> {
    /// The latest records of these keys that are no tombstones, ordered by partition and offset; `None` if a scan has to
    /// answer.
    ///
    /// # Errors
    /// Those of reading the log and the objects; never the state's own.
    pub(crate) async fn run(&self, keys: &[Bytes], columns: &[RecordColumn]) -> Result<Option<RecordBatch>> {
        // What is not committed has no offset to be read by.
        let unread = !self.own.is_empty() && columns.contains(&RecordColumn::Headers);
        if unread || keys.iter().any(|key| key.len() > KEY_BYTES_MAX) {
            return Ok(None);
        }
        let Some((mut latest, tails)) = self.look_into_state(keys).await else { return Ok(None) };
        for tail in tails {
            self.read_tail(tail, keys, &mut latest).await?;
        }
        let mut judge = if self.own.is_empty() { None } else { KeyJudge::new(self.format)? };
        let own = self.own.iter().filter(|(place, _)| place.topic == self.topic);
        for (place, rows) in own {
            let kept = rows.project(&KEPT.map(|column| column as usize)).map_err(Error::format("view own rows"))?;
            // Another spelling would have to be read by an offset, and what is not committed has none.
            if judge.as_mut().map(|judge| judge.has_foreign(&kept)).transpose()? == Some(true) {
                return Ok(None);
            }
            bring_up(place.partition, &kept, (keys, &[]), &mut latest);
        }
        self.rows(latest, columns).await.map(Some)
    }

    /// What the state knows of the keys, and what is to be read past it; `None` if it cannot help.
    async fn look_into_state(&self, keys: &[Bytes]) -> Option<(Latest, Vec<Tail>)> {
        let mut ranges = Vec::new();
        for partition in 0..self.partitions {
            let place = TopicPartition { topic: self.topic, partition };
            ranges.push((place, self.pinned.range(place)?));
        }
        let (view, keys, form) = (self.view.clone(), keys.to_vec(), key_form(self.format));
        let pinned = Arc::clone(self.pinned);
        let look = move || {
            let Some(mark) = view.mark()?.filter(|mark| mark.key_form == form) else {
                return Ok(None);
            };
            let (mut latest, mut tails, mut behind) = (Latest::new(), Vec::new(), 0);
            for (place, range) in ranges {
                let position = mark.position(place.partition).max(range.start);
                if !pinned.tells_all(place, position, i64::MIN) {
                    return Ok(None);
                }
                // Beyond the pin it would lead, which it never does; then it is not trusted.
                if position > range.end {
                    return Ok(None);
                }
                behind += range.end - position;
                if behind > TAIL_RECORDS_MAX {
                    return Ok(None);
                }
                if position < range.end {
                    tails.push((place, position, range.end));
                }
                for key in &keys {
                    let Some(bytes) = view.get(&entry_key(place.partition, key))? else { continue };
                    let Some(entry) = Entry::from_bytes(&bytes) else {
                        view.found_damaged();
                        return Ok(None);
                    };
                    if entry.offset >= range.start {
                        latest.insert((place.partition, key.clone()), Found::from(entry));
                    }
                }
            }
            Ok(Some((latest, tails)))
        };
        match worker::blocking(look).await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(topic = %self.topic, %error, "the keyed state cannot be read; the topic is scanned");
                self.view.found_damaged();
                None
            }
        }
    }

    /// Brings what is known up to the pinned end.
    async fn read_tail(&self, (place, start, end): Tail, keys: &[Bytes], latest: &mut Latest) -> Result<()> {
        let request = ScanRequest { offset_start: start, offset_end: end, ..ScanRequest::all(KEPT.to_vec()) };
        let mut rows = self.pinned.scan(place, &request)?;
        let mut judge = KeyJudge::new(self.format)?;
        while let Some(batch) = rows.try_next().await? {
            let written = judge.as_mut().map(|judge| judge.written(&batch)).transpose()?.unwrap_or_default();
            bring_up(place.partition, &batch, (keys, &written), latest);
        }
        Ok(())
    }

    /// The records found as rows of these columns.
    async fn rows(&self, latest: Latest, columns: &[RecordColumn]) -> Result<RecordBatch> {
        let mut ordered: BTreeMap<(i32, i64), RecordBatch> = BTreeMap::new();
        let by_offset = columns.contains(&RecordColumn::Headers);
        for ((partition, key), found) in latest {
            let place = (partition, found.offset);
            let row = match &found.value {
                Some(value) if !by_offset => found.row(partition, &key, value, columns)?,
                _ => self.read(TopicPartition { topic: self.topic, partition }, found.offset, columns).await?,
            };
            ordered.insert(place, row);
        }
        let schema = schema_of(columns);
        concat_batches(&schema, ordered.values()).map_err(Error::format("put looked up rows together"))
    }

    /// One record by its offset.
    async fn read(&self, place: TopicPartition, offset: i64, columns: &[RecordColumn]) -> Result<RecordBatch> {
        let (offset_start, offset_end) = (offset, offset + 1);
        let request = ScanRequest { offset_start, offset_end, ..ScanRequest::all(columns.to_vec()) };
        let batches: Vec<RecordBatch> = self.pinned.scan(place, &request)?.try_collect().await?;
        concat_batches(&schema_of(columns), &batches).map_err(Error::format("read a looked up row"))
    }
}

/// Takes a batch of later records, which has the columns of [`KEPT`]; `written` are their keys as SQL would write them, where
/// that may be otherwise.
fn bring_up(partition: i32, batch: &RecordBatch, (keys, written): (&[Bytes], &[Option<Bytes>]), latest: &mut Latest) {
    for (row, record) in Kept::of(batch).enumerate() {
        let (key, entry) = record.under(written.get(row).and_then(Option::as_deref));
        let Some(wanted) = keys.iter().find(|wanted| key == Some(wanted.as_ref())) else { continue };
        let key = (partition, wanted.clone());
        match record.value {
            None => drop(latest.remove(&key)),
            Some(_) => drop(latest.insert(key, Found::from(entry))),
        }
    }
}

impl Found {
    fn row(&self, partition: i32, key: &[u8], value: &[u8], columns: &[RecordColumn]) -> Result<RecordBatch> {
        let mut rows = RowBuilder::new(columns);
        let Self { offset, timestamp_ms, timestamp_type, committed_at_us, .. } = *self;
        let (key, value, headers) = (Some(key), Some(value), Vec::new());
        let record = RecordView { offset, timestamp_ms, key, value, headers };
        rows.push(&RowOrigin { partition, timestamp_type, committed_at_us }, &record);
        rows.finish()
    }
}

impl From<Entry<'_>> for Found {
    fn from(entry: Entry<'_>) -> Self {
        let Entry { offset, timestamp_ms, timestamp_type, committed_at_us, value } = entry;
        let by_log = timestamp_type == TimestampType::LogAppendTime as i8;
        let timestamp_type = if by_log { TimestampType::LogAppendTime } else { TimestampType::CreateTime };
        Self { offset, timestamp_ms, timestamp_type, committed_at_us, value: value.map(<[u8]>::to_vec) }
    }
}

/// A record with the columns of [`KEPT`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept<'a> {
    pub(crate) offset: i64,
    timestamp_ms: i64,
    timestamp_type: i8,
    committed_at_us: i64,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
}

impl<'a> Kept<'a> {
    /// The records of a batch that has the columns of [`KEPT`].
    pub(crate) fn of(batch: &'a RecordBatch) -> impl Iterator<Item = Self> {
        let offsets = batch.column(0).as_primitive::<Int64Type>();
        let timestamps = batch.column(1).as_primitive::<TimestampMillisecondType>();
        let types = batch.column(2).as_primitive::<Int8Type>();
        let commits = batch.column(3).as_primitive::<TimestampMicrosecondType>();
        let (keys, values) = (batch.column(4).as_binary::<i32>(), batch.column(5).as_binary::<i32>());
        (0..batch.num_rows()).map(move |row| Self {
            offset: offsets.value(row),
            timestamp_ms: timestamps.value(row),
            timestamp_type: types.value(row),
            committed_at_us: commits.value(row),
            key: keys.is_valid(row).then(|| keys.value(row)),
            value: values.is_valid(row).then(|| values.value(row)),
        })
    }

    /// The key that it is kept under, and what is kept: of a record whose key SQL writes otherwise its place alone, since the
    /// row has the key's own bytes.
    pub(crate) fn under<'k>(&self, written: Option<&'k [u8]>) -> (Option<&'k [u8]>, Entry<'a>)
    where
        'a: 'k,
    {
        let entry = self.entry();
        match written {
            Some(written) if self.key != Some(written) => (Some(written), Entry { value: None, ..entry }),
            _ => (self.key, entry),
        }
    }

    /// As the state keeps it.
    fn entry(&self) -> Entry<'a> {
        Entry {
            offset: self.offset,
            timestamp_ms: self.timestamp_ms,
            timestamp_type: self.timestamp_type,
            committed_at_us: self.committed_at_us,
            value: self.value,
        }
    }
}
