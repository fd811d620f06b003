//! Neighbouring entries of a manifest become one entry: their rows in the order of partitions and offsets, without those
//! that go. Merging and compaction are both this.
//!
//! Row groups are read one by one and written as soon as enough rows are together, so memory holds a few row groups and
//! the object being made, whatever the entries hold. An object that would take more than its share of `memory.limit` is put
//! and another begun: then several entries come of it, cut between two row groups. Raw columns are copied as they are; declared ones are decoded anew,
//! so that objects of different declarations can become one. What is read is checked against its checksums, and before
//! anything is published the rows are counted: what did not go must be there.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt, future, stream};
use object_store::path::Path;

use crate::error::{Error, Result};
use crate::ids::TopicId;
use crate::manifest::model::{Cover, Entry, GroupAt, Lost, Object, TopicManifest};
use crate::manifest::uploads::Upload;
use crate::record::columns::{RecordColumn, record_schema};
use crate::record::format::RecordFormat;
use crate::scan::read_group_of;
use crate::tier::declared::Declared;
use crate::tier::run::Runner;
use crate::tier::write::{Finished, GROUP_BYTES_MAX, GROUP_ROWS_MAX, ObjectFile};
use crate::worker;

/// Row groups read ahead of the one being written.
const READS_MAX: usize = 2;

/// Objects that have no more than this together are read whole, with one request each, before they are rewritten: a topic
/// of many partitions has thousands of row groups in them, and a request costs more than the bytes.
const WHOLE_BYTES_MAX: u64 = 32 << 20;

/// Objects read whole at once.
const WHOLE_READS_MAX: usize = 8;

/// Which rows go.
pub(crate) trait Goes: Sync {
    /// Whether any row of this row group goes.
    fn some_of(&self, at: &GroupAt) -> bool;
    /// Whether this row goes, by its number in the row group.
    fn row(&self, at: &GroupAt, row: usize) -> bool;
}

/// None goes.
pub(crate) struct NoneGoes;

impl Goes for NoneGoes {
    fn some_of(&self, _: &GroupAt) -> bool {
        false
    }

    fn row(&self, _: &GroupAt, _: usize) -> bool {
        false
    }
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Rewritten {
    /// In the place of the others; one, unless that would have been too large.
    pub(crate) entries: Vec<Entry>,
    /// Rows that went because they were marked.
    pub(crate) rows_removed: u64,
    /// What was put is swept if this is dropped before it is published.
    pub(crate) upload: Upload,
}

impl Runner {
    /// Makes one entry of neighbours, and puts its object; nothing is published. Rows below the manifest's starts go too.
    ///
    /// # Errors
    /// [`Error::ObjectStore`], [`Error::Corrupt`] naming a damaged object, [`Error::Format`].
    pub(crate) async fn rewrite(
        &self,
        manifest: &TopicManifest,
        entries: &[Arc<Entry>],
        goes: &dyn Goes,
    ) -> Result<Rewritten> {
        let format = self.format_of(manifest.topic);
        if let Some(format) = &format {
            match self.rewrite_with(manifest, entries, goes, Some(format)).await {
                // The raw columns must never wait for what Parquet has no words for.
                Err(error @ (Error::Format { .. } | Error::Config { .. })) => {
                    tracing::warn!(topic = %manifest.topic, %error, "an object is written without declared columns");
                }
                rewritten => return rewritten,
            }
        }
        self.rewrite_with(manifest, entries, goes, None).await
    }

    async fn rewrite_with(
        &self,
        manifest: &TopicManifest,
        entries: &[Arc<Entry>],
        goes: &dyn Goes,
        format: Option<&RecordFormat>,
    ) -> Result<Rewritten> {
        let topic = manifest.topic;
        let declared = format.map(Declared::new).transpose()?;
        let mut cutter = Cutter::new(topic, declared)?;
        let (mut rows_read, mut rows_removed, mut rows_below) = (0, 0, 0);
        let groups = groups_in_order(entries);
        let whole = self.read_whole(entries).await;
        let read = |at| {
            let bytes = GroupAt::object(at).and_then(|object| whole.get(object.path.as_str()).cloned());
            read_group_of(&self.cold, at, &RecordColumn::ALL, bytes).boxed()
        };
        let reads: Vec<_> = groups.iter().map(read).collect();
        let mut reads = stream::iter(reads).buffered(READS_MAX);
        let upload = self.cold.begin(topic);
        let mut rest = Rest { covers: covers(entries), lost: lost(entries) };
        let mut made = Vec::new();
        for (number, at) in groups.iter().enumerate() {
            let Some(rows) = reads.try_next().await? else { break };
            rows_read += rows.num_rows() as u64;
            let start = manifest.start(at.group.partition);
            let kept = keep(&rows, at, start, goes, &mut rows_below, &mut rows_removed)?;
            cutter = cutter.push(at.group.partition, kept).await?;
            if number + 1 < groups.len() && cutter.is_full(self.rewrite_bytes_max) {
                let object = self.put_made(topic, &upload, cutter).await?;
                let (covers, lost) = rest.cut(at.group.partition, at.group.last_offset + 1);
                made.push(Entry { covers, object, lost });
                cutter = Cutter::new(topic, format.map(Declared::new).transpose()?)?;
            }
        }
        drop(reads);
        let object = self.put_made(topic, &upload, cutter).await?;
        made.push(Entry { covers: rest.covers, object, lost: rest.lost });
        let expected: u64 = groups.iter().map(|at| u64::from(at.group.rows)).sum();
        let objects = made.iter().filter_map(|entry| entry.object.as_ref());
        let written = objects.flat_map(|object| &object.row_groups).map(|group| u64::from(group.rows)).sum::<u64>();
        if rows_read != expected || written + rows_removed + rows_below != rows_read {
            let reason =
                format!("of {expected} rows {rows_read} were read and {written} written, {rows_removed} were to go");
            return Err(Error::Corrupt { place: format!("rewriting topic {topic}"), reason });
        }
        Ok(Rewritten { entries: made, rows_removed, upload })
    }

