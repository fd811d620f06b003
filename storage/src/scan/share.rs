//! Records that somebody reads in passing, decoded once for all who do: continuous queries, which leave in [`Blocks`] what
//! they decode of the log, and tiering, which takes it from there.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{concat, take};
use arrow::datatypes::{Int64Type, SchemaRef};

use crate::error::{Error, Result};
use crate::ids::{TopicId, TopicPartition};
use crate::log::Node;
use crate::record::columns::RecordColumn;
use crate::record::format::{ColumnRole, Decoded, Decoder, RecordFormat};
use crate::scan::blocks::{BLOCK_OFFSETS, BlockKey, Blocks, CARRIED, declaration_of, part_of};

/// Decodes all declared columns of a topic's records, or takes them from who has decoded them.
#[derive(Debug)]
pub(crate) struct SharedRows {
    blocks: Arc<Blocks>,
    topic: TopicId,
    declaration: Arc<[u8]>,
    decoder: Decoder,
    offset_at: usize,
}

impl SharedRows {
    /// Of raw rows of this schema; `None` if they have not all that others will want.
    ///
    /// # Errors
    /// [`Error::Config`] for a format that makes no sense.
    pub(crate) fn new(
        blocks: Arc<Blocks>,
        topic: TopicId,
        format: &RecordFormat,
        raw: &SchemaRef,
    ) -> Result<Option<Self>> {
        let place = |column: &RecordColumn| raw.index_of(column.name()).ok();
        let has_headers = format.columns.iter().any(|column| column.role == ColumnRole::Headers);
        let carried: Option<Vec<usize>> = CARRIED.iter().map(place).collect();
        let (Some(carried), false) = (carried, has_headers && place(&RecordColumn::Headers).is_none()) else {
            return Ok(None);
        };
        let wanted: Vec<usize> = (0..format.columns.len()).collect();
        let decoder = Decoder::new(format, raw, &carried, &wanted)?;
        let (declaration, offset_at) = (declaration_of(format)?, carried[0]);
        Ok(Some(Self { blocks, topic, declaration, decoder, offset_at }))
    }

    /// Where a declared column stands in what is given.
    pub(crate) fn place_of(declared: usize) -> usize {
        CARRIED.len() + declared
    }

    /// The declared columns behind some raw ones of raw rows of one partition, in offset order, portion by portion. `from`:
    /// these rows are all there are from this offset on, and what of them nobody has decoded yet is left for others.
    ///
    /// # Errors
    /// [`Error::Format`]; then it is a bug.
    pub(crate) fn decode(&mut self, partition: i32, raw: &RecordBatch, from: Option<i64>) -> Result<Vec<Decoded>> {
        let column = Arc::clone(raw.column(self.offset_at));
        let offsets: &[i64] = column.as_primitive::<Int64Type>().values();
        let at = TopicPartition { topic: self.topic, partition };
        let (mut row, mut start) = (0, from.or(offsets.first().copied()).unwrap_or(0));
        let mut portions = Vec::new();
        while let Some(first) = offsets.get(row) {
            let number = first.div_euclid(BLOCK_OFFSETS);
            let end_row = offsets.partition_point(|offset| offset.div_euclid(BLOCK_OFFSETS) <= number);
            let (rows, whole) = (&offsets[row..end_row], number * BLOCK_OFFSETS..(number + 1) * BLOCK_OFFSETS);
            let key = BlockKey { partition: at, number, declaration: Arc::clone(&self.declaration) };
            // Behind the last row there may be some that have not been read.
            let end = if end_row < offsets.len() { whole.end } else { rows[rows.len() - 1] + 1 };
            let reach = start.max(whole.start)..end;
            portions.extend(self.of_block(key, rows, raw.slice(row, rows.len()), (reach, from.is_some()))?);
            (row, start) = (end_row, whole.end);
        }
        Ok(portions)
    }

    /// The same of rows of one block; what is decoded here is all there is of these offsets, and left if so told.
    fn of_block(
        &mut self,
        key: BlockKey,
        offsets: &[i64],
        raw: RecordBatch,
        (reach, leaves): (Range<i64>, bool),
    ) -> Result<Vec<Decoded>> {
        let wanted = offsets[0]..offsets[offsets.len() - 1] + 1;
        let known = |blocks: &Blocks| blocks.find(&key, &wanted).filter(|found| tell_of(found, offsets));
        if !leaves {
            return known(&self.blocks).map_or_else(|| Ok(vec![self.decoder.decode(&raw)?]), Ok);
        }
        let turn = self.blocks.turn(key.partition);
        if let Some(known) = known(&self.blocks) {
            return Ok(known);
        }
        let decoded = self.decoder.decode(&raw)?;
        self.blocks.offer(key, &reach, &part_of(&decoded, &reach))?;
        drop(turn);
        Ok(vec![decoded])
    }
}

