//! Row groups of cold objects as the rows a scan asks for: typed where the object has the declared columns by the very
//! declaration that is asked for, decoded from the raw value else. No row says which of the two it was.
//!
//! What is not wanted is not read: first the filter says which row groups may hold rows of interest (by statistics, then by
//! the filters on keys, then by the columns that the filter is about, [`super::select`]), then only the column chunks asked
//! for are read, those of neighbouring row groups together. A filter that becomes narrower while the scan runs is asked again before each read.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Int32Type, Int64Type, SchemaRef, TimestampMillisecondType};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use futures::stream;
use futures::{StreamExt, TryStreamExt};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder, RowSelection,
};
use parquet::bloom_filter::Sbbf;
use parquet::errors::ParquetError;

use crate::error::{Error, Result};
use crate::manifest::model::{Entry, GroupAt, Object, Wanted};
use crate::record::columns::RecordColumn;
use crate::record::format::{DecodeError, Decoded, RecordFormat, TOMBSTONE_COLUMN};
use crate::record::rows::schema_of;
use crate::scan::filter::{GroupStatistics, decoded_rows};
use crate::scan::parquet::{
    Parts, check_groups, chunk_ranges, failed, no_object, read_chunks, read_footer, read_key_filters, root_of,
};
use crate::scan::plan::ObjectRead;
use crate::scan::request::{Asked, RawRows};
use crate::scan::select::{RowsBy, select};
use crate::tier::cold::Cold;
use crate::tier::declared::{ERROR_COLUMN, declaration_of, error_of};
use crate::view::DecodedStream;

/// Bytes of column chunks read in one go, unless those of a single row group are more.
const READ_BYTES_MAX: u64 = 4 << 20;

/// Reads under way at once: one is decoded while the next is on its way.
const READS_AHEAD: usize = 2;

/// What of an error is told beside its words.
const ERROR_PLACE: [RecordColumn; 3] = [RecordColumn::Partition, RecordColumn::Offset, RecordColumn::Timestamp];

/// Rows of row groups of one object, in the order of the read; at least one batch's worth of it is on its way when this
/// returns, so that opening an object early is worth something.
///
/// # Errors
/// [`Error::Corrupt`], [`Error::ObjectStore`], [`Error::Config`] for an object of a newer program.
pub(crate) async fn open(
    cold: &Arc<Cold>,
    asked: &Arc<Asked>,
    read: ObjectRead,
    wanted: Wanted,
) -> Result<DecodedStream> {
    let object = read.groups.first().and_then(GroupAt::object).ok_or_else(no_object)?;
    if asked.counts_records() && !read.clipped && asked.filter.is_none() {
        // The manifest knows.
        asked.meter.read_groups(&object.path, read.groups.len());
        let rows = read.groups.iter().map(|at| at.group.rows as usize).collect::<Vec<_>>();
        let asked = Arc::clone(asked);
        return Ok(stream::iter(rows).flat_map(move |rows| stream::iter(counted(&asked, rows))).boxed());
    }
    let groups = prune(asked, read.groups.clone(), None);
    if groups.is_empty() {
        return Ok(stream::empty().boxed());
    }
    let cached = cold.footers.holds(&object.path);
    let footer = read_footer(cold, object).await?;
    asked.meter.footer(cached, object.footer_bytes.into());
    check_groups(&footer, object, &read.groups)?;
    let entry = read.groups.first().map(|at| Arc::clone(&at.object)).ok_or_else(no_object)?;
    let typed = is_typed(asked, &footer);
    let roots = roots(asked, &footer, typed, &object.path)?;
    let rows_by = if typed { RowsBy::new(asked, &footer, &roots.always, &object.path)? } else { None };
    let (cold, asked, clipped) = (Arc::clone(cold), Arc::clone(asked), read.clipped.then_some(wanted));
    let file = Arc::new(File { cold, asked, footer, typed, roots, rows_by, entry, clipped });
    let asked = &file.asked;
    let (version, hasty) = (asked.version(), asked.hasty);
    let groups = file.prune(groups);
    let groups = file.prune_by_key(groups).await?;
    let pending = Pending { file, groups, version, reads: 0 };
    let reads = stream::unfold(pending, |mut pending| async move { pending.next().map(|read| (read, pending)) });
    let ahead = if hasty { 1 } else { READS_AHEAD };
    let mut rows = reads.map(|(file, groups)| read_groups(file, groups)).buffered(ahead).boxed();
    let first = rows.next().await;
    Ok(stream::iter(first).chain(rows).map_ok(stream::iter).try_flatten().boxed())
}