    async fn put_made(&self, topic: TopicId, upload: &Upload, cutter: Cutter) -> Result<Option<Object>> {
        match cutter.finish().await? {
            Some(finished) => self.put(topic, upload, finished).await.map(Some),
            None => Ok(None),
        }
    }
}

/// What the entries still to be made cover.
struct Rest {
    covers: Vec<Cover>,
    lost: Vec<Lost>,
}

impl Rest {
    /// Takes off what lies before an offset of a partition, partitions before that included.
    fn cut(&mut self, partition: i32, offset: i64) -> (Vec<Cover>, Vec<Lost>) {
        // The part of a range that lies before, and the one that does not; either may be nothing.
        let parts = |of: i32, start: i64, end: i64| match of.cmp(&partition) {
            Ordering::Less => (start, end, end),
            Ordering::Equal => (start, offset.clamp(start, end), end),
            Ordering::Greater => (start, start, end),
        };
        let (mut covers, mut lost) = (Vec::new(), Vec::new());
        for cover in std::mem::take(&mut self.covers) {
            let (start, middle, end) = parts(cover.partition, cover.start, cover.end);
            covers.extend((start < middle).then_some(Cover { end: middle, ..cover }));
            self.covers.extend((middle < end).then_some(Cover { start: middle, ..cover }));
        }
        for range in std::mem::take(&mut self.lost) {
            let (start, middle, end) = parts(range.partition, range.start, range.end);
            lost.extend((start < middle).then(|| Lost { end: middle, ..range.clone() }));
            self.lost.extend((middle < end).then_some(Lost { start: middle, ..range }));
        }
        (covers, lost)
    }
}

impl Runner {
    /// The objects of these entries by their names, if they are small. One that cannot be read is left to whoever reads its
    /// row groups, and knows what to say.
    async fn read_whole<'e>(&self, entries: &'e [Arc<Entry>]) -> HashMap<&'e str, Bytes> {
        let objects: Vec<_> = entries.iter().filter_map(|entry| entry.object.as_ref()).collect();
        if objects.iter().map(|object| object.bytes).sum::<u64>() > WHOLE_BYTES_MAX {
            return HashMap::new();
        }
        let read = |object: &'e Object| async move {
            let (path, all) = (Path::from(object.path.as_str()), 0..object.bytes);
            let parts = self.cold.bucket.read_ranges(&path, object.bytes, std::slice::from_ref(&all)).await;
            Some((object.path.as_str(), parts.ok()?.pop()?))
        };
        let reads: Vec<_> = objects.into_iter().map(|object| read(object).boxed()).collect();
        stream::iter(reads).buffered(WHOLE_READS_MAX).filter_map(future::ready).collect().await
    }
}

/// The row groups of all entries, by partition and offset.
fn groups_in_order(entries: &[Arc<Entry>]) -> Vec<GroupAt> {
    let mut by_partition: BTreeMap<i32, Vec<GroupAt>> = BTreeMap::new();
    for entry in entries {
        for (ordinal, group) in entry.object.iter().flat_map(|object| object.row_groups.iter().enumerate()) {
            let at = GroupAt { object: Arc::clone(entry), ordinal, group: *group };
            by_partition.entry(group.partition).or_default().push(at);
        }
    }
    by_partition.into_values().flatten().collect()
}

/// The rows of a row group that stay.
fn keep(
    rows: &RecordBatch,
    at: &GroupAt,
    start: i64,
    goes: &dyn Goes,
    rows_below: &mut u64,
    rows_removed: &mut u64,
) -> Result<RecordBatch> {
    if at.group.first_offset >= start && !goes.some_of(at) {
        return Ok(rows.clone());
    }
    let offsets = rows.column(RecordColumn::Offset as usize).as_primitive::<Int64Type>();
    let stays = offsets.values().iter().enumerate().map(|(row, offset)| {
        let below = *offset < start;
        let marked = !below && goes.row(at, row);
        *rows_below += u64::from(below);
        *rows_removed += u64::from(marked);
        !below && !marked
    });
    let stays: BooleanArray = stays.map(Some).collect();
    filter_record_batch(rows, &stays).map_err(Error::format("leave rows out"))
}