/// Whether they tell of these offsets, each by a row or as skipped, and of no other.
fn tell_of(found: &[Decoded], offsets: &[i64]) -> bool {
    let mut rows = found.iter().flat_map(|part| part.rows.column(0).as_primitive::<Int64Type>().values()).peekable();
    let mut skipped = found.iter().flat_map(Decoded::skipped).peekable();
    let mut is_told = |offset: &i64| rows.next_if_eq(&offset).is_some() || skipped.next_if_eq(offset).is_some();
    offsets.iter().all(&mut is_told) && rows.next().is_none() && skipped.next().is_none()
}

/// One column of all portions.
///
/// # Errors
/// [`Error::Format`]; then it is a bug.
pub(crate) fn column_of(portions: &[Decoded], index: usize) -> Result<ArrayRef> {
    match portions {
        [one] => Ok(Arc::clone(one.rows.column(index))),
        portions => {
            let parts: Vec<_> = portions.iter().map(|portion| &**portion.rows.column(index)).collect();
            concat(&parts).map_err(Error::format("put decoded rows together"))
        }
    }
}

/// Spares a [`Decoder`] of records that are read once, as a continuous query reads them, what of the log somebody has decoded
/// already; and leaves what it has to decode for others.
#[derive(Debug)]
pub struct SharedDecoder {
    node: Arc<Node>,
    topic: TopicId,
    /// `None`: every record is decoded by who asks.
    shared: Option<SharedRows>,
    carried: Vec<usize>,
    /// Of what is shared.
    places: Vec<usize>,
}

impl SharedDecoder {
    /// The raw columns it needs; what a format's headers columns need besides, it does without if they are not there.
    pub const COLUMNS: [RecordColumn; 5] = CARRIED;

    pub(crate) fn new(
        (node, blocks): (Arc<Node>, Arc<Blocks>),
        topic: TopicId,
        format: &RecordFormat,
        raw: &SchemaRef,
        (carried, wanted): (&[usize], &[usize]),
    ) -> Result<Self> {
        let shared = SharedRows::new(blocks, topic, format, raw)?;
        let tombstones = format.tombstones.then_some(format.columns.len());
        let places = wanted.iter().copied().chain(tombstones).map(SharedRows::place_of).collect();
        Ok(Self { node, topic, shared, carried: carried.to_vec(), places })
    }

