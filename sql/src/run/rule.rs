//! `Rules`: what a relation declares of its rows beyond their types: NOT NULL, DEFAULT and CHECK. They hold for whatever SQL
//! writes. A topic's Kafka clients are not asked: what they produce is read as it is.

use std::sync::Arc;

use aquifer_storage::record::format::ColumnRole;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Schema};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::error::DataFusionError;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::Volatility;
use datafusion::physical_expr::PhysicalExpr;

use super::convert::convert;
use super::shape::written_schema;
use crate::catalog::Relation;
use crate::error::{Error, Result, SqlState};
use crate::plan::scalar::{Scalar, Timed, values_of};
use crate::types::type_name;

/// Characters of a value in the detail that shows a row; Postgres's.
const SHOWN_CHARS_MAX: usize = 64;

/// See the head of this file.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    /// By declared index; empty where no column has one.
    defaults: Vec<Option<ColumnDefault>>,
    /// By name.
    checks: Vec<(String, Arc<dyn PhysicalExpr>)>,
}

#[derive(Debug)]
enum ColumnDefault {
    /// A constant, `random()`, `now() + interval '1 day'`.
    Timed(Arc<Timed>),
    /// What is planned for each statement.
    Moving(Scalar),
}

/// A statement's defaults, by declared index.
#[derive(Debug)]
pub(crate) struct Defaults {
    of: Vec<Option<Ready>>,
    now_us: i64,
}

#[derive(Debug)]
enum Ready {
    Timed(Arc<Timed>),
    Planned(Arc<dyn PhysicalExpr>),
}

impl Rules {
    /// A relation's rules.
    ///
    /// # Errors
    /// What its expressions say; 42804 for a CHECK that is no condition, 0A000 for a DEFAULT that reads columns or a CHECK
    /// whose answer is not always the same.
    pub(crate) async fn of(state: &SessionState, relation: &Relation) -> Result<Self> {
        let mut rules = Self::default();
        if relation.rules.defaults.is_empty() && relation.rules.checks.is_empty() {
            return Ok(rules);
        }
        let schema = written_schema(relation);
        for column in &relation.format.columns {
            let text = relation.rules.defaults.get(&column.name);
            rules.defaults.push(match text {
                Some(text) => Some(default(state, &schema, &column.name, text).await?),
                None => None,
            });
        }
        for check in &relation.rules.checks {
            let what = format!("CHECK constraint \"{}\"", check.name);
            let scalar = Scalar::read(state, &schema, &check.expression, &what).await?;
            if scalar.kind != DataType::Boolean {
                let message = format!("argument of CHECK must be type boolean, not type {}", scalar.kind);
                return Err(
                    Error::new(SqlState::DatatypeMismatch, message).with_hint("write a condition: CHECK (a > 0)")
                );
            }
            if scalar.volatility != Volatility::Immutable {
                return Err(Error::unsupported(format!("a function whose answer changes in {what}"))
                    .with_hint("compare the row's own columns: what holds when it is written must hold later"));
            }
            rules.checks.push((check.name.clone(), scalar.ready(state, 0)?));
        }
        Ok(rules)
    }

    /// The defaults of a statement that began then.
    ///
    /// # Errors
    /// What planning says.
    pub(crate) fn defaults(&self, state: &SessionState, now_us: i64) -> Result<Defaults> {
        let ready = |default: &Option<ColumnDefault>| match default {
            None => Ok(None),
            Some(ColumnDefault::Timed(timed)) => Ok(Some(Ready::Timed(Arc::clone(timed)))),
            Some(ColumnDefault::Moving(scalar)) => scalar.ready(state, now_us).map(Ready::Planned).map(Some),
        };
        Ok(Defaults { of: self.defaults.iter().map(ready).collect::<Result<_>>()?, now_us })
    }

    /// Refuses rows that a rule forbids; of several the first row. `rows` are the columns that `declared` says; those to
    /// be deleted need their key only.
    ///
    /// # Errors
    /// 23502, 23514 with the row by [`Error::row`].
    pub(crate) fn check(
        &self,
        relation: &Relation,
        declared: &[usize],
        rows: &RecordBatch,
        deletes: bool,
    ) -> Result<()> {
        let mut first: Option<(usize, Error)> = None;
        let mut found = |row: usize, error: &dyn Fn() -> Error| {
            if first.as_ref().is_none_or(|(before, _)| row < *before) {
                first = Some((row, error()));
            }
        };
        for (place, index) in declared.iter().enumerate() {
            let column = &relation.format.columns[*index];
            let is_key = column.role == ColumnRole::Key;
            let needs_value = (column.not_null && (is_key || !deletes)) || (is_key && relation.is_keyed_table());
            let values = rows.column(place);
            if needs_value && values.null_count() > 0 {
                let row = (0..values.len()).find(|row| values.is_null(*row)).unwrap_or(0);
                found(row, &|| is_null(relation, &column.name, is_key));
            }
        }
        if !deletes {
            for (name, check) in &self.checks {
                let answers = values_of(check, rows)?;
                let answers = answers.as_boolean();
                if let Some(row) = (0..answers.len()).find(|row| answers.is_valid(*row) && !answers.value(*row)) {
                    found(row, &|| is_violated(relation, name));
                }
            }
        }
        match first {
            None => Ok(()),
            Some((row, error)) => {
                Err(error.with_detail(format!("Failing row contains ({}).", shown(rows, row)?)).with_row(row))
            }
        }
    }
}

