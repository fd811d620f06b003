//! From DataFusion's logical plan of a SELECT to a chain of incremental operators, or a refusal by name.
//!
//! The plan is analysed as for a batch (type coercion, function rewrites) and each expression simplified as a batch's
//! optimizer would, so that both compute the same values of the same types. Not optimized: the shape stays that of the
//! sentence, and what the operators do not know is refused under the name it was written with.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::DataFusionError;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::expr::{AggregateFunction, Alias};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{self as logical, Expr, ExprSchemable, LogicalPlan, TableScan, Volatility};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};

use crate::error::{Error, Result, SqlState};
use crate::operator::aggregate::{Aggregate, Call};
use crate::operator::cell::{Accumulator, Kind};
use crate::operator::chain::{Chain, Stage};
use crate::operator::filter::{Filter, Project};

/// Where a column of the result comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lineage {
    /// A column of the source, unchanged: its index in the scan's schema.
    Source(usize),
    /// A key of the last GROUP BY, unchanged: its number.
    Group(usize),
    /// Anything else.
    Computed,
}

/// One column of the result.
#[derive(Clone, Debug)]
pub(crate) struct OutputColumn {
    /// As DataFusion names and types it.
    pub(crate) field: FieldRef,
    /// Where it comes from.
    pub(crate) lineage: Lineage,
}

/// A query ready to run tick by tick.
#[derive(Debug)]
pub(crate) struct ContinuousPlan {
    /// What it reads.
    pub(crate) scan: TableScan,
    /// The columns of the scan's schema it needs, in the order of the chain's input. Of a windowed source the window's
    /// own two come from the chain and are not among them.
    pub(crate) columns: Vec<usize>,
    /// What it computes, without its window.
    pub(crate) chain: Chain,
    /// Schema of the chain's first stage: `columns`, then the window's two.
    pub(crate) input: SchemaRef,
    /// The result's columns.
    pub(crate) output: Vec<OutputColumn>,
    /// Number of keys of the last GROUP BY; `None` if there is none.
    pub(crate) group_keys: Option<usize>,
    /// LIMIT, for a push query.
    pub(crate) limit: Option<usize>,
}

/// What the caller's statement allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// CREATE STREAM … AS: records one by one.
    Stream,
    /// CREATE TABLE … AS: an aggregate.
    Table,
    /// SELECT … EMIT CHANGES: records one by one, perhaps with a LIMIT.
    Push,
}

impl Purpose {
    fn word(self) -> &'static str {
        match self {
            Self::Stream | Self::Table => "a continuous query",
            Self::Push => "a push query",
        }
    }
}

/// Compiles a plan. `windowed` says that the scan's last two columns are its window's.
///
/// # Errors
/// 0A000 naming what the operators do not know.
pub(crate) fn compile(
    session: &SessionState,
    plan: LogicalPlan,
    purpose: Purpose,
    windowed: impl Fn(&TableScan) -> bool,
) -> Result<ContinuousPlan> {
    let plan = session.analyzer().execute_and_check(plan, session.config_options(), |_, _| {}).map_err(Error::from)?;
    let (nodes, scan, limit) = flatten(&plan, purpose)?;
    for node in &nodes {
        node.apply_expressions(|expr| check(expr, purpose)).map_err(|error| unwrap(error, purpose))?;
    }
    let width = scan.projected_schema.fields().len();
    let own = if windowed(&scan) { width - 2 } else { width };
    let mut used = used_columns(&nodes, width)?;
    let columns: Vec<usize> = used.range(..own).copied().collect();
    if own < width {
        used.extend(own..width);
    }
    let used: Vec<usize> = used.into_iter().collect();
    let window_end = (own < width).then_some(Lineage::Source(width - 1));
    let compiler = Compiler { session, purpose, window_end };
    let mut flow = Flow {
        schema: pruned(&scan.projected_schema, &used)?,
        lineage: used.iter().map(|index| Lineage::Source(*index)).collect(),
        stages: Vec::new(),
        pruned: Some(used),
        group_keys: None,
    };
    let input = nullable(flow.schema.as_arrow());
    for node in nodes {
        compiler.add(&mut flow, node)?;
    }
    let fields = flow.schema.fields().iter().zip(&flow.lineage);
    let output = fields.map(|(field, lineage)| OutputColumn { field: Arc::clone(field), lineage: *lineage }).collect();
    let chain = Chain { window: None, stages: flow.stages, schema: nullable(flow.schema.as_arrow()) };
    Ok(ContinuousPlan { scan, columns, chain, input, output, group_keys: flow.group_keys, limit })
}

