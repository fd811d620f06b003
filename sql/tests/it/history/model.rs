//! What a topic holds, as a plain list, and DataFusion to ask it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::datasource::MemTable;
use datafusion::error::Result;
use datafusion::prelude::{SessionConfig, SessionContext};
use rand::Rng;
use rand::rngs::StdRng;

pub(super) const PARTITIONS: usize = 3;

/// A column's type: how it is declared, how a value is written in JSON, what it is in Arrow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Int,
    BigInt,
    Double,
    Boolean,
    Text,
    Timestamp,
    Decimal,
    Date,
}

impl Kind {
    pub(super) const ALL: [Self; 8] =
        [Self::Int, Self::BigInt, Self::Double, Self::Boolean, Self::Text, Self::Timestamp, Self::Decimal, Self::Date];

    pub(super) fn declared(self) -> &'static str {
        match self {
            Self::Int => "INT",
            Self::BigInt => "BIGINT",
            Self::Double => "DOUBLE",
            Self::Boolean => "BOOLEAN",
            Self::Text => "STRING",
            Self::Timestamp => "TIMESTAMP",
            Self::Decimal => "DECIMAL(10, 2)",
            Self::Date => "DATE",
        }
    }

    fn arrow(self) -> DataType {
        match self {
            Self::Int => DataType::Int32,
            Self::BigInt => DataType::Int64,
            Self::Double => DataType::Float64,
            Self::Boolean => DataType::Boolean,
            Self::Text => DataType::Utf8,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::Decimal => DataType::Decimal128(10, 2),
            Self::Date => DataType::Date32,
        }
    }

    /// A value with its JSON.
    pub(super) fn random(self, rng: &mut StdRng) -> (ScalarValue, String) {
        match self {
            Self::Int => {
                let value = rng.random_range(-5..6);
                (ScalarValue::Int32(Some(value)), value.to_string())
            }
            Self::BigInt => {
                let value = rng.random_range(-1_000_000_000_000..1_000_000_000_000_i64);
                (ScalarValue::Int64(Some(value)), value.to_string())
            }
            Self::Double => {
                let value = f64::from(rng.random_range(-1000..1000)) / 8.0;
                (ScalarValue::Float64(Some(value)), format!("{value:?}"))
            }
            Self::Boolean => {
                let value = rng.random_bool(0.5);
                (ScalarValue::Boolean(Some(value)), value.to_string())
            }
            Self::Text => {
                let value = ["a", "b", "", "ünïcode", "long text of several words", "A"][rng.random_range(0..6)];
                (ScalarValue::Utf8(Some(value.to_owned())), format!("\"{value}\""))
            }
            Self::Timestamp => {
                let ms = 1_704_067_200_000 + rng.random_range(0..86_400_000_i64);
                (ScalarValue::TimestampMicrosecond(Some(ms * 1000), None), ms.to_string())
            }
            Self::Decimal => {
                let cents = rng.random_range(-10_000..10_000_i32);
                let sign = if cents < 0 { "-" } else { "" };
                let text = format!("{sign}{}.{:02}", cents.abs() / 100, cents.abs() % 100);
                (ScalarValue::Decimal128(Some(cents.into()), 10, 2), text)
            }
            Self::Date => {
                let days = rng.random_range(19_000..19_030);
                (ScalarValue::Date32(Some(days)), days.to_string())
            }
        }
    }
}

/// What becomes of a record's value in a stream.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// A row of it.
    Cells(Vec<ScalarValue>),
    /// No row: it does not decode.
    Broken,
    /// No row, and in a table the end of its key's.
    Tombstone,
}

/// A record that was acknowledged.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) partition: usize,
    pub(super) offset: i64,
    pub(super) timestamp_ms: i64,
    pub(super) key: Option<String>,
    pub(super) value: Value,
    /// Of a transaction that has not ended.
    pub(super) open: bool,
}

