//! Declared columns of a cold object: what a relation says its records hold, decoded once, beside the raw columns.
//!
//! Every raw row stays, whether it decodes or not; where it does not, the declared columns are null and `_error` says
//! why. A table's objects have `_tombstone` too: whether the record deletes its key, which one does whose value does not
//! decode; its key's columns are there then. Which columns a topic has is SQL's knowledge: storage asks when it tiers (see
//! [`DeclaredColumns`]).
//!
//! An object says in its footer which declaration its columns were decoded by ([`declaration_of`]). A scan takes them only
//! if that is the very one it asks for, and the raw columns else: what was declared otherwise may have decoded otherwise.

use std::fmt::Debug;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, StringArray, StringBuilder, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use parquet::file::metadata::KeyValue;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ids::TopicId;
use crate::record::columns::{RecordColumn, record_schema};
use crate::record::format::{DecodeError, Decoded, Decoder, RecordFormat, TOMBSTONE_COLUMN};
use crate::scan::blocks::Blocks;
use crate::scan::share::{SharedRows, column_of};

/// Why a record did not decode.
pub(crate) const ERROR_COLUMN: &str = "_error";

/// In an object's key-value metadata: the [`Declaration`] of its columns.
pub(crate) const DECLARED_KEY: &str = "aquifer.declared";

/// Raised when the decoder gives other values for the same bytes: objects from before are then read raw, and rewritten.
const DECODER_VERSION: u32 = 1;

/// The same of tables. Since 2 a value that does not decode deletes its key.
const TABLE_DECODER_VERSION: u32 = 2;

fn decoder_version(format: &RecordFormat) -> u32 {
    if format.tombstones { TABLE_DECODER_VERSION } else { DECODER_VERSION }
}

/// What the declared columns of an object were decoded by. Stored, as JSON.
#[derive(Debug, Serialize, Deserialize)]
struct Declaration<F> {
    decoder: u32,
    format: F,
}

/// By which declaration the columns of an object were decoded; `None` if it has none, or one that this program decodes
/// otherwise or does not know.
pub(crate) fn declaration_of(metadata: Option<&Vec<KeyValue>>) -> Option<RecordFormat> {
    let said = metadata?.iter().find(|pair| pair.key == DECLARED_KEY)?.value.as_deref()?;
    let declaration: Declaration<RecordFormat> = serde_json::from_str(said).ok()?;
    (declaration.decoder == decoder_version(&declaration.format)).then_some(declaration.format)
}

/// The error that an object's `_error` tells of, put together again: its column, if it is one column's fault, and words.
pub(crate) fn error_of(said: &str, format: &RecordFormat) -> (Option<String>, String) {
    let names = format.columns.iter().map(|column| &column.name);
    let of = |name: &String| said.strip_prefix(name.as_str()).and_then(|rest| rest.strip_prefix(": "));
    // Of names that begin alike the longest is meant.
    let named = names.filter_map(|name| of(name).map(|words| (name, words))).max_by_key(|(name, _)| name.len());
    named.map_or_else(|| (None, said.to_owned()), |(name, words)| (Some(name.clone()), words.to_owned()))
}

/// What knows the declared columns of topics; asked each time a topic is tiered.
pub trait DeclaredColumns: Debug + Send + Sync {
    /// How the topic's records decode; `None` if nothing is declared over it.
    fn format_of(&self, topic: TopicId) -> Option<RecordFormat>;
}

/// Adds the declared columns to raw rows.
#[derive(Debug)]
pub(crate) struct Declared {
    decoder: Decoder,
    columns: usize,
    schema: SchemaRef,
    /// Whether the records are a table's, some of them deletions.
    tombstones: bool,
    declaration: String,
    /// What others have decoded of the log, if the records are from there.
    shared: Option<SharedRows>,
}