/// One cover per partition: those of neighbours touch.
fn covers(entries: &[Arc<Entry>]) -> Vec<Cover> {
    let mut covers: BTreeMap<i32, Cover> = BTreeMap::new();
    for cover in entries.iter().flat_map(|entry| &entry.covers).filter(|cover| cover.start < cover.end) {
        let whole = covers.entry(cover.partition).or_insert(*cover);
        whole.start = whole.start.min(cover.start);
        whole.end = whole.end.max(cover.end);
    }
    covers.into_values().collect()
}

fn lost(entries: &[Arc<Entry>]) -> Vec<Lost> {
    let mut lost: Vec<Lost> = entries.iter().flat_map(|entry| entry.lost.iter().cloned()).collect();
    lost.sort_by_key(|lost| (lost.partition, lost.start));
    lost
}

/// Whole row groups that came out small are put together until they are as large as those that tiering writes.
struct Cutter {
    file: ObjectFile,
    partition: i32,
    waiting: Vec<RecordBatch>,
    rows: usize,
    bytes: usize,
}

impl Cutter {
    fn new(topic: TopicId, declared: Option<Declared>) -> Result<Self> {
        let file = ObjectFile::new(topic.to_string(), declared)?;
        Ok(Self { file, partition: 0, waiting: Vec::new(), rows: 0, bytes: 0 })
    }

    /// Adds rows; writes those before them if they do not fit with them into one row group.
    async fn push(mut self, partition: i32, rows: RecordBatch) -> Result<Self> {
        if rows.num_rows() == 0 {
            return Ok(self);
        }
        let bytes = record_bytes(&rows);
        let full = self.rows + rows.num_rows() > GROUP_ROWS_MAX || self.bytes + bytes > GROUP_BYTES_MAX;
        if full || self.partition != partition {
            self = self.write().await?;
        }
        self.partition = partition;
        self.rows += rows.num_rows();
        self.bytes += bytes;
        self.waiting.push(rows);
        Ok(self)
    }

    /// Whether there are rows, and another row group might make more than so many bytes.
    fn is_full(&self, bytes_max: u64) -> bool {
        let any = self.rows > 0 || self.file.has_rows();
        any && (self.file.bytes() + self.bytes + GROUP_BYTES_MAX) as u64 > bytes_max
    }

    /// Writes what waits, where encoding it keeps nobody else from working.
    async fn write(mut self) -> Result<Self> {
        if self.waiting.is_empty() {
            return Ok(self);
        }
        let (waiting, mut file) = (std::mem::take(&mut self.waiting), self.file);
        let file = worker::background(move || {
            let rows = concat_batches(&record_schema(), &waiting).map_err(Error::format("join row groups"))?;
            file.write_group(&rows).map(|()| file)
        })
        .await?;
        Ok(Self { file, rows: 0, bytes: 0, ..self })
    }

    async fn finish(self) -> Result<Option<Finished>> {
        let file = self.write().await?.file;
        worker::background(move || file.finish()).await
    }
}

/// Bytes of keys, values and headers.
fn record_bytes(rows: &RecordBatch) -> usize {
    let span = |offsets: &[i32]| match (offsets.first(), offsets.last()) {
        (Some(first), Some(last)) => usize::try_from(last - first).unwrap_or(0),
        _ => 0,
    };
    let bytes = |column: RecordColumn| span(rows.column(column as usize).as_binary::<i32>().value_offsets());
    let headers = rows.column(RecordColumn::Headers as usize).as_list::<i32>();
    let fields = headers.values().as_struct().columns();
    let of_headers: usize = fields.iter().map(|field| span(field.as_binary::<i32>().value_offsets())).sum();
    bytes(RecordColumn::Key) + bytes(RecordColumn::Value) + of_headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_covers_what_was_covered_and_nothing_twice() {
        let cover = |partition, start, end| Cover { partition, start, end };
        let lost = |partition, start, end| Lost { partition, start, end, place: "there".to_owned() };
        let mut rest = Rest {
            covers: vec![cover(0, 0, 10), cover(1, 5, 20), cover(2, 0, 3)],
            lost: vec![lost(1, 8, 12), lost(1, 15, 16)],
        };
        assert_eq!(rest.cut(0, 10), (vec![cover(0, 0, 10)], vec![]));
        assert_eq!(rest.cut(1, 10), (vec![cover(1, 5, 10)], vec![lost(1, 8, 10)]));
        assert_eq!(rest.cut(1, 10), (vec![], vec![]));
        assert_eq!(
            (rest.covers, rest.lost),
            (vec![cover(1, 10, 20), cover(2, 0, 3)], vec![lost(1, 10, 12), lost(1, 15, 16)])
        );
    }
}
