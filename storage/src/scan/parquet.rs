//! Row groups of cold objects as rows: only the columns asked for, only the offsets wanted, in offset order.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use bytes::{Buf, Bytes};
use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt, TryStreamExt, future};
use object_store::path::Path;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStreamBuilder};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use parquet::file::reader::{ChunkReader, Length};

use crate::error::{Error, Result};
use crate::manifest::model::{GroupAt, Object, Wanted};
use crate::object::bucket::Bucket;
use crate::record::columns::RecordColumn;
use crate::record::rows::schema_of;
use crate::scan::plan::ObjectRead;
use crate::tier::cold::Cold;
use crate::tier::write::check_version;
use crate::worker;

/// Objects opened at once: the next footer is there when the rows before it have been read.
const OPENS_MAX: usize = 2;

/// One object, read through the bucket's retries; what is read is checked before anybody looks at it.
struct ObjectReader {
    bucket: Bucket,
    path: Path,
    bytes: u64,
    footer_bytes: u32,
    /// All of it, if somebody has read it before.
    whole: Option<Bytes>,
    /// Length and checksum of the parts that will be read, by where they begin.
    checks: HashMap<u64, (u64, u32)>,
}

impl ObjectReader {
    fn new(bucket: &Bucket, object: &Object) -> Self {
        Self {
            bucket: bucket.clone(),
            path: Path::from(object.path.as_str()),
            bytes: object.bytes,
            footer_bytes: object.footer_bytes,
            whole: None,
            checks: HashMap::from([(
                object.bytes.saturating_sub(object.footer_bytes.into()),
                (object.footer_bytes.into(), object.footer_crc),
            )]),
        }
    }

    /// Expects the column chunks of these row groups to be what the manifest says.
    fn expect_chunks(&mut self, footer: &ArrowReaderMetadata, object: &Object, groups: &[GroupAt]) -> Result<()> {
        let leaves = footer.parquet_schema().num_columns();
        for at in groups {
            let crcs = object.chunk_crcs.get(at.ordinal * leaves..(at.ordinal + 1) * leaves).ok_or_else(|| {
                let reason = format!("the manifest has no checksums of row group {}", at.ordinal);
                Error::Corrupt { place: object.path.clone(), reason }
            })?;
            for (chunk, crc) in footer.metadata().row_group(at.ordinal).columns().iter().zip(crcs) {
                let (start, length) = chunk.byte_range();
                self.checks.insert(start, (length, *crc));
            }
        }
        Ok(())
    }

    /// Checks what was read; a part without a checksum is none that we ask for, so it is refused.
    fn check(&self, range: &Range<u64>, bytes: &Bytes) -> parquet::errors::Result<()> {
        let length = range.end.saturating_sub(range.start);
        let reason = match self.checks.get(&range.start).filter(|(expected, _)| *expected == length) {
            Some((_, crc)) if crc_fast::crc32_iscsi(bytes) == *crc => return Ok(()),
            Some(_) => "do not match their checksum",
            None => "have no checksum",
        };
        let reason = format!("bytes {}..{} {reason}", range.start, range.end);
        Err(ParquetError::External(Box::new(Error::Corrupt { place: self.path.to_string(), reason })))
    }
}

/// A range of what was read whole; less if it is shorter, which its check will not take.
fn cut(whole: &Bytes, range: &Range<u64>) -> Bytes {
    let at = |position: u64| usize::try_from(position).unwrap_or(usize::MAX).min(whole.len());
    whole.slice(at(range.start)..at(range.end).max(at(range.start)))
}

impl AsyncFileReader for ObjectReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        async move {
            let mut parts = self.get_byte_ranges(vec![range]).await?;
            parts.pop().ok_or_else(|| ParquetError::General("the object store gave nothing for a range".to_owned()))
        }
        .boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, parquet::errors::Result<Vec<Bytes>>> {
        async move {
            let parts = match &self.whole {
                Some(whole) => ranges.iter().map(|range| cut(whole, range)).collect(),
                None => self.bucket.read_ranges(&self.path, self.bytes, &ranges).await?,
            };
            for (range, bytes) in ranges.iter().zip(&parts) {
                self.check(range, bytes)?;
            }
            Ok(parts)
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        async move {
            let (bytes, hint) = (self.bytes, self.footer_bytes as usize);
            let reader = ParquetMetaDataReader::new().with_prefetch_hint(Some(hint));
            Ok(Arc::new(reader.load_and_finish(self, bytes).await?))
        }
        .boxed()
    }
}

/// An object's footer, checked.
///
/// # Errors
/// [`Error::Corrupt`], [`Error::Config`] if a newer program wrote it, [`Error::ObjectStore`].
pub(crate) async fn read_footer(cold: &Cold, object: &Object) -> Result<ArrowReaderMetadata> {
    footer(cold, object, &mut ObjectReader::new(&cold.bucket, object)).await
}

