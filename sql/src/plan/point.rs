//! The short way for `SELECT columns FROM table WHERE primary key = value`: no planning, one look-up by key.
//!
//! What a prepared statement is run for thousands of times a second costs more to plan than to answer. So a bound plan is
//! looked at once; if it is that and nothing else, each run goes from the parameters to storage. Where storage cannot
//! answer from the keyed state, the plan is run like any other, and gives the same rows. The rows of an UPDATE or DELETE of one
//! key are found in the same way, and what UPDATE sets is computed of the one row.

use std::collections::HashMap;
use std::sync::Arc;

use aquifer_storage::record::format::{ColumnType, DeclaredColumn};
use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Field, Schema, SchemaRef};
use bytes::Bytes;
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column as PlanColumn, DFSchema, DFSchemaRef, ScalarValue};
use datafusion::datasource::source_as_provider;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{BinaryExpr, Expr, LogicalPlan, Operator, Projection, TableScan};

use super::bind::Bound;
use super::parameters::number;
use super::scalar::{ready_to_run, values_of};
use crate::catalog::Catalog;
use crate::error::{Error, Result};
use crate::table::lookup::{encode, look_up, typed};
use crate::table::{Source, SourceColumn, SourceTable};

/// A plan that is one look-up; see the head of this file.
#[derive(Debug)]
pub(crate) struct PointQuery {
    catalog: Arc<Catalog>,
    source: Source,
    /// What is shown, in its order.
    columns: Vec<SourceColumn>,
    schema: SchemaRef,
    /// What each key column has to be, in declared order.
    key: Vec<(DeclaredColumn, Sought)>,
    /// What is computed of the columns; `None` if they are shown as they are.
    computed: Option<Computed>,
}

/// A select list that computes.
#[derive(Debug)]
struct Computed {
    exprs: Vec<Expr>,
    /// The columns it reads, by the names that it reads them by.
    read: DFSchemaRef,
}

/// A value a key column is compared with.
#[derive(Clone, Debug)]
enum Sought {
    /// Written down.
    Literal(ScalarValue),
    /// `$n`, from 0.
    Parameter(usize),
}

impl PointQuery {
    /// A plan as a look-up; `None` if it is more than that.
    pub(crate) fn of(plan: &LogicalPlan) -> Option<Self> {
        let LogicalPlan::Projection(projection) = plan else { return None };
        let LogicalPlan::Filter(filter) = projection.input.as_ref() else { return None };
        let scan = scan_below(&filter.input)?;
        let provider: Arc<dyn TableProvider> = source_as_provider(&scan.source).ok()?;
        let table = (provider.as_ref() as &dyn std::any::Any).downcast_ref::<SourceTable>()?;
        let relation = table.source.relation.as_ref().filter(|relation| relation.is_keyed_table())?;
        if table.window.is_some() || scan.projection.is_some() || scan.fetch.is_some() || !scan.filters.is_empty() {
            return None;
        }
        let shown = |expr: &Expr| {
            let name = &column_of(expr)?.name;
            table.columns.iter().copied().find(|column| table.source.field(*column).name() == name)
        };
        let plain: Option<Vec<SourceColumn>> = projection.expr.iter().map(shown).collect();
        let (columns, computed) = match plain {
            Some(columns) => (columns, None),
            None => Computed::of(projection, table).map(|(columns, computed)| (columns, Some(computed)))?,
        };
        let mut conditions: HashMap<&str, Sought> = HashMap::new();
        for conjunct in split_conjunction(&filter.predicate) {
            let (name, sought) = condition(conjunct)?;
            if conditions.insert(name, sought).is_some() {
                return None;
            }
        }
        let declared = relation.key_columns().into_iter().map(|index| &relation.format.columns[index]);
        let key = declared.map(|column| Some((column.clone(), conditions.remove(column.name.as_str())?)));
        let key: Vec<_> = key.collect::<Option<_>>()?;
        let schema = Arc::clone(projection.schema.inner());
        let whole = conditions.is_empty() && !key.is_empty();
        let (catalog, source) = (Arc::clone(&table.catalog), table.source.clone());
        whole.then_some(Self { catalog, source, columns, schema, key, computed })
    }

    /// The row with these parameters, in a batch; `None` if the plan has to be run, which is that of `bound`.
    ///
    /// # Errors
    /// What storage says.
    pub(crate) async fn run(&self, bound: &Bound, parameters: &[ScalarValue]) -> Result<Option<RecordBatch>> {
        // The types of what is computed are what planning says they are.
        if self.computed.is_some() {
            return Ok(None);
        }
        let Some(rows) = self.found(bound, parameters).await? else { return Ok(None) };
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        let rows = RecordBatch::try_new_with_options(Arc::clone(&self.schema), rows.columns().to_vec(), &options);
        rows.map(Some).map_err(|error| Error::from(DataFusionError::from(error)))
    }

    /// The same for who converts what it gets: computed columns are of whatever type they come out as.
    ///
    /// # Errors
    /// What storage and computing say.
    pub(crate) async fn to_write(&self, bound: &Bound, parameters: &[ScalarValue]) -> Result<Option<RecordBatch>> {
        let Some(computed) = &self.computed else { return self.run(bound, parameters).await };
        let Some(rows) = self.found(bound, parameters).await? else { return Ok(None) };
        computed.values(bound, parameters, &rows).map(Some)
    }

