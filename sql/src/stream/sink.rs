//! `Sink`: a tick's changes as records of the output topic.
//!
//! A stream made by filters and projections keeps each record's key bytes, timestamp and headers; a null key stays in
//! its source's partition. An aggregate's key is its group, its timestamp the group's largest input's; a group that
//! vanishes is a tombstone. Keyed records are placed by murmur2 of the key, as Java and kafkajs place them.

use std::collections::HashMap;

use aquifer_storage::record::batch::{BatchBuilder, CheckedBatch, Compression, TimestampType};
use aquifer_storage::record::format::{ColumnRole, EncodedRecord, Encoder, RecordFormat, partition_of_key};
use aquifer_storage::{Append, TopicId};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt64Array};
use arrow::datatypes::{Int32Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use datafusion::error::DataFusionError;

use crate::error::{Error, Result, SqlState};
use crate::operator::change::Changes;
use crate::run::query::cast_batch;
use crate::types::field_of;

/// Headers of one record, as a batch takes them.
type Headers<'a> = Vec<(&'a [u8], Option<&'a [u8]>)>;

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Sink {
    topic: TopicId,
    partitions: i32,
    format: RecordFormat,
    schema: SchemaRef,
    encoder: Encoder,
}

/// Batches being filled, the last one of each partition of the output topic.
struct Partitions {
    builders: Vec<Vec<BatchBuilder>>,
    batch_bytes_max: usize,
}

impl Sink {
    /// A sink that writes `format` into a topic of so many partitions.
    pub(crate) fn new(topic: TopicId, partitions: i32, format: RecordFormat) -> Result<Self> {
        let columns = format.columns.iter().map(|column| field_of(&column.name, &column.kind, true));
        let schema = SchemaRef::new(Schema::new(columns.collect::<Vec<_>>()));
        let encoder = Encoder::new(&format).map_err(Error::from)?;
        Ok(Self { topic, partitions, format, schema, encoder })
    }

    /// Where the records go.
    pub(crate) fn topic(&self) -> TopicId {
        self.topic
    }

    /// The records of a tick's changes, in batches of so many bytes at the most.
    pub(crate) fn encode(&self, changes: &[Changes], batch_bytes_max: usize) -> Result<Vec<Append>> {
        let mut partitions = Partitions::new(self.partitions, batch_bytes_max);
        if self.format.tombstones {
            if let Some(first) = changes.first() {
                let all = Changes::concat(&first.rows.schema(), changes).map_err(Error::from)?;
                self.encode_table(&all, &mut partitions)?;
            }
        } else {
            for batch in changes {
                self.encode_stream(batch, &mut partitions)?;
            }
        }
        Ok(partitions.build(self.topic))
    }

    /// Records one for one, with what the source's record had.
    fn encode_stream(&self, changes: &Changes, partitions: &mut Partitions) -> Result<()> {
        let origin = changes.origin.as_ref().ok_or_else(|| internal("a stream's record lost its origin"))?;
        let sources = column(origin, "_partition")?.as_primitive_opt::<Int32Type>();
        let keys = column(origin, "_key")?.as_binary_opt::<i32>();
        let headers = column(origin, "_headers")?.as_list_opt::<i32>();
        let (Some(sources), Some(keys), Some(headers)) = (sources, keys, headers) else {
            return Err(internal("raw record columns have other types"));
        };
        let encoded = self.encoder.encode(&self.declared(&changes.rows)?, None).map_err(Error::from)?;
        for (row, record) in encoded.iter().enumerate() {
            let key = keys.is_valid(row).then(|| keys.value(row));
            let partition = match key {
                Some(key) => partition_of_key(key, self.partitions),
                None => sources.value(row).rem_euclid(self.partitions),
            };
            let list = headers.value(row);
            let record_headers = headers_of(&list)?;
            let time = changes.timestamps_ms.value(row);
            partitions.push(partition, time, key, record.value.as_deref(), &record_headers);
        }
        Ok(())
    }

    /// Per key, the row it has now, or a tombstone; keys whose row is the same as before write nothing.
    fn encode_table(&self, changes: &Changes, partitions: &mut Partitions) -> Result<()> {
        let changes = changes.consolidate().map_err(Error::from)?;
        let rows = self.declared(&changes.rows)?;
        let latest = self.latest_per_key(&rows, &changes)?;
        let indices = UInt64Array::from_iter_values(latest.iter().map(|(row, _)| *row as u64));
        let kept = changes.with_rows(rows).take(&indices).map_err(Error::from)?;
        let tombstones: Vec<bool> = latest.iter().map(|(_, inserted)| !inserted).collect();
        let encoded = self.encoder.encode(&kept.rows, Some(&tombstones)).map_err(Error::from)?;
        for (row, EncodedRecord { key, value }) in encoded.iter().enumerate() {
            let key = key.as_deref().ok_or_else(|| internal("a table's row has no key"))?;
            let partition = partition_of_key(key, self.partitions);
            partitions.push(partition, kept.timestamps_ms.value(row), Some(key), value.as_deref(), &[]);
        }
        Ok(())
    }

    /// Indexes of the row to write for each key, in order of the keys' first appearance, and whether it is inserted.
    fn latest_per_key(&self, rows: &RecordBatch, changes: &Changes) -> Result<Vec<(usize, bool)>> {
        let keys: Vec<ArrayRef> = self.key_columns().map(|index| ArrayRef::clone(rows.column(index))).collect();
        let fields = keys.iter().map(|key| SortField::new(key.data_type().clone())).collect();
        let encoded = match keys.as_slice() {
            [] => None,
            keys => {
                let converter = RowConverter::new(fields).map_err(refused)?;
                Some(converter.convert_columns(keys).map_err(refused)?)
            }
        };
        let mut slots: HashMap<&[u8], usize> = HashMap::new();
        let mut latest: Vec<(usize, bool)> = Vec::new();
        for row in 0..changes.len() {
            let key: &[u8] = encoded.as_ref().map_or(&[], |encoded| encoded.row(row).data());
            let inserted = changes.weights.value(row) > 0;
            match slots.get(key) {
                Some(&slot) if inserted => latest[slot] = (row, true),
                Some(_) => {}
                None => {
                    slots.insert(key, latest.len());
                    latest.push((row, inserted));
                }
            }
        }
        Ok(latest)
    }

    fn key_columns(&self) -> impl Iterator<Item = usize> {
        let columns = self.format.columns.iter().enumerate();
        columns.filter(|(_, column)| column.role == ColumnRole::Key).map(|(index, _)| index)
    }

    /// Result rows in the types of the declared columns.
    fn declared(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        cast_batch(rows, &self.schema).map_err(Error::from)
    }
}

impl Partitions {
    fn new(count: i32, batch_bytes_max: usize) -> Self {
        Self { builders: (0..count).map(|_| Vec::new()).collect(), batch_bytes_max }
    }

    fn push(
        &mut self,
        partition: i32,
        time_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&[u8], Option<&[u8]>)],
    ) {
        let Some(builders) = usize::try_from(partition).ok().and_then(|index| self.builders.get_mut(index)) else {
            return;
        };
        if builders.last().is_none_or(|builder| !builder.has_room(self.batch_bytes_max, key, value, headers)) {
            builders.push(BatchBuilder::new(0, TimestampType::CreateTime));
        }
        if let Some(builder) = builders.last_mut() {
            builder.push(time_ms, key, value, headers);
        }
    }

    fn build(self, topic: TopicId) -> Vec<Append> {
        let numbered = (0_i32..).zip(self.builders);
        let appends = numbered.flat_map(|(partition, builders)| {
            let batches = builders.into_iter().filter_map(|builder| builder.build(Compression::None));
            batches.map(move |batch| Append { topic, partition, batch })
        });
        appends.collect()
    }
}

/// Bytes of a tick's records, as a commit counts them.
pub(crate) fn appended_bytes(appends: &[Append]) -> u64 {
    appends.iter().map(|append| CheckedBatch::bytes(&append.batch).len() as u64).sum()
}

fn headers_of(list: &ArrayRef) -> Result<Headers<'_>> {
    let parts = list.as_struct_opt().map(|parts| (parts.column(0), parts.column(1)));
    let parts = parts.and_then(|(keys, values)| Some((keys.as_binary_opt::<i32>()?, values.as_binary_opt::<i32>()?)));
    let (keys, values) = parts.ok_or_else(|| internal("raw headers have another type"))?;
    Ok((0..keys.len()).map(|index| (keys.value(index), values.is_valid(index).then(|| values.value(index)))).collect())
}

fn column<'a>(rows: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
    rows.column_by_name(name).ok_or_else(|| internal(&format!("raw column {name} is missing")))
}

fn refused(source: ArrowError) -> Error {
    Error::from(DataFusionError::from(source))
}

fn internal(what: &str) -> Error {
    Error::new(SqlState::InternalError, what)
}
