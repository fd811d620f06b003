//! Batches to one Parquet object: rows by partition and offset, row groups of one partition each, small enough that a
//! Kafka fetch of 1 MiB reads one.
//!
//! Memory is bounded by one row group being built and the finished object: what a run takes from the log is limited by
//! `tier.run_bytes_max`, and records only get smaller here.

use std::sync::Arc;

use arrow::array::{ArrowPrimitiveType, AsArray};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType, TimestampMillisecondType};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::{KeyValue, RowGroupMetaData, SortingColumn};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use crate::envelope::newer;
use crate::error::{Error, Result};
use crate::manifest::model::RowGroup;
use crate::record::batch::{BatchLimits, CheckedBatch, RecordView};
use crate::record::columns::{RecordColumn, record_schema};
use crate::record::rows::{RowBuilder, RowOrigin};
use crate::tier::declared::Declared;

/// Rows of a row group, at the most.
pub(crate) const GROUP_ROWS_MAX: usize = 16 << 10;

/// Bytes of keys, values and headers that make a row group full.
pub(crate) const GROUP_BYTES_MAX: usize = 4 << 20;

/// Chance that the bloom filter on the key is wrong about a row group.
const BLOOM_FPP: f64 = 0.01;

/// Version of the layout, kept in the object under [`VERSION_KEY`].
const LAYOUT_VERSION: u32 = 1;
/// In an object's key-value metadata: the version of its layout.
const VERSION_KEY: &str = "aquifer.version";
/// In an object's key-value metadata: the id of its topic.
pub(crate) const TOPIC_KEY: &str = "aquifer.topic";
/// In an object's key-value metadata: CRC-32C of the bloom filter on the key of each row group, in hexadecimal digits with
/// commas between. The manifest has checksums of column chunks only, and a filter with a flipped bit would hide rows.
const KEY_FILTERS_KEY: &str = "aquifer.key_filters";

/// An object ready to be put.
#[derive(Debug)]
pub(crate) struct Finished {
    /// The whole file.
    pub(crate) bytes: Bytes,
    /// How much of its end is the footer, with length and magic.
    pub(crate) footer_bytes: u32,
    /// CRC-32C of that.
    pub(crate) footer_crc: u32,
    /// CRC-32C of every column chunk, row group by row group.
    pub(crate) chunk_crcs: Vec<u32>,
    /// Its row groups.
    pub(crate) row_groups: Vec<RowGroup>,
}

/// A Parquet file being made of whole row groups of raw rows.
pub(crate) struct ObjectFile {
    parquet: ArrowWriter<Vec<u8>>,
    /// Adds the declared columns, if there are any.
    declared: Option<Declared>,
    row_groups: Vec<RowGroup>,
}

impl ObjectFile {
    /// A file for `topic` (its id as text, for people who look inside), with declared columns or without.
    ///
    /// # Errors
    /// [`Error::Format`] if Parquet has no words for a declared column.
    pub(crate) fn new(topic: String, declared: Option<Declared>) -> Result<Self> {
        let schema = declared.as_ref().map_or_else(record_schema, |declared| Arc::clone(declared.schema()));
        let metadata = declared.as_ref().map(Declared::metadata);
        let parquet = ArrowWriter::try_new(Vec::new(), schema, Some(properties(topic, metadata)?))
            .map_err(Error::format("begin an object"))?;
        Ok(Self { parquet, declared, row_groups: Vec::new() })
    }

    /// Writes rows of one partition, with all raw columns, as one row group; partitions and offsets must ascend.
    ///
    /// # Errors
    /// [`Error::Format`].
    pub(crate) fn write_group(&mut self, rows: &RecordBatch) -> Result<()> {
        let Some(group) = describe(rows) else { return Ok(()) };
        let extended = self.declared.as_mut().map(|declared| declared.extend(rows)).transpose()?;
        let rows = extended.as_ref().unwrap_or(rows);
        self.parquet.write(rows).and_then(|()| self.parquet.flush()).map_err(Error::format("write a row group"))?;
        self.row_groups.push(group);
        Ok(())
    }

    /// Whether any row group has been written.
    pub(crate) fn has_rows(&self) -> bool {
        !self.row_groups.is_empty()
    }

    /// What has been written so far, all of it in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.parquet.bytes_written()
    }

    /// The object; `None` if it has no rows.
    ///
    /// # Errors
    /// [`Error::Format`]; then it is a bug.
    pub(crate) fn finish(mut self) -> Result<Option<Finished>> {
        if self.row_groups.is_empty() {
            return Ok(None);
        }
        let filters = self.key_filters()?;
        self.parquet.append_key_value_metadata(filters);
        let chunks = self.parquet.flushed_row_groups().iter().flat_map(|group| group.columns());
        let ranges: Vec<_> = chunks.map(|chunk| chunk.byte_range()).collect();
        let bytes = self.parquet.into_inner().map_err(Error::format("end an object"))?;
        let footer_bytes = footer_bytes(&bytes)?;
        let footer_crc = checksum(&bytes, bytes.len() as u64 - u64::from(footer_bytes), footer_bytes.into())?;
        let crcs = ranges.into_iter().map(|(start, length)| checksum(&bytes, start, length));
        let chunk_crcs = crcs.collect::<Result<_>>()?;
        let (bytes, row_groups) = (Bytes::from(bytes), self.row_groups);
        Ok(Some(Finished { bytes, footer_bytes, footer_crc, chunk_crcs, row_groups }))
    }
}