/// The row groups that may hold rows of interest, by what the manifest says, and the footer of their object if it is read and
/// its columns are those asked for.
fn prune(
    asked: &Asked,
    groups: Vec<GroupAt>,
    typed: Option<(&ArrowReaderMetadata, &RecordFormat)>,
) -> VecDeque<GroupAt> {
    let kept = asked.filter.as_ref().and_then(|filter| filter.may_hold(&GroupStatistics::new(&groups, typed)));
    match kept {
        Some(kept) => keep(asked, groups, &kept),
        None => groups.into(),
    }
}

fn keep(asked: &Asked, groups: Vec<GroupAt>, kept: &[bool]) -> VecDeque<GroupAt> {
    let all = groups.len();
    let kept = groups.into_iter().enumerate().filter(|(at, _)| kept.get(*at).copied().unwrap_or(true));
    let kept: VecDeque<GroupAt> = kept.map(|(_, group)| group).collect();
    asked.meter.pruned_groups(all - kept.len());
    kept
}

/// An object that is open.
pub(super) struct File {
    pub(super) cold: Arc<Cold>,
    pub(super) asked: Arc<Asked>,
    pub(super) footer: ArrowReaderMetadata,
    /// Whether its declared columns are those that are asked for.
    typed: bool,
    /// Which columns are read.
    roots: Roots,
    /// Which of them tell rows of interest, if some do.
    pub(super) rows_by: Option<RowsBy>,
    /// Whose object it is.
    entry: Arc<Entry>,
    /// The offsets wanted, if not all of the row groups are.
    clipped: Option<Wanted>,
}

/// Whether declared columns are asked for and the object has them by the same declaration, with the types they have.
fn is_typed(asked: &Asked, footer: &ArrowReaderMetadata) -> bool {
    let Some(format) = asked.format() else { return false };
    let metadata = footer.metadata().file_metadata().key_value_metadata();
    let has = |name: &str, kind: &DataType| {
        footer.schema().column_with_name(name).is_some_and(|(_, field)| field.data_type() == kind)
    };
    declaration_of(metadata).as_ref() == Some(format)
        && has(ERROR_COLUMN, &DataType::Utf8)
        && asked.schema.fields().iter().all(|field| has(field.name(), field.data_type()))
}

/// Columns of a file, by their numbers.
struct Roots {
    /// Read of every row group.
    always: Vec<usize>,
    /// Read, too, of a typed row group in which records did not decode: the error and its place.
    of_errors: Vec<usize>,
    /// Read, too, where only some offsets are wanted.
    offset: usize,
}

fn roots(asked: &Asked, footer: &ArrowReaderMetadata, typed: bool, path: &str) -> Result<Roots> {
    let root = |name: &str| root_of(footer, path, name);
    let all = |names: &mut dyn Iterator<Item = &str>| names.map(root).collect::<Result<Vec<_>>>();
    let offset = root(RecordColumn::Offset.name())?;
    if !typed {
        let raw = RawRows::new(asked)?;
        let always = all(&mut raw.columns().iter().map(|column| column.name()))?;
        return Ok(Roots { always, of_errors: Vec::new(), offset });
    }
    Ok(Roots {
        always: all(&mut asked.schema.fields().iter().map(|field| field.name().as_str()))?,
        of_errors: all(&mut ERROR_PLACE.iter().map(|column| column.name()).chain([ERROR_COLUMN]))?,
        offset,
    })
}

/// Row groups still to be read.
struct Pending {
    file: Arc<File>,
    groups: VecDeque<GroupAt>,
    /// Of the filter when they were looked at.
    version: u64,
    /// How often was read.
    reads: u32,
}