/// The object's footer, from memory or from the bucket.
async fn footer(cold: &Cold, object: &Object, reader: &mut ObjectReader) -> Result<ArrowReaderMetadata> {
    if let Some(known) = cold.footers.get(&object.path) {
        return Ok(known);
    }
    let read = async {
        let metadata = reader.get_metadata(None).await?;
        ArrowReaderMetadata::try_new(metadata, ArrowReaderOptions::new())
    };
    let footer = read.await.map_err(|error| failed(&object.path, error))?;
    check_version(footer.metadata().file_metadata().key_value_metadata(), &object.path)?;
    cold.footers.insert(object.path.clone(), footer.clone(), footer.metadata().memory_size());
    Ok(footer)
}

/// Rows of the planned reads with these columns in this order, at most `batch_rows` in a batch.
pub(crate) fn rows(
    cold: Arc<Cold>,
    reads: impl Stream<Item = Result<ObjectRead>> + Send + 'static,
    columns: Arc<[RecordColumn]>,
    wanted: Wanted,
    batch_rows: usize,
) -> impl Stream<Item = Result<RecordBatch>> + Send + 'static {
    reads
        .map(move |read| {
            let (cold, columns) = (Arc::clone(&cold), Arc::clone(&columns));
            async move { open(&cold, read?, columns, wanted, batch_rows).await }
        })
        .buffered(OPENS_MAX)
        .try_flatten()
}

async fn open(
    cold: &Cold,
    read: ObjectRead,
    columns: Arc<[RecordColumn]>,
    wanted: Wanted,
    batch_rows: usize,
) -> Result<impl Stream<Item = Result<RecordBatch>> + Send + use<>> {
    let object = read.groups.first().and_then(GroupAt::object).ok_or_else(no_object)?;
    let path = object.path.clone();
    let mut reader = ObjectReader::new(&cold.bucket, object);
    let footer = footer(cold, object, &mut reader).await?;
    check_groups(&footer, object, &read.groups)?;
    reader.expect_chunks(&footer, object, &read.groups)?;
    let needed = columns.iter().copied().chain(read.clipped.then_some(RecordColumn::Offset));
    let roots = needed.map(|column| root_of(&footer, &path, column)).collect::<Result<Vec<_>>>()?;
    let mask = ProjectionMask::roots(footer.parquet_schema(), roots);
    let rows = ParquetRecordBatchStreamBuilder::new_with_metadata(reader, footer)
        .with_row_groups(read.groups.iter().map(|at| at.ordinal).collect())
        .with_projection(mask)
        .with_batch_size(batch_rows.max(1))
        .build()
        .map_err(|error| failed(&path, error))?;
    let rows = rows.map(move |batch| {
        let batch = batch.map_err(|error| failed(&path, error))?;
        let batch = if read.clipped { clip(&batch, &path, &wanted)? } else { batch };
        arrange(&batch, &columns, &path)
    });
    // A clipped group may have batches wholly outside.
    Ok(rows.try_filter(|rows| future::ready(rows.num_rows() > 0)))
}

/// The footer agrees with the manifest about the row groups: the manifest's offsets are what the seam relies on.
fn check_groups(footer: &ArrowReaderMetadata, object: &Object, groups: &[GroupAt]) -> Result<()> {
    for at in groups {
        let found = footer.metadata().row_groups().get(at.ordinal).map(|group| group.num_rows());
        if found != Some(i64::from(at.group.rows)) {
            let reason = format!("row group {} has {found:?} rows where {} are recorded", at.ordinal, at.group.rows);
            return Err(Error::Corrupt { place: object.path.clone(), reason });
        }
    }
    Ok(())
}

fn root_of(footer: &ArrowReaderMetadata, path: &str, column: RecordColumn) -> Result<usize> {
    footer
        .schema()
        .index_of(column.name())
        .map_err(|_| Error::Corrupt { place: path.to_owned(), reason: format!("it has no column {}", column.name()) })
}

/// The rows of a batch whose offsets are wanted; offsets ascend.
fn clip(batch: &RecordBatch, path: &str, wanted: &Wanted) -> Result<RecordBatch> {
    let offsets = batch
        .column_by_name(RecordColumn::Offset.name())
        .and_then(|column| column.as_primitive_opt::<Int64Type>())
        .ok_or_else(|| Error::Corrupt { place: path.to_owned(), reason: "its offsets are no integers".into() })?;
    let first = offsets.values().partition_point(|offset| *offset < wanted.start);
    let end = offsets.values().partition_point(|offset| *offset < wanted.end);
    Ok(batch.slice(first, end.saturating_sub(first)))
}

/// The columns asked for, in that order, with the types every scan gives.
fn arrange(batch: &RecordBatch, columns: &[RecordColumn], path: &str) -> Result<RecordBatch> {
    let arrays = columns.iter().filter_map(|column| batch.column_by_name(column.name()).map(Arc::clone)).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema_of(columns), arrays, &options)
        .map_err(Error::format(format!("read rows of {path}")))
}

/// One whole row group with these columns. What is read is decoded on a thread that may block, so that other
/// connections of this one are not kept waiting: a row group is at most
/// [`GROUP_BYTES_MAX`](crate::tier::write::GROUP_BYTES_MAX) and one record.
pub(crate) async fn read_group(cold: &Cold, at: &GroupAt, columns: &[RecordColumn]) -> Result<RecordBatch> {
    read_group_of(cold, at, columns, None).await
}