impl Declared {
    /// For records of this format.
    ///
    /// # Errors
    /// [`Error::Config`] for a format that makes no sense.
    pub(crate) fn new(format: &RecordFormat) -> Result<Self> {
        let raw = record_schema();
        let wanted: Vec<usize> = (0..format.columns.len()).collect();
        let decoder = Decoder::new(format, &raw, &[], &wanted)?;
        let mut fields: Vec<_> = raw.fields().iter().map(Arc::clone).collect();
        // Behind the declared columns a table's decoder gives one more: whether the row is a tombstone.
        fields.extend(decoder.schema().fields().iter().take(wanted.len()).map(Arc::clone));
        fields.push(Arc::new(Field::new(ERROR_COLUMN, DataType::Utf8, true)));
        if format.tombstones {
            fields.push(Arc::new(Field::new(TOMBSTONE_COLUMN, DataType::Boolean, false)));
        }
        let declaration = serde_json::to_string(&Declaration { decoder: decoder_version(format), format })
            .map_err(Error::format("write down a declaration"))?;
        let (schema, tombstones) = (Arc::new(Schema::new(fields)), format.tombstones);
        Ok(Self { decoder, columns: wanted.len(), schema, tombstones, declaration, shared: None })
    }

    /// For records of a topic's log: what others have decoded of them is not decoded again.
    ///
    /// # Errors
    /// As [`Declared::new`].
    pub(crate) fn sharing(self, blocks: Arc<Blocks>, topic: TopicId, format: &RecordFormat) -> Result<Self> {
        let shared = SharedRows::new(blocks, topic, format, &record_schema())?;
        Ok(Self { shared, ..self })
    }

    /// The declared columns of the rows that decode, behind them a table's tombstones, and why others do not.
    fn decoded(&mut self, raw: &RecordBatch) -> Result<(Vec<ArrayRef>, Vec<DecodeError>)> {
        let partitions = raw.column(RecordColumn::Partition as usize).as_primitive::<Int32Type>().values();
        let Some((shared, partition)) = self.shared.as_mut().zip(partitions.first()) else {
            let Decoded { rows, errors } = self.decoder.decode(raw)?;
            return Ok((rows.columns().to_vec(), errors));
        };
        let portions = shared.decode(*partition, raw, None)?;
        let places = (0..self.columns + usize::from(self.tombstones)).map(SharedRows::place_of);
        let columns = places.map(|place| column_of(&portions, place)).collect::<Result<_>>()?;
        Ok((columns, portions.into_iter().flat_map(|portion| portion.errors).collect()))
    }

    /// What the object says of its declared columns.
    pub(crate) fn metadata(&self) -> KeyValue {
        KeyValue::new(DECLARED_KEY.to_owned(), self.declaration.clone())
    }

    /// Raw columns, declared columns, `_error`, of a table `_tombstone`.
    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The raw rows, of one partition, with their declared columns.
    ///
    /// # Errors
    /// [`Error::Format`]; then it is a bug.
    pub(crate) fn extend(&mut self, raw: &RecordBatch) -> Result<RecordBatch> {
        let (decoded, errors) = self.decoded(raw)?;
        let (places, errors) = places(raw, &errors);
        let (declared, tombstones) = decoded.split_at(self.columns);
        let mut columns = raw.columns().to_vec();
        for column in declared {
            columns.push(take(column, &places, None).map_err(Error::format("place decoded rows"))?);
        }
        columns.push(Arc::new(errors));
        for tombstones in tombstones {
            let placed = take(tombstones, &places, None).map_err(Error::format("place tombstones"))?;
            // What is no row deletes nothing.
            let deletes = placed.as_boolean().iter().map(|deletes| Some(deletes.unwrap_or(false)));
            columns.push(Arc::new(deletes.collect::<BooleanArray>()));
        }
        RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(Error::format("add declared columns"))
    }
}

/// For each raw row its place among the decoded ones, null where it did not decode, and why not. Both sides ascend by
/// offset.
fn places(raw: &RecordBatch, errors: &[DecodeError]) -> (UInt32Array, StringArray) {
    let mut errors = errors.iter().peekable();
    let mut words = StringBuilder::new();
    let mut decoded = 0;
    let offsets = raw.column(RecordColumn::Offset as usize).as_primitive::<Int64Type>();
    let place = |offset: &i64| {
        let failed = errors.next_if(|error| error.offset == *offset);
        match failed {
            Some(DecodeError { column: Some(column), error, .. }) => words.append_value(format!("{column}: {error}")),
            Some(DecodeError { error, .. }) => words.append_value(error),
            None => words.append_null(),
        }
        failed.is_none_or(|error| error.hides).then(|| {
            decoded += 1;
            decoded - 1
        })
    };
    let places = offsets.values().iter().map(place).collect();
    (places, words.finish())
}