/// The nodes above the scan, from the bottom up, and a push query's LIMIT.
fn flatten(plan: &LogicalPlan, purpose: Purpose) -> Result<(Vec<&LogicalPlan>, TableScan, Option<usize>)> {
    let (mut node, mut limit) = (plan, None);
    if let (LogicalPlan::Limit(top), Purpose::Push) = (plan, purpose) {
        limit = push_limit(top)?;
        node = &top.input;
    }
    let mut nodes = Vec::new();
    loop {
        let input = match node {
            LogicalPlan::TableScan(scan) => {
                if scan.projection.is_some() || !scan.filters.is_empty() || scan.fetch.is_some() {
                    return Err(Error::new(SqlState::InternalError, "a continuous query's plan was optimized"));
                }
                nodes.reverse();
                return Ok((nodes, scan.clone(), limit));
            }
            LogicalPlan::Projection(projection) => &projection.input,
            LogicalPlan::Filter(filter) => &filter.input,
            LogicalPlan::SubqueryAlias(alias) => &alias.input,
            LogicalPlan::Aggregate(aggregate) => {
                if purpose == Purpose::Push {
                    return Err(Error::unsupported("GROUP BY or an aggregate in a push query").with_hint(
                        "CREATE TABLE … AS SELECT … GROUP BY … EMIT CHANGES keeps such a result up to date",
                    ));
                }
                &aggregate.input
            }
            other => return Err(refusal(other, purpose)),
        };
        nodes.push(node);
        node = input;
    }
}

fn push_limit(limit: &logical::Limit) -> Result<Option<usize>> {
    use logical::{FetchType, SkipType};
    match (limit.get_skip_type().map_err(Error::from)?, limit.get_fetch_type().map_err(Error::from)?) {
        (SkipType::Literal(0), FetchType::Literal(count)) => Ok(count),
        _ => Err(Error::unsupported("OFFSET in a push query").with_hint("LIMIT with a number ends a push query")),
    }
}

fn refusal(node: &LogicalPlan, purpose: Purpose) -> Error {
    let bounded = "a SELECT without EMIT CHANGES takes it";
    let (what, hint) = match node {
        LogicalPlan::Join(_) => ("JOIN", "join the continuous tables in a SELECT"),
        LogicalPlan::Distinct(_) => ("SELECT DISTINCT", "use GROUP BY in a continuous table"),
        LogicalPlan::Window(_) => ("OVER (a window function)", bounded),
        LogicalPlan::Union(_) => ("UNION", "write one continuous query per branch"),
        LogicalPlan::Sort(_) => ("ORDER BY", "order the rows when you SELECT from the result"),
        LogicalPlan::Limit(_) => ("LIMIT", "limit the rows when you SELECT from the result"),
        LogicalPlan::Values(_) | LogicalPlan::EmptyRelation(_) => {
            ("a SELECT without a stream", "name a stream in FROM")
        }
        LogicalPlan::Unnest(_) => ("unnest", bounded),
        LogicalPlan::RecursiveQuery(_) => ("WITH RECURSIVE", bounded),
        LogicalPlan::Subquery(_) => ("a subquery", bounded),
        _ => ("this kind of SELECT", bounded),
    };
    Error::unsupported(format!("{what} in {}", purpose.word())).with_hint(hint)
}

/// Refuses expressions that do not depend on their row alone. The name travels in a plan error; see [`unwrap`].
fn check(expr: &Expr, purpose: Purpose) -> datafusion::error::Result<TreeNodeRecursion> {
    let refuse = |what: String, hint: &str| {
        let error = Error::unsupported(format!("{what} in {}", purpose.word())).with_hint(hint);
        Err(DataFusionError::External(Box::new(error)))
    };
    expr.apply(|expr| match expr {
        Expr::ScalarFunction(call) if call.func.signature().volatility != Volatility::Immutable => refuse(
            format!("{}()", call.func.name()),
            "its value changes while the query runs; use rowtime or a column of the record",
        ),
        Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_) | Expr::SetComparison(_) => {
            refuse("a subquery".to_owned(), "a SELECT without EMIT CHANGES takes it")
        }
        Expr::Placeholder(placeholder) => {
            refuse(format!("parameter {}", placeholder.id), "write the value into the statement")
        }
        Expr::GroupingSet(_) => {
            refuse("GROUPING SETS, ROLLUP or CUBE".to_owned(), "write one continuous query per set of keys")
        }
        _ => Ok(TreeNodeRecursion::Continue),
    })
}

