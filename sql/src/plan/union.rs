//! UNION's columns in one type each, as Postgres resolves them: a bare text takes the other side's type, numbers the wider
//! one, and what is of different kinds is refused. DataFusion would make text of both, and tell the client the first's type.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, ScalarValue};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::type_coercion::binary::type_union_coercion;
use datafusion::logical_expr::{Expr, LogicalPlan, Projection, Union, cast};

use crate::error::{Error, Result, SqlState};
use crate::types::{TYPE_KEY, column_type_of, type_name};

/// The plan with a type for each column of each UNION in it.
///
/// # Errors
/// 42804 for types that do not go together, 22P02 and its like for a text that is none of the other side's.
pub(crate) fn typed(plan: LogicalPlan) -> Result<LogicalPlan> {
    let has_union = plan.exists(|node| Ok(matches!(node, LogicalPlan::Union(_))))?;
    let in_subqueries = plan.clone().transform_down_with_subqueries(|node| {
        let found = matches!(node, LogicalPlan::Union(_));
        Ok(if found { Transformed::yes(node) } else { Transformed::no(node) })
    })?;
    if !has_union && !in_subqueries.transformed {
        return Ok(plan);
    }
    let typed = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Union(union) => Ok(Transformed::yes(LogicalPlan::Union(of_one_type(union)?))),
        // What stands above has the types from before.
        LogicalPlan::TableScan(_) | LogicalPlan::Values(_) | LogicalPlan::EmptyRelation(_) => Ok(Transformed::no(node)),
        other => Ok(Transformed::yes(other.recompute_schema()?)),
    })?;
    Ok(typed.data)
}

fn of_one_type(union: Union) -> DataFusionResult<Union> {
    let mut inputs: Vec<LogicalPlan> = union.inputs.into_iter().map(Arc::unwrap_or_clone).collect();
    let width = inputs.iter().map(|input| input.schema().fields().len()).min().unwrap_or(0);
    for column in 0..width {
        let kinds: Vec<(Arc<Field>, bool)> = inputs
            .iter()
            .map(|input| (Arc::clone(&input.schema().fields()[column]), is_bare_text(input, column)))
            .collect();
        let Some(wanted) = resolved(&kinds)? else { continue };
        for (input, (field, is_bare)) in inputs.iter_mut().zip(&kinds) {
            if *field.data_type() != wanted {
                let taken = std::mem::take(input);
                *input = with_column(taken, column, &wanted, *is_bare)?;
            }
        }
    }
    Union::try_new_with_loose_types(inputs.into_iter().map(Arc::new).collect())
}

/// The type of a column; `None`: it has that everywhere.
fn resolved(kinds: &[(Arc<Field>, bool)]) -> Result<Option<DataType>> {
    let known: Vec<&Arc<Field>> = kinds
        .iter()
        .filter(|(field, is_bare)| !is_bare && *field.data_type() != DataType::Null)
        .map(|(field, _)| field)
        .collect();
    let Some((first, rest)) = known.split_first() else { return Ok(None) };
    let mut wanted = first.data_type().clone();
    for field in rest {
        let other = field.data_type();
        if wanted == *other {
            continue;
        }
        let refused = || {
            let names = [first, field].map(|field| shown(field));
            let message = format!("UNION types {} and {} cannot be matched", names[0], names[1]);
            Error::new(SqlState::DatatypeMismatch, message).with_hint("cast one of them")
        };
        if kind_of(first) != kind_of(field) {
            return Err(refused());
        }
        wanted = type_union_coercion(&wanted, other).ok_or_else(refused)?;
    }
    Ok(kinds.iter().any(|(field, _)| *field.data_type() != wanted).then_some(wanted))
}

fn shown(field: &Field) -> String {
    column_type_of(field).map_or_else(|| field.data_type().to_string(), |kind| type_name(&kind))
}

/// What types are matched within.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Number,
    Text,
    Json,
    Boolean,
    Time,
    /// An interval, or a difference of times.
    Span,
    Bytes,
    List,
    Other,
}

fn kind_of(field: &Field) -> Kind {
    match field.data_type() {
        kind if kind.is_numeric() => Kind::Number,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => match field.metadata().get(TYPE_KEY) {
            Some(meaning) if meaning == "jsonb" => Kind::Json,
            _ => Kind::Text,
        },
        DataType::Boolean => Kind::Boolean,
        DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => Kind::Time,
        DataType::Interval(_) | DataType::Duration(_) => Kind::Span,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => Kind::Bytes,
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => Kind::List,
        _ => Kind::Other,
    }
}

/// The expression behind a column of a SELECT.
fn expression(plan: &LogicalPlan, column: usize) -> Option<&Expr> {
    match plan {
        LogicalPlan::Projection(projection) => projection.expr.get(column).map(unaliased),
        LogicalPlan::SubqueryAlias(alias) => expression(&alias.input, column),
        _ => None,
    }
}

fn unaliased(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => unaliased(&alias.expr),
        expr => expr,
    }
}

/// A text without a type of its own: `'a'`, but not `'a'::text`.
fn is_bare_text(plan: &LogicalPlan, column: usize) -> bool {
    match plan {
        LogicalPlan::Values(values) => {
            values.values.iter().all(|row| matches!(row.get(column), Some(Expr::Literal(ScalarValue::Utf8(_), _))))
        }
        plan => matches!(expression(plan, column), Some(Expr::Literal(ScalarValue::Utf8(_), _))),
    }
}

/// The same rows, one column in another type.
fn with_column(plan: LogicalPlan, column: usize, wanted: &DataType, is_bare: bool) -> DataFusionResult<LogicalPlan> {
    if is_bare && let Some(Expr::Literal(value, _)) = expression(&plan, column) {
        // Told now, for a client asks what it will get before it runs.
        value.cast_to(wanted)?;
    }
    let columns = plan.schema().iter().enumerate().map(|(index, (qualifier, field))| {
        let value = Expr::Column(Column::new(qualifier.cloned(), field.name()));
        if index == column {
            cast(value, wanted.clone()).alias_qualified(qualifier.cloned(), field.name())
        } else {
            value
        }
    });
    let columns: Vec<Expr> = columns.collect();
    Ok(LogicalPlan::Projection(Projection::try_new(columns, Arc::new(plan))?))
}