impl ObjectFile {
    /// The checksums of the filters on keys; they are written right behind their row groups.
    fn key_filters(&mut self) -> Result<KeyValue> {
        self.parquet.sync().map_err(Error::format("end an object"))?;
        let written = self.parquet.inner();
        let crcs = self.parquet.flushed_row_groups().iter().map(|group| {
            // Of nothing, where there is none.
            let (start, length) = key_filter(group).unwrap_or_default();
            checksum(written, start, length).map(|crc| format!("{crc:08x}"))
        });
        let crcs = crcs.collect::<Result<Vec<_>>>()?;
        Ok(KeyValue::new(KEY_FILTERS_KEY.to_owned(), crcs.join(",")))
    }
}

/// Where the filter on the key of a row group is, and how long.
pub(crate) fn key_filter(group: &RowGroupMetaData) -> Option<(u64, u64)> {
    let chunk = group.columns().get(RecordColumn::Key as usize)?;
    let (start, length) = (chunk.bloom_filter_offset()?, chunk.bloom_filter_length()?);
    u64::try_from(start).ok().zip(u64::try_from(length).ok())
}

/// The checksums of the filters on keys, row group by row group; none in an object from before they were kept.
pub(crate) fn key_filter_crcs(metadata: Option<&Vec<KeyValue>>) -> Option<Vec<u32>> {
    let said = metadata?.iter().find(|pair| pair.key == KEY_FILTERS_KEY)?.value.as_deref()?;
    said.split(',').map(|crc| u32::from_str_radix(crc, 16).ok()).collect()
}

/// What the manifest says of raw rows of one partition in offset order; `None` if there are none.
fn describe(rows: &RecordBatch) -> Option<RowGroup> {
    fn numbers<T: ArrowPrimitiveType>(rows: &RecordBatch, column: RecordColumn) -> Option<&[T::Native]> {
        rows.column(column as usize).as_primitive_opt::<T>().map(|column| column.values().as_ref())
    }
    fn ends(numbers: &[i64]) -> Option<(i64, i64)> {
        numbers.iter().copied().min().zip(numbers.iter().copied().max())
    }
    let offsets = numbers::<Int64Type>(rows, RecordColumn::Offset)?;
    let (min_timestamp_ms, max_timestamp_ms) =
        ends(numbers::<TimestampMillisecondType>(rows, RecordColumn::Timestamp)?)?;
    let (min_committed_at_us, max_committed_at_us) =
        ends(numbers::<TimestampMicrosecondType>(rows, RecordColumn::CommittedAt)?)?;
    Some(RowGroup {
        partition: *numbers::<Int32Type>(rows, RecordColumn::Partition)?.first()?,
        first_offset: *offsets.first()?,
        last_offset: *offsets.last()?,
        rows: u32::try_from(rows.num_rows()).ok()?,
        min_timestamp_ms,
        max_timestamp_ms,
        min_committed_at_us,
        max_committed_at_us,
    })
}

/// Writes one object from the log's batches; see the top of this file.
pub(crate) struct ObjectWriter {
    file: ObjectFile,
    limits: BatchLimits,
    rows: RowBuilder,
    /// Whose rows are being collected.
    partition: i32,
}

impl ObjectWriter {
    /// As [`ObjectFile::new`].
    ///
    /// # Errors
    /// As there.
    pub(crate) fn new(topic: String, limits: BatchLimits, declared: Option<Declared>) -> Result<Self> {
        let file = ObjectFile::new(topic, declared)?;
        Ok(Self { file, limits, rows: RowBuilder::new(&RecordColumn::ALL), partition: 0 })
    }

    /// Adds those records of a batch that lie in `start..end`. Partitions must come in ascending order, and offsets in each.
    /// A control batch has no rows.
    ///
    /// # Errors
    /// [`Error::CorruptBatch`], [`Error::TooLarge`], [`Error::Format`].
    pub(crate) fn push(
        &mut self,
        partition: i32,
        committed_at_us: i64,
        batch: &CheckedBatch,
        start: i64,
        end: i64,
    ) -> Result<()> {
        if batch.header().is_control() {
            return Ok(());
        }
        let origin = RowOrigin { partition, timestamp_type: batch.header().timestamp_type(), committed_at_us };
        let records = batch.records(self.limits)?;
        for record in records.iter() {
            let record = record?;
            if (start..end).contains(&record.offset) {
                self.push_row(&origin, &record)?;
            }
        }
        Ok(())
    }

