//! Column chunks of cold objects, checked before anybody looks at them, and row groups read whole.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use bytes::{Buf, Bytes};
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::path::Path;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::bloom_filter::Sbbf;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use parquet::file::reader::{ChunkReader, Length};

use crate::error::{Error, Result};
use crate::manifest::model::{GroupAt, Object};
use crate::object::bucket::Bucket;
use crate::record::columns::RecordColumn;
use crate::record::rows::schema_of;
use crate::tier::cold::Cold;
use crate::tier::write::{check_version, key_filter, key_filter_crcs};
use crate::worker;

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
    fn expect_chunks<'a>(
        &mut self,
        footer: &ArrowReaderMetadata,
        object: &Object,
        groups: impl IntoIterator<Item = &'a GroupAt>,
    ) -> Result<()> {
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

/// The column chunks that a mask names, for each of some row groups of one object; those of neighbours are read together.
///
/// # Errors
/// As [`read_footer`].
pub(super) async fn read_chunks(
    cold: &Cold,
    object: &Object,
    footer: &ArrowReaderMetadata,
    groups: &[(GroupAt, ProjectionMask)],
) -> Result<Vec<Parts>> {
    let mut reader = ObjectReader::new(&cold.bucket, object);
    reader.expect_chunks(footer, object, groups.iter().map(|(at, _)| at))?;
    let ranges: Vec<Vec<Range<u64>>> = groups.iter().map(|(at, mask)| chunk_ranges(footer, at.ordinal, mask)).collect();
    let read = reader.get_byte_ranges(ranges.concat()).await.map_err(|error| failed(&object.path, error))?;
    let mut read = read.into_iter();
    let parts = ranges.into_iter().map(|ranges| {
        let parts = ranges.into_iter().map(|range| range.start).zip(&mut read).collect();
        Parts { bytes: object.bytes, parts }
    });
    Ok(parts.collect())
}

/// Where the column chunks that a mask names are.
pub(super) fn chunk_ranges(footer: &ArrowReaderMetadata, ordinal: usize, mask: &ProjectionMask) -> Vec<Range<u64>> {
    let chunks = footer.metadata().row_group(ordinal).columns().iter().enumerate();
    let wanted = chunks.filter(|(leaf, _)| mask.leaf_included(*leaf)).map(|(_, chunk)| chunk.byte_range());
    wanted.map(|(start, length)| start..start + length).collect()
}

/// The filters on the keys of some row groups of one object, `None` for those that have none whose checksum is known; and
/// how many bytes they are.
///
/// # Errors
/// As [`read_footer`].
pub(super) async fn read_key_filters(
    cold: &Cold,
    object: &Object,
    footer: &ArrowReaderMetadata,
    groups: &[GroupAt],
) -> Result<(Vec<Option<Sbbf>>, u64)> {
    let Some(crcs) = key_filter_crcs(footer.metadata().file_metadata().key_value_metadata()) else {
        return Ok((groups.iter().map(|_| None).collect(), 0));
    };
    let mut reader = ObjectReader::new(&cold.bucket, object);
    let mut ranges = Vec::new();
    let place = |at: &GroupAt| {
        let (start, length) = footer.metadata().row_groups().get(at.ordinal).and_then(key_filter)?;
        reader.checks.insert(start, (length, *crcs.get(at.ordinal)?));
        ranges.push(start..start + length);
        Some(ranges.len() - 1)
    };
    let places: Vec<Option<usize>> = groups.iter().map(place).collect();
    let bytes = ranges.iter().map(|range| range.end - range.start).sum();
    let read = reader.get_byte_ranges(ranges).await.map_err(|error| failed(&object.path, error))?;
    let filter = |place: Option<usize>| {
        let filter = place.and_then(|place| read.get(place)).map(|bytes| Sbbf::from_bytes(bytes)).transpose();
        filter.map_err(|error| failed(&object.path, error))
    };
    Ok((places.into_iter().map(filter).collect::<Result<_>>()?, bytes))
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

/// The footer agrees with the manifest about the row groups: the manifest's offsets are what the seam relies on.
pub(super) fn check_groups(footer: &ArrowReaderMetadata, object: &Object, groups: &[GroupAt]) -> Result<()> {
    for at in groups {
        let found = footer.metadata().row_groups().get(at.ordinal).map(|group| group.num_rows());
        if found != Some(i64::from(at.group.rows)) {
            let reason = format!("row group {} has {found:?} rows where {} are recorded", at.ordinal, at.group.rows);
            return Err(Error::Corrupt { place: object.path.clone(), reason });
        }
    }
    Ok(())
}

/// The number of a column among those of the file.
pub(super) fn root_of(footer: &ArrowReaderMetadata, path: &str, column: &str) -> Result<usize> {
    let missing = |_| Error::Corrupt { place: path.to_owned(), reason: format!("it has no column {column}") };
    footer.schema().index_of(column).map_err(missing)
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
    reader.expect_chunks(&footer, object, [at])?;
    let roots = columns.iter().map(|column| root_of(&footer, &path, column.name())).collect::<Result<Vec<_>>>()?;
    let mask = ProjectionMask::roots(footer.parquet_schema(), roots);
    let ranges = chunk_ranges(&footer, at.ordinal, &mask);
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
#[derive(Debug)]
pub(super) struct Parts {
    /// Of the whole object.
    bytes: u64,
    parts: BTreeMap<u64, Bytes>,
}

impl Parts {
    /// How much was read.
    pub(super) fn bytes_read(&self) -> u64 {
        self.parts.values().map(|part| part.len() as u64).sum()
    }

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

pub(super) fn no_object() -> Error {
    Error::Corrupt { place: "manifest".into(), reason: "a row group is in no object".into() }
}

/// What a checksum or the object store said, if it was one of these that spoke.
pub(super) fn failed(path: &str, error: ParquetError) -> Error {
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