/// The refusal inside a DataFusion error, or what DataFusion said.
fn unwrap(error: DataFusionError, purpose: Purpose) -> Error {
    match error.find_root() {
        DataFusionError::External(inner) => match inner.downcast_ref::<Error>() {
            Some(refused) => refused.clone(),
            None => Error::unsupported(format!("an expression in {}", purpose.word())).with_detail(error.to_string()),
        },
        _ => Error::from(error),
    }
}

/// Indexes of the scan's columns that are needed by the nodes up to the first that makes columns of its own.
fn used_columns(nodes: &[&LogicalPlan], width: usize) -> Result<BTreeSet<usize>> {
    let mut used = BTreeSet::new();
    for node in nodes {
        let Some(input) = node.inputs().first().map(|input| input.schema()) else { continue };
        for expr in node.expressions() {
            for column in expr.column_refs() {
                used.insert(input.index_of_column(column).map_err(Error::from)?);
            }
        }
        if matches!(node, LogicalPlan::Projection(_) | LogicalPlan::Aggregate(_)) {
            return Ok(used);
        }
    }
    Ok((0..width).collect())
}

fn pruned(schema: &DFSchema, columns: &[usize]) -> Result<DFSchema> {
    let fields = columns.iter().map(|index| {
        let (qualifier, field) = schema.qualified_field(*index);
        (qualifier.cloned(), Arc::clone(field))
    });
    DFSchema::new_with_metadata(fields.collect(), schema.metadata().clone()).map_err(Error::from)
}

/// The same fields, NULL allowed: what is declared NOT NULL is checked where it is written.
fn nullable(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// What has been compiled so far.
struct Flow {
    schema: DFSchema,
    lineage: Vec<Lineage>,
    stages: Vec<Stage>,
    /// The scan's columns that are left, as long as no node has made columns of its own.
    pruned: Option<Vec<usize>>,
    group_keys: Option<usize>,
}

struct Compiler<'a> {
    session: &'a SessionState,
    purpose: Purpose,
    /// Where a windowed source's `windowend` comes from.
    window_end: Option<Lineage>,
}

