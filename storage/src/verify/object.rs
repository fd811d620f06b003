//! One object against what the manifest says of it: size, footer, checksums of all column chunks, rows.

use std::sync::Arc;

use arrow::array::{ArrowPrimitiveType, AsArray};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType, TimestampMillisecondType};
use arrow::record_batch::RecordBatch;
use object_store::path::Path;
use parquet::arrow::arrow_reader::ArrowReaderMetadata;

use crate::error::{Error, Result};
use crate::ids::TopicId;
use crate::manifest::model::{Entry, GroupAt, Object, RowGroup};
use crate::record::columns::RecordColumn;
use crate::scan;
use crate::tier::cold::Cold;
use crate::tier::write::TOPIC_KEY;

/// What was read of an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) whole: bool,
    pub(super) rows: u64,
    pub(super) bytes: u64,
}

/// Reads an entry's object, its data too if asked; `size` is what the bucket says of it.
///
/// # Errors
/// [`Error::Corrupt`] and [`Error::Format`] for the first thing that is wrong; [`Error::Config`] if a newer program wrote
/// it; [`Error::ObjectStore`].
pub(super) async fn look(
    cold: &Cold,
    topic: TopicId,
    entry: &Arc<Entry>,
    size: Option<u64>,
    whole: bool,
) -> Result<Read> {
    let Some(object) = &entry.object else { return Ok(Read::default()) };
    let corrupt = |reason: String| Error::Corrupt { place: object.path.clone(), reason };
    match size {
        None => return Err(corrupt("a manifest names it but it is gone".to_owned())),
        Some(size) if size != object.bytes => {
            return Err(corrupt(format!("it has {size} bytes where the manifest says {}", object.bytes)));
        }
        Some(_) => {}
    }
    let footer = scan::read_footer(cold, object).await?;
    footer_agrees(&footer, topic, object).map_err(corrupt)?;
    let mut read = Read { whole, rows: 0, bytes: object.footer_bytes.into() };
    if whole {
        read.bytes = object.bytes;
        for (ordinal, group) in object.row_groups.iter().enumerate() {
            let at = GroupAt { object: Arc::clone(entry), ordinal, group: *group };
            let rows = scan::read_group(cold, &at, &RecordColumn::ALL).await?;
            rows_agree(&rows, group).map_err(|reason| corrupt(format!("row group {ordinal}: {reason}")))?;
            read.rows += rows.num_rows() as u64;
            rest_is_whole(cold, object, &footer, ordinal).await?;
        }
    }
    Ok(read)
}

fn footer_agrees(footer: &ArrowReaderMetadata, topic: TopicId, object: &Object) -> Result<(), String> {
    let metadata = footer.metadata();
    let known = metadata.file_metadata().key_value_metadata();
    let said = known.into_iter().flatten().find(|pair| pair.key == TOPIC_KEY).and_then(|pair| pair.value.clone());
    if said.as_deref() != Some(topic.to_string().as_str()) {
        return Err(format!("it says that it belongs to topic {}", said.unwrap_or_default()));
    }
    if metadata.num_row_groups() != object.row_groups.len() {
        let (found, named) = (metadata.num_row_groups(), object.row_groups.len());
        return Err(format!("it has {found} row groups where the manifest says {named}"));
    }
    let leaves = footer.parquet_schema().num_columns();
    if object.chunk_crcs.len() != leaves * object.row_groups.len() {
        return Err(format!("the manifest has {} checksums of {leaves} columns", object.chunk_crcs.len()));
    }
    for (ordinal, (found, named)) in metadata.row_groups().iter().zip(&object.row_groups).enumerate() {
        if found.num_rows() != i64::from(named.rows) {
            let (found, named) = (found.num_rows(), named.rows);
            return Err(format!("row group {ordinal} has {found} rows where the manifest says {named}"));
        }
    }
    Ok(())
}

/// The column chunks that nobody has read yet: those of declared columns.
async fn rest_is_whole(cold: &Cold, object: &Object, footer: &ArrowReaderMetadata, ordinal: usize) -> Result<()> {
    let leaves = footer.parquet_schema().num_columns();
    let is_raw = |name: &str| RecordColumn::ALL.into_iter().any(|column| column.name() == name);
    let chunks = footer.metadata().row_group(ordinal).columns().iter().enumerate();
    let rest = chunks.filter(|(_, chunk)| !chunk.column_path().parts().first().is_some_and(|name| is_raw(name)));
    let (ranges, crcs): (Vec<_>, Vec<_>) = rest
        .map(|(leaf, chunk)| {
            let (start, length) = chunk.byte_range();
            (start..start + length, object.chunk_crcs.get(ordinal * leaves + leaf).copied())
        })
        .unzip();
    let path = Path::from(object.path.as_str());
    let parts = cold.bucket.get_ranges(&path, &ranges).await.map_err(Error::object(format!("read {path}")))?;
    for ((range, crc), part) in ranges.iter().zip(crcs).zip(parts) {
        if Some(crc_fast::crc32_iscsi(&part)) != crc {
            let reason = format!("bytes {}..{} do not match their checksum", range.start, range.end);
            return Err(Error::Corrupt { place: object.path.clone(), reason });
        }
    }
    Ok(())
}

/// The rows of a group are those the manifest tells of, in offset order.
fn rows_agree(rows: &RecordBatch, group: &RowGroup) -> Result<(), String> {
    fn numbers<T: ArrowPrimitiveType>(rows: &RecordBatch, column: RecordColumn) -> Result<&[T::Native], String> {
        let numbers = rows.column(column as usize).as_primitive_opt::<T>().map(|column| column.values().as_ref());
        numbers.ok_or_else(|| format!("{} has another type", column.name()))
    }
    fn hull(numbers: &[i64]) -> (Option<i64>, Option<i64>) {
        (numbers.iter().copied().min(), numbers.iter().copied().max())
    }
    let offsets = numbers::<Int64Type>(rows, RecordColumn::Offset)?;
    if let Some(pair) = offsets.windows(2).find(|pair| pair[0] >= pair[1]) {
        return Err(format!("offset {} is followed by {}", pair[0], pair[1]));
    }
    let (first, last) = (offsets.first().copied(), offsets.last().copied());
    if (first, last) != (Some(group.first_offset), Some(group.last_offset)) {
        let (named_first, named_last) = (group.first_offset, group.last_offset);
        return Err(format!("offsets {first:?} to {last:?} where the manifest says {named_first} to {named_last}"));
    }
    if let Some(other) = numbers::<Int32Type>(rows, RecordColumn::Partition)?.iter().find(|at| **at != group.partition)
    {
        return Err(format!("a row of partition {other} where the manifest says {}", group.partition));
    }
    let timestamps = hull(numbers::<TimestampMillisecondType>(rows, RecordColumn::Timestamp)?);
    if timestamps != (Some(group.min_timestamp_ms), Some(group.max_timestamp_ms)) {
        let (min, max) = (group.min_timestamp_ms, group.max_timestamp_ms);
        return Err(format!("timestamps {timestamps:?} where the manifest says {min} to {max}"));
    }
    let commits = hull(numbers::<TimestampMicrosecondType>(rows, RecordColumn::CommittedAt)?);
    if commits != (Some(group.min_committed_at_us), Some(group.max_committed_at_us)) {
        let (min, max) = (group.min_committed_at_us, group.max_committed_at_us);
        return Err(format!("commit times {commits:?} where the manifest says {min} to {max}"));
    }
    Ok(())
}