#[cfg(test)]
mod tests {
    use arrow::array::Array;
    use arrow::datatypes::Int32Type;

    use super::*;
    use crate::record::batch::{RecordView, TimestampType};
    use crate::record::format::{ColumnRole, ColumnType, DeclaredColumn, Format};
    use crate::record::rows::{RowBuilder, RowOrigin};

    fn column(name: &str, kind: ColumnType, role: ColumnRole) -> DeclaredColumn {
        DeclaredColumn { name: name.to_owned(), field: name.to_owned(), kind, role, not_null: false }
    }

    #[test]
    fn every_row_stays_and_says_why_it_did_not_decode() {
        for tombstones in [false, true] {
            let format = RecordFormat {
                columns: vec![
                    column("id", ColumnType::Text, ColumnRole::Key),
                    column("n", ColumnType::Int, ColumnRole::Value),
                ],
                key_format: Format::Kafka,
                value_format: Format::Json,
                tombstones,
            };
            let mut rows = RowBuilder::new(&RecordColumn::ALL);
            let origin = RowOrigin { partition: 0, timestamp_type: TimestampType::CreateTime, committed_at_us: 1 };
            let values: [Option<&[u8]>; 5] =
                [Some(br#"{"n":1}"#), Some(b"no json"), Some(br#"{"n":"x"}"#), None, Some(br#"{"n":5}"#)];
            for (offset, value) in (10..).zip(values) {
                let (key, headers) = (Some(b"k".as_slice()), vec![]);
                rows.push(&origin, &RecordView { offset, timestamp_ms: 0, key, value, headers });
            }
            let raw = rows.finish().unwrap();
            let mut declared = Declared::new(&format).unwrap();
            let extended = declared.extend(&raw).unwrap();
            assert_eq!(extended.num_rows(), 5);
            assert_eq!(extended.schema(), *declared.schema());
            let numbers = extended.column_by_name("n").unwrap().as_primitive::<Int32Type>();
            assert_eq!(numbers.iter().collect::<Vec<_>>(), [Some(1), None, None, None, Some(5)]);
            let errors = extended.column_by_name(ERROR_COLUMN).unwrap().as_string::<i32>();
            let failed: Vec<bool> = (0..5).map(|row| errors.is_valid(row)).collect();
            let keys = extended.column_by_name("id").unwrap().as_string::<i32>();
            assert_eq!(
                (0..5).map(|row| keys.is_valid(row)).collect::<Vec<_>>(),
                [true, tombstones, tombstones, tombstones, true]
            );
            assert_eq!(failed, [false, true, true, !tombstones, false]);
            assert!(errors.value(2).starts_with("n: "), "{}", errors.value(2));
            let (column, words) = error_of(errors.value(2), &format);
            assert_eq!((column.as_deref(), format!("n: {words}").as_str()), (Some("n"), errors.value(2)));
            assert_eq!(error_of(errors.value(1), &format), (None, errors.value(1).to_owned()));
            let deletes = extended.column_by_name(TOMBSTONE_COLUMN).map(|column| column.as_boolean().clone());
            let deleted = BooleanArray::from(vec![false, true, true, true, false]);
            assert_eq!(deletes, tombstones.then_some(deleted), "one whose value does not decode hides its key");
            assert_eq!(declaration_of(Some(&vec![declared.metadata()])), Some(format));
        }
    }

    #[test]
    fn a_declaration_that_decodes_otherwise_is_none() {
        let said = |text: &str| declaration_of(Some(&vec![KeyValue::new(DECLARED_KEY.to_owned(), text.to_owned())]));
        let format = r#"{"columns":[],"key_format":"none","value_format":"json","tombstones":false}"#;
        assert!(said(&format!(r#"{{"decoder":1,"format":{format}}}"#)).is_some());
        assert!(said(&format!(r#"{{"decoder":2,"format":{format}}}"#)).is_none());
        let of_table = format.replace("false", "true");
        assert!(said(&format!(r#"{{"decoder":2,"format":{of_table}}}"#)).is_some());
        assert!(
            said(&format!(r#"{{"decoder":1,"format":{of_table}}}"#)).is_none(),
            "what hides a key was not known then"
        );
        assert!(said("1").is_none() && declaration_of(None).is_none());
    }
}