impl Compiler<'_> {
    fn add(&self, flow: &mut Flow, node: &LogicalPlan) -> Result<()> {
        match node {
            LogicalPlan::SubqueryAlias(alias) => {
                flow.schema = match &flow.pruned {
                    Some(columns) => pruned(&alias.schema, columns)?,
                    None => alias.schema.as_ref().clone(),
                };
            }
            LogicalPlan::Filter(filter) => {
                let predicate = self.physical(&filter.predicate, &flow.schema)?;
                flow.stages.push(Stage::Filter(Filter { predicate }));
            }
            LogicalPlan::Projection(projection) => {
                let columns = projection.expr.iter().map(|expr| self.physical(expr, &flow.schema));
                let columns = columns.collect::<Result<Vec<_>>>()?;
                flow.lineage = projection.expr.iter().map(|expr| flow.lineage_of(expr)).collect();
                flow.enter(&projection.schema);
                let schema = nullable(flow.schema.as_arrow());
                flow.stages.push(Stage::Project(Project { columns, schema }));
            }
            LogicalPlan::Aggregate(aggregate) => self.add_aggregate(flow, aggregate)?,
            other => return Err(refusal(other, self.purpose)),
        }
        Ok(())
    }

    fn add_aggregate(&self, flow: &mut Flow, node: &logical::Aggregate) -> Result<()> {
        let retracts = flow.group_keys.is_some();
        let group_by = node.group_expr.iter().map(|expr| self.physical(expr, &flow.schema));
        let group_by = group_by.collect::<Result<Vec<_>>>()?;
        let mut keys = node.group_expr.iter();
        let window_end = self.window_end.and_then(|end| keys.position(|key| flow.lineage_of(key) == end));
        let calls = node.aggr_expr.iter().map(|expr| self.call(expr, &flow.schema, retracts));
        let calls = calls.collect::<Result<Vec<_>>>()?;
        flow.lineage = (0..group_by.len()).map(Lineage::Group).collect();
        flow.lineage.extend(calls.iter().map(|_| Lineage::Computed));
        flow.group_keys = Some(group_by.len());
        flow.enter(&node.schema);
        let schema = nullable(flow.schema.as_arrow());
        for field in schema.fields().iter().take(group_by.len()) {
            if !RowConverter::supports_fields(&[SortField::new(field.data_type().clone())]) {
                return Err(Error::unsupported(format!("GROUP BY {} of type {}", field.name(), field.data_type()))
                    .with_hint("group by a field of it"));
            }
        }
        let aggregate = Aggregate::new(group_by, calls, window_end, schema).map_err(Error::from)?;
        flow.stages.push(Stage::Aggregate(aggregate));
        Ok(())
    }

    fn call(&self, expr: &Expr, schema: &DFSchema, retracts: bool) -> Result<Call> {
        let expr = unaliased(expr);
        let Expr::AggregateFunction(call) = expr else {
            return Err(Error::unsupported(format!("{expr} in a continuous query")).with_hint(AGGREGATES_HINT));
        };
        let refused = || {
            let distinct = if call.params.distinct { "DISTINCT " } else { "" };
            let arguments = call.params.args.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            Error::unsupported(format!("{}({distinct}{arguments}) in a continuous query", call.func.name()))
                .with_hint(AGGREGATES_HINT)
        };
        let [argument] = call.params.args.as_slice() else { return Err(refused()) };
        let kind = kind_of(call, retracts).ok_or_else(refused)?;
        let input = argument.get_type(schema).map_err(Error::from)?;
        let output = expr.get_type(schema).map_err(Error::from)?;
        if retracts && matches!(kind, Kind::Sum | Kind::Avg) && input.is_floating() {
            return Err(refused().with_hint(
                "rows of an inner GROUP BY are taken back, and floats do not add back exactly; cast to DECIMAL",
            ));
        }
        let accumulator = Accumulator::new(kind, input, output).map_err(Error::from)?.ok_or_else(refused)?;
        let every = kind == Kind::Count && matches!(argument, Expr::Literal(value, _) if !value.is_null());
        let argument = if every { None } else { Some(self.physical(argument, schema)?) };
        let filter = call.params.filter.as_ref().map(|filter| self.physical(filter, schema)).transpose()?;
        Ok(Call { accumulator, argument, filter })
    }

    /// Simplifies as a batch's optimizer would (some functions exist only as what they simplify to), then plans.
    fn physical(&self, expr: &Expr, schema: &DFSchema) -> Result<Arc<dyn PhysicalExpr>> {
        let context = SimplifyContext::builder()
            .with_schema(Arc::new(schema.clone()))
            .with_config_options(Arc::clone(self.session.config_options()))
            .build();
        let expr = ExprSimplifier::new(context).simplify(unaliased(expr).clone()).map_err(Error::from)?;
        let props = self.session.execution_props();
        create_physical_expr(&expr, schema, props, &PhysicalPlanningContext::default()).map_err(Error::from)
    }
}

impl Flow {
    fn lineage_of(&self, expr: &Expr) -> Lineage {
        match unaliased(expr) {
            Expr::Column(column) => {
                self.schema.maybe_index_of_column(column).map_or(Lineage::Computed, |index| self.lineage[index])
            }
            _ => Lineage::Computed,
        }
    }

    fn enter(&mut self, schema: &DFSchema) {
        self.schema = schema.clone();
        self.pruned = None;
    }
}

/// Which aggregates there are, for a hint.
const AGGREGATES_HINT: &str = "there are count, sum, min, max and avg, and count(DISTINCT one column)";

fn kind_of(call: &AggregateFunction, retracts: bool) -> Option<Kind> {
    if call.params.null_treatment.is_some() {
        return None;
    }
    match (call.func.name(), call.params.distinct) {
        ("count", false) => Some(Kind::Count),
        ("count", true) => Some(Kind::CountDistinct),
        ("sum", false) => Some(Kind::Sum),
        ("avg", false) => Some(Kind::Avg),
        ("min", _) => Some(Kind::Min { retracts }),
        ("max", _) => Some(Kind::Max { retracts }),
        _ => None,
    }
}

fn unaliased(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(Alias { expr, .. }) => unaliased(expr),
        other => other,
    }
}