/// See the head of this file.
#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) columns: Vec<(String, Kind)>,
    /// Whether a table is declared over the topic, too.
    pub(super) has_table: bool,
    pub(super) records: Vec<Kept>,
    /// First offset of the open transaction, where it has written.
    pub(super) stable_ends: [i64; PARTITIONS],
}

impl Model {
    /// What a SELECT that begins now may see: committed, and behind no open transaction.
    pub(super) fn visible(&self) -> impl Iterator<Item = &Kept> {
        self.records.iter().filter(|record| !record.open && record.offset < self.stable_ends[record.partition])
    }

    /// Places of all that is visible, in order.
    pub(super) fn places(&self) -> BTreeSet<(usize, i64)> {
        self.visible().map(|record| (record.partition, record.offset)).collect()
    }

    /// Newest visible record per key.
    pub(super) fn latest(&self) -> BTreeMap<&str, &Kept> {
        let mut latest: BTreeMap<&str, &Kept> = BTreeMap::new();
        for record in self.visible() {
            let Some(key) = record.key.as_deref() else { continue };
            let newer = latest.get(key).is_none_or(|other| other.offset < record.offset);
            if newer {
                latest.insert(key, record);
            }
        }
        latest
    }

    /// The rows of a SELECT.
    pub(super) async fn answer(&self, sql: &str) -> Result<Vec<RecordBatch>> {
        let mut config = SessionConfig::new();
        let options = config.options_mut();
        options.sql_parser.dialect = datafusion::config::Dialect::PostgreSQL;
        options.sql_parser.parse_float_as_decimal = true;
        options.sql_parser.map_string_types_to_utf8view = false;
        let context = SessionContext::new_with_config(config);
        let stream: Vec<&Kept> = self.visible().collect();
        context.register_table("s", self.table(&stream)?)?;
        let latest: Vec<&Kept> = self.latest().into_values().collect();
        context.register_table("t", self.table(&latest)?)?;
        context.sql(sql).await?.collect().await
    }

    fn table(&self, records: &[&Kept]) -> Result<Arc<MemTable>> {
        let mut fields = vec![Field::new("id", DataType::Utf8, true)];
        fields.extend(self.columns.iter().map(|(name, kind)| Field::new(name, kind.arrow(), true)));
        fields.push(Field::new("_partition", DataType::Int32, false));
        fields.push(Field::new("_offset", DataType::Int64, false));
        fields.push(Field::new("rowtime", DataType::Int64, false));
        let rows: Vec<(&Kept, &Vec<ScalarValue>)> = records
            .iter()
            .filter_map(|record| match &record.value {
                Value::Cells(cells) => Some((*record, cells)),
                Value::Broken | Value::Tombstone => None,
            })
            .collect();
        let schema = Arc::new(Schema::new(fields));
        if rows.is_empty() {
            return Ok(Arc::new(MemTable::try_new(Arc::clone(&schema), vec![vec![RecordBatch::new_empty(schema)]])?));
        }
        let mut columns =
            vec![ScalarValue::iter_to_array(rows.iter().map(|(record, _)| ScalarValue::Utf8(record.key.clone())))?];
        for index in 0..self.columns.len() {
            columns.push(ScalarValue::iter_to_array(rows.iter().map(|(_, cells)| cells[index].clone()))?);
        }
        let partition = |record: &Kept| ScalarValue::Int32(i32::try_from(record.partition).ok());
        columns.push(ScalarValue::iter_to_array(rows.iter().map(|(record, _)| partition(record)))?);
        columns
            .push(ScalarValue::iter_to_array(rows.iter().map(|(record, _)| ScalarValue::Int64(Some(record.offset))))?);
        columns.push(ScalarValue::iter_to_array(
            rows.iter().map(|(record, _)| ScalarValue::Int64(Some(record.timestamp_ms))),
        )?);
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns)?;
        Ok(Arc::new(MemTable::try_new(schema, vec![vec![batch]])?))
    }
}

/// NULL of a column's type.
pub(super) fn null_of(kind: Kind) -> ScalarValue {
    ScalarValue::try_from(&kind.arrow()).unwrap()
}