/// The same; of an object that was read whole nothing is asked of the bucket.
pub(crate) async fn read_group_of(
    cold: &Cold,
    at: &GroupAt,
    columns: &[RecordColumn],
    whole: Option<Bytes>,
) -> Result<RecordBatch> {
    let object = at.object().ok_or_else(no_object)?;
    let path = object.path.clone();
    let mut reader = ObjectReader { whole, ..ObjectReader::new(&cold.bucket, object) };
    let footer = footer(cold, object, &mut reader).await?;
    check_groups(&footer, object, std::slice::from_ref(at))?;
    reader.expect_chunks(&footer, object, std::slice::from_ref(at))?;
    let roots = columns.iter().map(|column| root_of(&footer, &path, *column)).collect::<Result<Vec<_>>>()?;
    let mask = ProjectionMask::roots(footer.parquet_schema(), roots);
    let chunks = footer.metadata().row_group(at.ordinal).columns().iter().enumerate();
    let ranges: Vec<_> =
        chunks.filter(|(leaf, _)| mask.leaf_included(*leaf)).map(|(_, chunk)| chunk.byte_range()).collect();
    let ranges: Vec<_> = ranges.into_iter().map(|(start, length)| start..start + length).collect();
    let parts = reader.get_byte_ranges(ranges.clone()).await.map_err(|error| failed(&path, error))?;
    let parts = Parts { bytes: object.bytes, parts: ranges.iter().map(|range| range.start).zip(parts).collect() };
    let (ordinal, rows, columns) = (at.ordinal, at.group.rows as usize, columns.to_vec());
    worker::blocking(move || decode(parts, footer, ordinal, mask, rows, &columns, &path)).await
}

/// Decodes what has been read of one row group.
fn decode(
    parts: Parts,
    footer: ArrowReaderMetadata,
    ordinal: usize,
    mask: ProjectionMask,
    rows: usize,
    columns: &[RecordColumn],
    path: &str,
) -> Result<RecordBatch> {
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(parts, footer)
        .with_row_groups(vec![ordinal])
        .with_projection(mask)
        .with_batch_size(rows.max(1))
        .build()
        .map_err(|error| failed(path, error))?;
    let batches = reader.map(|batch| {
        let batch = batch.map_err(|error| failed(path, ParquetError::from(error)))?;
        arrange(&batch, columns, path)
    });
    let batches = batches.collect::<Result<Vec<_>>>()?;
    arrow::compute::concat_batches(&schema_of(columns), &batches).map_err(Error::format("join rows of a row group"))
}

/// The parts of an object that have been read, by where they begin.
struct Parts {
    /// Of the whole object.
    bytes: u64,
    parts: BTreeMap<u64, Bytes>,
}

impl Parts {
    fn from(&self, start: u64) -> parquet::errors::Result<Bytes> {
        let part = self.parts.range(..=start).next_back().and_then(|(at, bytes)| {
            let skipped = usize::try_from(start - at).ok()?;
            (skipped <= bytes.len()).then(|| bytes.slice(skipped..))
        });
        part.ok_or_else(|| ParquetError::General(format!("the bytes at {start} were not read")))
    }
}

impl Length for Parts {
    fn len(&self) -> u64 {
        self.bytes
    }
}

impl ChunkReader for Parts {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        Ok(self.from(start)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        let rest = self.from(start)?;
        if length > rest.len() {
            return Err(ParquetError::EOF(format!("{length} bytes at {start} were not read")));
        }
        Ok(rest.slice(..length))
    }
}

fn no_object() -> Error {
    Error::Corrupt { place: "manifest".into(), reason: "a row group is in no object".into() }
}

/// What a checksum or the object store said, if it was one of these that spoke.
fn failed(path: &str, error: ParquetError) -> Error {
    let action = format!("read {path}");
    let source = match error {
        ParquetError::External(source) => source,
        error => return Error::format(action)(error),
    };
    let source = match source.downcast::<Error>() {
        Ok(ours) => return *ours,
        Err(source) => source,
    };
    match source.downcast::<object_store::Error>() {
        // Whoever reads it holds a manifest that names it, so nobody swept it: no later try finds it.
        Ok(store) if matches!(*store, object_store::Error::NotFound { .. }) => Error::Corrupt {
            place: path.to_owned(),
            reason: "a manifest names it, but the object store does not have it".to_owned(),
        },
        Ok(store) => Error::object(action)(*store),
        Err(source) => Error::format(action)(ParquetError::External(source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_store_said_stays_the_stores_word() {
        let error = object_store::Error::Generic { store: "x", source: "busy".into() };
        assert!(matches!(failed("x", error.into()), Error::ObjectStore { .. }));
        let error = object_store::Error::NotFound { path: "x".into(), source: "gone".into() };
        assert!(matches!(failed("x", error.into()), Error::Corrupt { place, .. } if place == "x"));
        assert!(matches!(failed("x", ParquetError::General("odd".into())), Error::Format { .. }));
    }
}