    /// The row as it is, with the columns that are shown or computed of.
    async fn found(&self, bound: &Bound, parameters: &[ScalarValue]) -> Result<Option<RecordBatch>> {
        let Some(keys) = self.keys(parameters) else { return Ok(None) };
        let snapshot = bound.snapshot(self.catalog.storage())?;
        look_up(&self.catalog, &self.source, &self.columns, &snapshot, &keys).await
    }

    /// What its rows look like.
    pub(crate) fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn keys(&self, parameters: &[ScalarValue]) -> Option<Vec<Bytes>> {
        let value = |(column, sought): &(DeclaredColumn, Sought)| {
            let value = match sought {
                Sought::Literal(value) => value.clone(),
                Sought::Parameter(index) => parameters.get(*index)?.clone(),
            };
            // Other types are compared by rules that planning knows; of a uuid only the text is compared, not what it means.
            let (given, declared) = (value.data_type(), column.kind.arrow());
            let comparable = given == declared || (given.is_integer() && declared.is_integer());
            if comparable && column.kind != ColumnType::Uuid { typed(value, column) } else { None }
        };
        let row: Vec<ScalarValue> = self.key.iter().map(value).collect::<Option<_>>()?;
        encode(&[row], &self.source.relation.as_ref()?.format)
    }
}

impl Computed {
    /// What a projection over a table computes, and the columns it reads; `None` if it reads more than the row.
    fn of(projection: &Projection, table: &SourceTable) -> Option<(Vec<SourceColumn>, Self)> {
        let more = |expr: &Expr| {
            let more = expr.exists(|expr| {
                Ok(matches!(
                    expr,
                    Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_) | Expr::SetComparison(_)
                ) || matches!(expr, Expr::OuterReferenceColumn(..)))
            });
            more.unwrap_or(true)
        };
        if projection.expr.iter().any(more) {
            return None;
        }
        let used = |name: &str| {
            let reads = |expr: &Expr| expr.column_refs().iter().any(|column| column.name == name);
            projection.expr.iter().any(reads)
        };
        let (mut columns, mut fields) = (Vec::new(), Vec::new());
        for (qualifier, field) in projection.input.schema().iter().filter(|(_, field)| used(field.name())) {
            let named = |column: &SourceColumn| table.source.field(*column).name() == field.name();
            columns.push(table.columns.iter().copied().find(named)?);
            fields.push((qualifier.cloned(), Arc::clone(field)));
        }
        let read = Arc::new(DFSchema::new_with_metadata(fields, HashMap::new()).ok()?);
        Some((columns, Self { exprs: projection.expr.clone(), read }))
    }

    /// The values for rows of the columns that are read.
    fn values(&self, bound: &Bound, parameters: &[ScalarValue], rows: &RecordBatch) -> Result<RecordBatch> {
        let mut state = bound.state.clone();
        state.mark_start_execution();
        let given = |expr: Expr| match &expr {
            Expr::Placeholder(placeholder) => {
                let index = number(&placeholder.id).map_err(DataFusionError::from)? - 1;
                Ok(match parameters.get(index) {
                    Some(value) => Transformed::yes(Expr::Literal(value.clone(), None)),
                    None => Transformed::no(expr),
                })
            }
            _ => Ok(Transformed::no(expr)),
        };
        let (mut columns, mut fields) = (Vec::new(), Vec::new());
        for expr in &self.exprs {
            let name = expr.schema_name().to_string();
            let expr = expr.clone().unalias().transform(given)?.data;
            let values = values_of(&ready_to_run(expr, &self.read, &state)?, rows)?;
            fields.push(Field::new(name, values.data_type().clone(), true));
            columns.push(values);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        let batch = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options);
        Ok(batch.map_err(DataFusionError::from)?)
    }
}

/// The scan below aliases of the table.
pub(crate) fn scan_below(plan: &LogicalPlan) -> Option<&TableScan> {
    match plan {
        LogicalPlan::TableScan(scan) => Some(scan),
        LogicalPlan::SubqueryAlias(alias) => scan_below(&alias.input),
        _ => None,
    }
}

/// A column, whatever name it is given.
pub(crate) fn column_of(expr: &Expr) -> Option<&PlanColumn> {
    match expr {
        Expr::Column(column) => Some(column),
        Expr::Alias(alias) => column_of(&alias.expr),
        _ => None,
    }
}

/// `column = value`.
fn condition(expr: &Expr) -> Option<(&str, Sought)> {
    let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = expr else { return None };
    let sought = |expr: &Expr| match expr {
        Expr::Literal(value, _) => Some(Sought::Literal(value.clone())),
        Expr::Placeholder(placeholder) => Some(Sought::Parameter(number(&placeholder.id).ok()? - 1)),
        _ => None,
    };
    match (left.as_ref(), right.as_ref()) {
        (Expr::Column(column), value) => Some((&column.name, sought(value)?)),
        (value, Expr::Column(column)) => Some((&column.name, sought(value)?)),
        _ => None,
    }
}