    fn push_row(&mut self, origin: &RowOrigin, record: &RecordView<'_>) -> Result<()> {
        let full = self.rows.rows() >= GROUP_ROWS_MAX || self.rows.bytes() >= GROUP_BYTES_MAX;
        if full || self.partition != origin.partition {
            self.end_group()?;
        }
        self.partition = origin.partition;
        self.rows.push(origin, record);
        Ok(())
    }

    fn end_group(&mut self) -> Result<()> {
        if self.rows.rows() == 0 {
            return Ok(());
        }
        self.file.write_group(&self.rows.finish()?)
    }

    /// The object; `None` if it has no rows.
    ///
    /// # Errors
    /// [`Error::Format`]; then it is a bug.
    pub(crate) fn finish(mut self) -> Result<Option<Finished>> {
        self.end_group()?;
        self.file.finish()
    }
}

/// Refuses an object whose layout is newer than this program's; `path` names it.
///
/// # Errors
/// [`Error::Config`]; [`Error::Corrupt`] if it does not say which layout it has.
pub(crate) fn check_version(metadata: Option<&Vec<KeyValue>>, path: &str) -> Result<()> {
    let said =
        metadata.into_iter().flatten().find(|pair| pair.key == VERSION_KEY).and_then(|pair| pair.value.as_deref());
    match said.and_then(|text| text.parse::<u32>().ok()) {
        Some(version) if version > LAYOUT_VERSION => Err(newer("cold object", path, version, LAYOUT_VERSION)),
        Some(_) => Ok(()),
        None => Err(Error::Corrupt { place: path.to_owned(), reason: format!("it has no {VERSION_KEY}") }),
    }
}

/// CRC-32C of a part of the object.
fn checksum(object: &[u8], start: u64, length: u64) -> Result<u32> {
    let part = usize::try_from(start).ok().zip(usize::try_from(start + length).ok());
    let part = part.and_then(|(start, end)| object.get(start..end)).ok_or_else(no_footer)?;
    Ok(crc_fast::crc32_iscsi(part))
}

/// Parquet ends with the footer, its length in four bytes, and the magic in four.
fn footer_bytes(object: &[u8]) -> Result<u32> {
    let end = object.last_chunk::<8>().ok_or_else(no_footer)?;
    let [l0, l1, l2, l3, ..] = *end;
    let footer_bytes = u32::from_le_bytes([l0, l1, l2, l3]).checked_add(8).ok_or_else(no_footer)?;
    if u64::from(footer_bytes) <= object.len() as u64 { Ok(footer_bytes) } else { Err(no_footer()) }
}

/// A bug of ours or of the Parquet writer; nothing is put then.
fn no_footer() -> Error {
    Error::Corrupt { place: "object being written".into(), reason: "its footer does not describe it".into() }
}

fn properties(topic: String, declared: Option<KeyValue>) -> Result<WriterProperties> {
    let column = |column: RecordColumn| ColumnPath::from(column.name());
    let metadata =
        [(VERSION_KEY, LAYOUT_VERSION.to_string()), (TOPIC_KEY, topic)].map(|(k, v)| KeyValue::new(k.to_owned(), v));
    let level = ZstdLevel::try_new(1).map_err(Error::format("choose a compression level"))?;
    let mut properties = WriterProperties::builder()
        .set_created_by(concat!("aquifer ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_key_value_metadata(Some(metadata.into_iter().chain(declared).collect()))
        .set_sorting_columns(Some(vec![
            SortingColumn { column_idx: 0, descending: false, nulls_first: false },
            SortingColumn { column_idx: 1, descending: false, nulls_first: false },
        ]))
        .set_compression(Compression::ZSTD(level))
        // Row groups end where we say, not by count or size.
        .set_max_row_group_row_count(None)
        .set_max_row_group_bytes(None)
        // For the declared columns.
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_column_dictionary_enabled(column(RecordColumn::Value), false)
        .set_column_bloom_filter_enabled(column(RecordColumn::Key), true)
        .set_column_bloom_filter_fpp(column(RecordColumn::Key), BLOOM_FPP)
        .set_column_bloom_filter_max_ndv(column(RecordColumn::Key), GROUP_ROWS_MAX as u64);
    for counted in [RecordColumn::Offset, RecordColumn::Timestamp, RecordColumn::CommittedAt] {
        properties = properties
            .set_column_dictionary_enabled(column(counted), false)
            .set_column_encoding(column(counted), Encoding::DELTA_BINARY_PACKED);
    }
    // Bytes have statistics nobody asks for.
    let header = |field: &str| ColumnPath::new(["_headers", "list", "item", field].map(str::to_owned).to_vec());
    for bytes in [column(RecordColumn::Key), column(RecordColumn::Value), header("key"), header("value")] {
        properties = properties.set_column_statistics_enabled(bytes, EnabledStatistics::None);
    }
    for pruned in [RecordColumn::Partition, RecordColumn::Offset, RecordColumn::Timestamp, RecordColumn::CommittedAt] {
        properties = properties.set_column_statistics_enabled(column(pruned), EnabledStatistics::Page);
    }
    Ok(properties.build())
}
