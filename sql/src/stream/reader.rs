//! `Reader`: a tick's raw records as the changes a chain takes; what does not decode is noted once and skipped.

use std::sync::Arc;

use aquifer_storage::record::columns::RecordColumn;
use aquifer_storage::{Storage, TopicId};
use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, SchemaRef};
use datafusion::error::DataFusionError;

use super::source::offset_of;
use super::tick::Tick;
use crate::catalog::Relation;
use crate::catalog::decode_errors::DecodeErrors;
use crate::error::{Error, Result};
use crate::operator::change::Changes;
use crate::table::rows::{ReadRows, RowReader};

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Reader {
    rows: RowReader,
    stream: String,
    topic: (TopicId, String),
    partitions: i32,
    keeps_origin: bool,
    errors: Arc<DecodeErrors>,
}

impl Reader {
    /// Reads `relation`, whose topic has so many partitions, as rows of `schema`. `keeps_origin` carries key and headers.
    pub(crate) fn new(
        storage: &Storage,
        relation: &Relation,
        partitions: i32,
        schema: SchemaRef,
        keeps_origin: bool,
        errors: Arc<DecodeErrors>,
    ) -> Result<Self> {
        let rows = RowReader::once(storage, relation, schema, keeps_origin).map_err(Error::from)?;
        let topic = (relation.topic, relation.topic_name.clone());
        Ok(Self { rows, stream: relation.name.clone(), topic, partitions, keeps_origin, errors })
    }

    /// The topic read.
    pub(crate) fn topic(&self) -> TopicId {
        self.topic.0
    }

    /// Its partitions.
    pub(crate) fn partitions(&self) -> i32 {
        self.partitions
    }

    /// The topic has so many partitions by now.
    pub(crate) fn grow(&mut self, partitions: i32) {
        self.partitions = self.partitions.max(partitions);
    }

    /// Whether changes carry what the sink keeps of each record.
    pub(crate) fn keeps_origin(&self) -> bool {
        self.keeps_origin
    }

    /// The raw columns a source must give.
    pub(crate) fn raw_columns(&self) -> &[RecordColumn] {
        self.rows.raw_columns()
    }

    /// A tick's records as inserts, per partition in offset order.
    pub(crate) fn read_tick(&mut self, tick: &Tick) -> Result<Vec<(i32, Changes)>> {
        let mut input = Vec::new();
        for run in &tick.runs {
            let mut start = run.start;
            for batch in run.batches.iter().filter(|batch| batch.num_rows() > 0) {
                input.push((run.partition, self.read(run.partition, start, batch)?));
                start = offset_of(batch, batch.num_rows() - 1) + 1;
            }
        }
        Ok(input)
    }

    fn read(&mut self, partition: i32, start: i64, raw: &RecordBatch) -> Result<Changes> {
        let ReadRows { rows, records, errors } = self.rows.read_once(partition, start, raw).map_err(Error::from)?;
        self.errors.note(&self.stream, (self.topic.0, &self.topic.1), errors);
        let timestamps = timestamps_ms(&records).map_err(Error::from)?;
        Ok(Changes::inserts(rows, timestamps, self.keeps_origin.then_some(records)))
    }
}

/// The records' own timestamps, ms.
fn timestamps_ms(records: &RecordBatch) -> datafusion::error::Result<Int64Array> {
    let name = RecordColumn::Timestamp.name();
    let missing = || DataFusionError::Internal(format!("raw column {name} is missing"));
    let column = cast(records.column_by_name(name).ok_or_else(missing)?, &DataType::Int64)?;
    Ok(column.as_primitive::<Int64Type>().clone())
}