async fn default(state: &SessionState, schema: &Arc<Schema>, column: &str, text: &str) -> Result<ColumnDefault> {
    let scalar = Scalar::read(state, schema, text, &format!("DEFAULT of column \"{column}\"")).await?;
    if !scalar.columns.is_empty() {
        return Err(Error::unsupported("a column in a DEFAULT")
            .with_hint("a default is computed without the row: a constant, now(), gen_random_uuid()"));
    }
    Ok(match scalar.timed(state)? {
        Some(timed) => ColumnDefault::Timed(Arc::new(timed)),
        None => ColumnDefault::Moving(scalar),
    })
}

impl Defaults {
    /// Values for so many rows of a column; `None` if it has no default.
    ///
    /// # Errors
    /// What computing says, and what the column's type does not take.
    pub(crate) fn values(&self, index: usize, rows: usize, kind: &DataType) -> Result<Option<ArrayRef>> {
        let values = match self.of.get(index) {
            Some(Some(Ready::Timed(timed))) => timed.values(self.now_us, rows)?,
            Some(Some(Ready::Planned(default))) => {
                let options = RecordBatchOptions::new().with_row_count(Some(rows));
                let nothing = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), Vec::new(), &options)
                    .map_err(DataFusionError::from)?;
                values_of(default, &nothing)?
            }
            _ => return Ok(None),
        };
        convert(&values, kind).map(Some)
    }
}

/// Looks at a declaration before it is stored: its rules are read, and each default computed once.
///
/// # Errors
/// As [`Rules::of`]; 42804, 22P02 for a default that its column does not take.
pub(crate) async fn check_declared(state: &SessionState, relation: &Relation, now_us: i64) -> Result<()> {
    let rules = Rules::of(state, relation).await?;
    let defaults = rules.defaults(state, now_us)?;
    for (index, column) in relation.format.columns.iter().enumerate() {
        if relation.rules.defaults.contains_key(&column.name) && column.role == ColumnRole::Headers {
            return Err(Error::unsupported("a DEFAULT of a HEADERS column").with_hint("SQL writes no headers"));
        }
        defaults.values(index, 1, &column.kind.arrow()).map_err(|error| {
            let what = format!("default of column \"{}\", which is of type {}", column.name, type_name(&column.kind));
            Error { message: format!("{what}: {}", error.message), ..error }
        })?;
    }
    Ok(())
}

fn is_null(relation: &Relation, column: &str, is_key: bool) -> Error {
    let message =
        format!("null value in column \"{column}\" of relation \"{}\" violates not-null constraint", relation.name);
    let error = Error::new(SqlState::NotNullViolation, message).with_column(&relation.name, column);
    if is_key { error.with_hint("a primary key has a value in every row") } else { error }
}

fn is_violated(relation: &Relation, name: &str) -> Error {
    let message = format!("new row for relation \"{}\" violates check constraint \"{name}\"", relation.name);
    Error::new(SqlState::CheckViolation, message).with_constraint(&relation.name, name)
}

/// A row's values as Postgres lists them.
fn shown(rows: &RecordBatch, row: usize) -> Result<String> {
    let options = FormatOptions::default().with_null("null");
    let mut texts = Vec::with_capacity(rows.num_columns());
    for column in rows.columns() {
        let text = match column.as_boolean_opt() {
            Some(values) if values.is_valid(row) => (if values.value(row) { "t" } else { "f" }).to_owned(),
            _ => {
                let formatter = ArrayFormatter::try_new(column, &options).map_err(DataFusionError::from)?;
                formatter.value(row).to_string()
            }
        };
        texts.push(match text.char_indices().nth(SHOWN_CHARS_MAX) {
            Some((end, _)) => format!("{}...", &text[..end]),
            None => text,
        });
    }
    Ok(texts.join(", "))
}
