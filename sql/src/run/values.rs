//! `INSERT … VALUES` of literals and parameters: no plan, and no DataFusion. What is computed is left to it.

use std::sync::Arc;

use aquifer_storage::record::format::ColumnType;
use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::ScalarValue;
use datafusion::error::DataFusionError;

use super::insert::{Target, Writer, targets};
use super::value::ColumnBuilder;
use crate::catalog::Relation;
use crate::error::{Error, Result, SqlState};
use crate::statement::values::{Cell, InsertValues, Literal};
use crate::types::{field_of, oid_of_column};

/// Parameters of one statement, at the most; what the protocol can count.
const PARAMETERS_MAX: usize = 65_535;

/// How to fill a relation's columns from the statement's values; holds as long as the catalog does not change.
#[derive(Clone, Debug)]
pub(crate) struct DirectInsert {
    /// Where the values go.
    pub(crate) targets: Vec<Target>,
    /// Types of `$1`, `$2`, ….
    pub(crate) parameters: Vec<DataType>,
    /// Their OIDs, where the client names no type.
    pub(crate) parameter_oids: Vec<Option<u32>>,
    kinds: Vec<ColumnType>,
    schema: Arc<Schema>,
    /// The catalog it was made against.
    pub(crate) catalog_version: u64,
}

impl DirectInsert {
    /// How to insert, if each value is one that its column takes as it is written; `said` are the types that the client
    /// names.
    ///
    /// # Errors
    /// 42703, 42701, 0A000 for the columns, 42601 for their number.
    pub(crate) fn plan(
        relation: &Relation,
        insert: &InsertValues,
        said: &[Option<DataType>],
        catalog_version: u64,
    ) -> Result<Option<Self>> {
        let mut targets = targets(relation, &insert.columns)?;
        check_width(insert, targets.len())?;
        targets.truncate(insert.width);
        let kinds: Vec<ColumnType> = targets.iter().map(|target| kind_of(relation, *target)).collect();
        let (mut parameters, mut oids): (Vec<Option<DataType>>, Vec<Option<u32>>) = Default::default();
        for (index, cell) in insert.cells.iter().enumerate() {
            let kind = &kinds[index % insert.width];
            match &cell.literal {
                Literal::Parameter(number @ 1..=PARAMETERS_MAX) if is_simple(kind) => {
                    parameters.resize((*number).max(parameters.len()), None);
                    oids.resize(parameters.len(), None);
                    let stated = said.get(number - 1).cloned().flatten();
                    if stated.is_none() {
                        oids[number - 1].get_or_insert_with(|| oid_of_column(kind));
                    }
                    parameters[number - 1].get_or_insert_with(|| stated.unwrap_or_else(|| kind.arrow()));
                }
                literal if takes(kind, literal) => {}
                _ => return Ok(None),
            }
        }
        // What no value is made of has a type only if the client says one.
        parameters.resize(parameters.len().max(said.len()), None);
        let stated = |index: usize| said.get(index).cloned().flatten();
        let parameters = parameters.into_iter().enumerate();
        let parameters = parameters.map(|(index, kind)| kind.or_else(|| stated(index)).unwrap_or(DataType::Utf8));
        let parameters: Vec<DataType> = parameters.collect();
        oids.resize(parameters.len(), None);
        let names = targets.iter().zip(&kinds).map(|(target, kind)| match target {
            Target::Declared(index) => field_of(&relation.format.columns[*index].name, kind, true),
            Target::RowTime => Field::new("rowtime", DataType::Int64, true),
        });
        let schema = Arc::new(Schema::new(names.collect::<Vec<Field>>()));
        Ok(Some(Self { targets, parameters, parameter_oids: oids, kinds, schema, catalog_version }))
    }

    /// The rows.
    ///
    /// # Errors
    /// 22P02, 22003 and the like, with the value's place; 42P02 for a parameter without a value.
    pub(crate) fn rows(
        &self,
        insert: &InsertValues,
        parameters: &[ScalarValue],
        writer: &Writer,
    ) -> Result<RecordBatch> {
        let rows = insert.cells.len() / insert.width;
        let mut columns = Vec::with_capacity(self.kinds.len());
        for (column, kind) in self.kinds.iter().enumerate() {
            let mut builder = ColumnBuilder::new(kind, rows);
            for cell in insert.cells.iter().skip(column).step_by(insert.width) {
                let pushed = match &cell.literal {
                    Literal::Null => {
                        builder.push_null();
                        Ok(())
                    }
                    Literal::Default => {
                        let default = writer.defaults_of(self.targets[column], 1)?;
                        builder.push_scalar(&ScalarValue::try_from_array(&default, 0)?)
                    }
                    Literal::Boolean(value) => builder.push_scalar(&ScalarValue::Boolean(Some(*value))),
                    Literal::Number(text) | Literal::Text(text) => builder.push_text(text),
                    Literal::Parameter(number) => builder.push_scalar(parameter(parameters, *number)?),
                };
                pushed.map_err(|error| located(error, cell))?;
            }
            columns.push(builder.finish()?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options);
        Ok(batch.map_err(DataFusionError::from)?)
    }
}

/// Values of a parameter stand nowhere in the text.
fn located(error: Error, cell: &Cell) -> Error {
    if matches!(cell.literal, Literal::Parameter(_)) { error } else { error.with_position(cell.position as usize) }
}

fn parameter(parameters: &[ScalarValue], number: usize) -> Result<&ScalarValue> {
    parameters.get(number.wrapping_sub(1)).ok_or_else(|| {
        Error::new(SqlState::UndefinedParameter, format!("there is no parameter ${number}"))
            .with_hint("parameters are $1, $2, …")
    })
}

fn check_width(insert: &InsertValues, wanted: usize) -> Result<()> {
    let given = insert.width;
    if given == wanted || (given < wanted && insert.columns.is_empty()) {
        return Ok(());
    }
    let what = if given > wanted { "expressions than target columns" } else { "target columns than expressions" };
    Err(Error::new(SqlState::SyntaxError, format!("INSERT has more {what}"))
        .with_position(insert.name.position)
        .with_hint(format!("{given} values for {wanted} columns; name the columns that are meant")))
}

fn kind_of(relation: &Relation, target: Target) -> ColumnType {
    match target {
        Target::Declared(index) => relation.format.columns[index].kind.clone(),
        Target::RowTime => ColumnType::BigInt,
    }
}

/// Whether a parameter's value of the column's type is one of ours.
fn is_simple(kind: &ColumnType) -> bool {
    match kind {
        ColumnType::Array(item) => is_simple(item),
        ColumnType::Struct(_) | ColumnType::Map(_) => false,
        _ => true,
    }
}

/// Whether a literal is read as a planned one would be.
fn takes(kind: &ColumnType, literal: &Literal) -> bool {
    match (literal, kind) {
        (Literal::Null, _) => true,
        // What has parts is read as JSON too, which planning does.
        (Literal::Text(_), ColumnType::Struct(_) | ColumnType::Map(_)) => false,
        (Literal::Text(_), ColumnType::Array(item)) => is_simple(item),
        (Literal::Text(_), _) => true,
        (Literal::Default, kind) => is_simple(kind),
        (Literal::Boolean(_), kind) => *kind == ColumnType::Boolean,
        // A fraction is rounded first.
        (Literal::Number(digits), ColumnType::SmallInt | ColumnType::Int | ColumnType::BigInt) => {
            digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-')
        }
        (Literal::Number(_), kind) => {
            matches!(kind, ColumnType::Real | ColumnType::Double | ColumnType::Decimal { .. })
        }
        (Literal::Parameter(_), _) => false,
    }
}