impl Pending {
    /// The row groups to read next.
    fn next(&mut self) -> Option<(Arc<File>, Vec<GroupAt>)> {
        let asked = Arc::clone(&self.file.asked);
        if asked.version() != self.version {
            self.version = asked.version();
            self.groups = self.file.prune(std::mem::take(&mut self.groups));
        }
        // Who may soon have enough gets a little at first.
        let most = if asked.hasty { 1_usize << self.reads.min(6) } else { usize::MAX };
        self.reads += 1;
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while let Some(at) = self.groups.front() {
            bytes += self.file.bytes_of(at);
            if !taken.is_empty() && (bytes > READ_BYTES_MAX || taken.len() >= most) {
                break;
            }
            taken.extend(self.groups.pop_front());
        }
        (!taken.is_empty()).then(|| (Arc::clone(&self.file), taken))
    }
}

impl File {
    pub(super) fn object(&self) -> Result<&Object> {
        self.entry.object.as_ref().ok_or_else(no_object)
    }

    /// The row groups that may hold rows of interest.
    fn prune(&self, groups: VecDeque<GroupAt>) -> VecDeque<GroupAt> {
        let typed = self.asked.format().filter(|_| self.typed).map(|format| (&self.footer, format));
        prune(&self.asked, groups.into(), typed)
    }

    /// Of these those whose filters say that they may have one of the wanted keys.
    async fn prune_by_key(&self, groups: VecDeque<GroupAt>) -> Result<VecDeque<GroupAt>> {
        let Some(keys) = self.asked.filter.as_ref().and_then(|filter| filter.keys()) else { return Ok(groups) };
        let groups: Vec<GroupAt> = groups.into();
        let (filters, bytes) = read_key_filters(&self.cold, self.object()?, &self.footer, &groups).await?;
        self.asked.meter.read_bytes(bytes);
        let may_hold = |filter: &Option<Sbbf>| {
            filter.as_ref().is_none_or(|filter| keys.iter().any(|key| filter.check(key.as_ref())))
        };
        let kept: Vec<bool> = filters.iter().map(may_hold).collect();
        Ok(keep(&self.asked, groups, &kept))
    }

    /// Whether some rows of the group are not wanted.
    fn clips(&self, at: &GroupAt) -> Option<Wanted> {
        self.clipped.filter(|wanted| at.group.first_offset < wanted.start || at.group.last_offset >= wanted.end)
    }

    /// Whether there are, or may be, rows that did not decode.
    pub(super) fn has_errors(&self, at: &GroupAt) -> bool {
        self.typed && decoded_rows(&self.footer, at) != Some(u64::from(at.group.rows))
    }

    /// The columns that are read of a row group.
    fn mask(&self, at: &GroupAt) -> ProjectionMask {
        let of_errors = if self.has_errors(at) { self.roots.of_errors.as_slice() } else { &[] };
        let offset = self.clips(at).map(|_| self.roots.offset);
        let roots = self.roots.always.iter().chain(of_errors).copied().chain(offset);
        ProjectionMask::roots(self.footer.parquet_schema(), roots)
    }

    /// Bytes that are read of a row group.
    fn bytes_of(&self, at: &GroupAt) -> u64 {
        chunk_ranges(&self.footer, at.ordinal, &self.mask(at)).iter().map(|range| range.end - range.start).sum()
    }
}

/// Reads some row groups of an object; they are decoded as somebody takes their rows.
async fn read_groups(file: Arc<File>, groups: Vec<GroupAt>) -> Result<Rows> {
    let version = file.asked.version();
    let (groups, selections): (Vec<_>, Vec<_>) = select(&file, groups).await?.into_iter().unzip();
    let groups: Vec<_> = groups.into_iter().map(|at| (file.mask(&at), at)).map(|(mask, at)| (at, mask)).collect();
    let parts = read_chunks(&file.cold, file.object()?, &file.footer, &groups).await?;
    file.asked.meter.read_bytes(parts.iter().map(Parts::bytes_read).sum());
    let raw = if file.typed { None } else { Some(RawRows::new(&file.asked)?) };
    let read = groups.into_iter().zip(parts).zip(selections);
    let groups = read.map(|(((at, mask), parts), selection)| Read { at, mask, parts, selection }).collect();
    Ok(Rows { file, raw, groups, version, open: None })
}