    /// What `decoder` gives of raw rows of one partition, which are all there are from the offset `from` on.
    ///
    /// # Errors
    /// Only for bugs.
    pub fn decode(&mut self, decoder: &mut Decoder, partition: i32, from: i64, raw: &RecordBatch) -> Result<Decoded> {
        let Some(shared) = &mut self.shared else { return decoder.decode(raw) };
        let offsets = Arc::clone(raw.column(shared.offset_at));
        let offsets = offsets.as_primitive::<Int64Type>().values();
        let ends = self.node.watermarks(TopicPartition { topic: self.topic, partition });
        // What is cold is typed there, and read once.
        let is_hot = |first: &i64| ends.is_ok_and(|ends| ends.tiered_end_offset <= *first);
        if !offsets.first().is_some_and(is_hot) {
            return decoder.decode(raw);
        }
        let portions = shared.decode(partition, raw, Some(from))?;
        let errors: Vec<_> = portions.iter().flat_map(|portion| portion.errors.clone()).collect();
        let mut skipped = portions.iter().flat_map(Decoded::skipped).peekable();
        let decoded = skipped.peek().is_some().then(|| {
            let rows = (0..).zip(offsets).filter(|(_, offset)| skipped.next_if_eq(*offset).is_none());
            rows.map(|(row, _)| row).collect::<UInt32Array>()
        });
        let carried = self.carried.iter().map(|index| match &decoded {
            None => Ok(Arc::clone(raw.column(*index))),
            Some(rows) => take(raw.column(*index), rows, None).map_err(Error::format("leave out a record")),
        });
        let declared = self.places.iter().map(|index| column_of(&portions, *index));
        let columns = carried.chain(declared).collect::<Result<Vec<_>>>()?;
        let options =
            RecordBatchOptions::new().with_row_count(Some(decoded.as_ref().map_or(raw.num_rows(), Array::len)));
        let rows = RecordBatch::try_new_with_options(decoder.schema(), columns, &options)
            .map_err(Error::format("share decoded rows"))?;
        Ok(Decoded { rows, errors })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::batch::{RecordView, TimestampType};
    use crate::record::columns::record_schema;
    use crate::record::format::{ColumnType, DeclaredColumn, Format};
    use crate::record::rows::{RowBuilder, RowOrigin};
    use crate::testing::chance::Chance;

    const TOPIC: TopicId = TopicId(uuid::Uuid::from_u128(7));

    fn format(tombstones: bool) -> RecordFormat {
        let column = |name: &str, kind, role| DeclaredColumn {
            name: name.to_owned(),
            field: name.to_owned(),
            kind,
            role,
            not_null: false,
        };
        RecordFormat {
            columns: vec![
                column("id", ColumnType::Text, ColumnRole::Key),
                column("n", ColumnType::Int, ColumnRole::Value),
                column("t", ColumnType::Text, ColumnRole::Value),
            ],
            key_format: Format::Kafka,
            value_format: Format::Json,
            tombstones,
        }
    }

    /// Records of three blocks, some offsets missing, some records broken or null.
    fn raw(chance: &Chance) -> RecordBatch {
        let mut rows = RowBuilder::new(&RecordColumn::ALL);
        let origin = RowOrigin { partition: 3, timestamp_type: TimestampType::CreateTime, committed_at_us: 1 };
        for offset in (BLOCK_OFFSETS - 700..2 * BLOCK_OFFSETS + 900).filter(|_| !chance.once_in(40)) {
            let text = format!(r#"{{"n":{offset},"t":"row {offset}"}}"#);
            let value = match chance.below(30) {
                0 => None,
                1 => Some("no json"),
                2 => Some(r#"{"n":"x"}"#),
                _ => Some(text.as_str()),
            };
            let (key, headers) = (Some(b"k".as_slice()), vec![]);
            rows.push(&origin, &RecordView { offset, timestamp_ms: 5, key, value: value.map(str::as_bytes), headers });
        }
        rows.finish().unwrap()
    }

    fn offset_at(raw: &RecordBatch, row: usize) -> i64 {
        raw.column(RecordColumn::Offset as usize).as_primitive::<Int64Type>().value(row)
    }

    fn whole(portions: &[Decoded], columns: usize) -> (Vec<ArrayRef>, Vec<i64>) {
        let columns = (0..columns).map(|index| column_of(portions, index).unwrap()).collect();
        (columns, portions.iter().flat_map(|portion| &portion.errors).map(|error| error.offset).collect())
    }

    #[test]
    fn whoever_decodes_first_and_however_it_is_cut_all_read_the_same() {
        for seed in 0..24 {
            let chance = Chance::new(seed);
            let (format, raw) = (format(chance.once_in(2)), raw(&chance));
            let blocks = Arc::new(Blocks::new(if chance.once_in(4) { 300 << 10 } else { 64 << 20 }));
            let readers = || SharedRows::new(Arc::clone(&blocks), TOPIC, &format, &record_schema()).unwrap().unwrap();
            let columns = CARRIED.len() + format.columns.len() + usize::from(format.tombstones);
            let wanted = whole(&[readers().decoder.decode(&raw).unwrap()], columns);
            for leaves in [true, true, false, true] {
                let (mut reader, mut row, mut portions) = (readers(), 0, Vec::new());
                // Some begin in the middle, as who was restarted does.
                let first = if chance.once_in(2) { 0 } else { chance.index(raw.num_rows() / 2) };
                let mut from = if first == 0 { 0 } else { offset_at(&raw, first) };
                row += first;
                while row < raw.num_rows() {
                    let rows = (1 + chance.index(5_000)).min(raw.num_rows() - row);
                    let part = raw.slice(row, rows);
                    portions.extend(reader.decode(3, &part, leaves.then_some(from)).unwrap());
                    row += rows;
                    from = offset_at(&raw, row - 1) + 1;
                }
                let first = offset_at(&raw, first);
                let skipped = wanted.0[0].as_primitive::<Int64Type>().values().partition_point(|at| *at < first);
                let (found, errors) = whole(&portions, columns);
                for (found, wanted) in found.iter().zip(&wanted.0) {
                    assert_eq!(found, &wanted.slice(skipped, wanted.len() - skipped), "seed {seed}");
                }
                let failed: Vec<i64> = wanted.1.iter().copied().filter(|offset| *offset >= first).collect();
                assert_eq!(errors, failed, "seed {seed}");
            }
        }
    }

    #[test]
    fn what_one_has_decoded_the_others_are_given() {
        let chance = Chance::new(1);
        let (format, raw) = (format(false), raw(&chance));
        let blocks = Arc::new(Blocks::new(64 << 20));
        let reader = || SharedRows::new(Arc::clone(&blocks), TOPIC, &format, &record_schema()).unwrap().unwrap();
        let address = |portions: &[Decoded]| {
            let texts =
                |portion: &Decoded| portion.rows.column(SharedRows::place_of(2)).to_data().buffers()[1].as_ptr();
            portions.iter().map(texts).collect::<Vec<_>>()
        };
        // Who only looks leaves nothing.
        let alone = reader().decode(3, &raw, None).unwrap();
        assert_ne!(address(&alone), address(&reader().decode(3, &raw, None).unwrap()));
        let first = reader().decode(3, &raw, Some(0)).unwrap();
        assert_eq!(first.len(), 3);
        for from in [None, Some(0)] {
            assert_eq!(address(&reader().decode(3, &raw, from).unwrap()), address(&first));
        }
        // Another partition, another declaration: others' rows.
        assert_ne!(address(&reader().decode(4, &raw, None).unwrap()), address(&first));
        let other = RecordFormat { tombstones: true, ..format.clone() };
        let mut other = SharedRows::new(Arc::clone(&blocks), TOPIC, &other, &record_schema()).unwrap().unwrap();
        assert_ne!(address(&other.decode(3, &raw, None).unwrap()), address(&first));
    }
}