/// A row group that has been read and not yet decoded.
struct Read {
    at: GroupAt,
    mask: ProjectionMask,
    parts: Parts,
    /// The rows of interest, if they are known.
    selection: Option<RowSelection>,
}

/// Rows of row groups that have been read.
struct Rows {
    file: Arc<File>,
    /// Decodes records that have no typed columns.
    raw: Option<RawRows>,
    groups: VecDeque<Read>,
    /// Of the filter when they were read.
    version: u64,
    open: Option<Group>,
}

/// A row group being decoded.
struct Group {
    rows: ParquetRecordBatchReader,
    /// The offsets wanted, if not all are.
    clips: Option<Wanted>,
    has_errors: bool,
}

impl Iterator for Rows {
    type Item = Result<Decoded>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(group) = &mut self.open {
                match group.rows.next() {
                    Some(batch) => {
                        let (clips, has_errors) = (group.clips, group.has_errors);
                        let decoded = self.decode(batch.map_err(ParquetError::from), clips, has_errors);
                        // A clipped row group may have batches wholly outside.
                        if matches!(&decoded, Ok(decoded) if decoded.rows.num_rows() == 0 && decoded.errors.is_empty())
                        {
                            continue;
                        }
                        return Some(decoded);
                    }
                    None => self.open = None,
                }
            }
            let read = self.groups.pop_front()?;
            if !self.still_wanted(&read.at) {
                continue;
            }
            match self.open(read) {
                Ok(group) => self.open = Some(group),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl Rows {
    /// Asked once more: while it was read the filter may have become narrower.
    fn still_wanted(&self, at: &GroupAt) -> bool {
        if self.version != self.file.asked.version() && self.file.prune(VecDeque::from([at.clone()])).is_empty() {
            return false;
        }
        if let Some(object) = at.object() {
            self.file.asked.meter.read_groups(&object.path, 1);
        }
        true
    }

    fn open(&self, read: Read) -> Result<Group> {
        let Read { at, mask, parts, selection } = read;
        let file = &self.file;
        let mut rows = ParquetRecordBatchReaderBuilder::new_with_metadata(parts, file.footer.clone())
            .with_row_groups(vec![at.ordinal])
            .with_projection(mask)
            .with_batch_size(file.asked.batch_rows);
        if let Some(selection) = selection {
            rows = rows.with_row_selection(selection);
        }
        let rows = rows.build().map_err(|error| self.failed(error))?;
        Ok(Group { rows, clips: file.clips(&at), has_errors: file.has_errors(&at) })
    }

    fn failed(&self, error: ParquetError) -> Error {
        failed(self.file.object().map_or("", |object| object.path.as_str()), error)
    }

    /// The rows asked for of a batch as it was stored.
    fn decode(
        &mut self,
        batch: Result<RecordBatch, ParquetError>,
        clips: Option<Wanted>,
        has_errors: bool,
    ) -> Result<Decoded> {
        let mut batch = batch.map_err(|error| self.failed(error))?;
        let (file, path) = (&self.file, self.file.object()?.path.as_str());
        if let Some(wanted) = clips {
            batch = clip(&batch, path, &wanted)?;
        }
        let meter = &file.asked.meter;
        if let Some(raw) = &mut self.raw {
            let schema = schema_of(raw.columns());
            let decoded = raw.read(arrange(&batch, &schema, path)?)?;
            meter.decoded_rows(batch.num_rows());
            return Ok(decoded);
        }
        let errors = if has_errors { errors_of(&batch, file, path)? } else { Vec::new() };
        if !errors.is_empty() {
            let said = column(&batch, path, ERROR_COLUMN)?;
            let mut told = errors.iter();
            let mut is_row = |row: usize| said.is_null(row) || told.next().is_some_and(|error| error.hides);
            let rows: BooleanArray = (0..batch.num_rows()).map(|row| Some(is_row(row))).collect();
            batch = filter_record_batch(&batch, &rows).map_err(Error::format("leave rows out"))?;
        }
        meter.typed_rows(batch.num_rows());
        Ok(Decoded { rows: arrange(&batch, &file.asked.schema, path)?, errors })
    }
}

/// The records of a batch that did not decode, as the decoder told of them.
fn errors_of(batch: &RecordBatch, file: &File, path: &str) -> Result<Vec<DecodeError>> {
    let wrong = |name: &str| Error::Corrupt { place: path.to_owned(), reason: format!("{name} has another type") };
    let said = column(batch, path, ERROR_COLUMN)?.as_string_opt::<i32>().ok_or_else(|| wrong(ERROR_COLUMN))?;
    let [partitions, offsets, timestamps] = ERROR_PLACE.map(|place| column(batch, path, place.name()));
    let partitions = partitions?.as_primitive_opt::<Int32Type>().ok_or_else(|| wrong("_partition"))?;
    let offsets = offsets?.as_primitive_opt::<Int64Type>().ok_or_else(|| wrong("_offset"))?;
    let timestamps = timestamps?.as_primitive_opt::<TimestampMillisecondType>().ok_or_else(|| wrong("_timestamp"))?;
    let Some(format) = file.asked.format() else { return Ok(Vec::new()) };
    let deletes = format.tombstones.then(|| column(batch, path, TOMBSTONE_COLUMN)).transpose()?;
    let deletes = deletes.map(|deletes| deletes.as_boolean_opt().ok_or_else(|| wrong(TOMBSTONE_COLUMN))).transpose()?;
    let error = |row: usize| {
        let hides = deletes.is_some_and(|deletes| deletes.value(row));
        let (column, error) = error_of(said.value(row), format);
        let (partition, offset) = (partitions.value(row), offsets.value(row));
        DecodeError { partition, offset, timestamp_ms: timestamps.value(row), column, error, hides }
    };
    Ok((0..batch.num_rows()).filter(|row| said.is_valid(*row)).map(error).collect())
}

/// Batches of so many rows without columns.
fn counted(asked: &Asked, rows: usize) -> Vec<Result<Decoded>> {
    let batches = (0..rows).step_by(asked.batch_rows).map(|first| {
        let options = RecordBatchOptions::new().with_row_count(Some(asked.batch_rows.min(rows - first)));
        let rows = RecordBatch::try_new_with_options(Arc::clone(&asked.schema), Vec::new(), &options)
            .map_err(Error::format("count rows"))?;
        Ok(Decoded { rows, errors: Vec::new() })
    });
    batches.collect()
}

pub(super) fn column<'a>(batch: &'a RecordBatch, path: &str, name: &str) -> Result<&'a ArrayRef> {
    let missing = || Error::Corrupt { place: path.to_owned(), reason: format!("it has no column {name}") };
    batch.column_by_name(name).ok_or_else(missing)
}

/// The rows of a batch whose offsets are wanted; offsets ascend.
fn clip(batch: &RecordBatch, path: &str, wanted: &Wanted) -> Result<RecordBatch> {
    let offsets = column(batch, path, RecordColumn::Offset.name())?
        .as_primitive_opt::<Int64Type>()
        .ok_or_else(|| Error::Corrupt { place: path.to_owned(), reason: "its offsets are no integers".into() })?;
    let first = offsets.values().partition_point(|offset| *offset < wanted.start);
    let end = offsets.values().partition_point(|offset| *offset < wanted.end);
    Ok(batch.slice(first, end.saturating_sub(first)))
}

/// The columns of a schema, in its order, with its types.
pub(super) fn arrange(batch: &RecordBatch, schema: &SchemaRef, path: &str) -> Result<RecordBatch> {
    let arrays = schema.fields().iter().map(|field| column(batch, path, field.name()).map(Arc::clone));
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), arrays.collect::<Result<_>>()?, &options)
        .map_err(Error::format(format!("read rows of {path}")))
}
