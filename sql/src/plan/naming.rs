//! Result columns named as Postgres names them: `count`, `?column?`, the type of a bare cast.
//!
//! Names are given in the tree, before planning, so that subqueries and `CREATE … AS SELECT` have them too. DataFusion
//! wants the names of one SELECT to differ; where Postgres would repeat one, a suffix that no identifier has is added
//! and taken off again by [`shown_name`].

use std::collections::HashSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    DataType, Expr, Ident, ObjectName, Query, Select, SelectItem, SetExpr, Value, VisitMut, VisitorMut,
};

use crate::statement::window::folded;

/// Begins the suffix of a repeated name.
const REPEATED: char = '\u{1}';

/// A column's name without the suffix of a repeated one.
pub(crate) fn shown_name(name: &str) -> &str {
    name.split(REPEATED).next().unwrap_or(name)
}

/// Names what has no name; see the head of this file.
pub(crate) fn name_columns(query: &mut Query) {
    let _ = query.visit(&mut Namer);
}

struct Namer;

impl VisitorMut for Namer {
    type Break = ();

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        name_select(select);
        ControlFlow::Continue(())
    }
}

fn name_select(select: &mut Select) {
    let mut used: HashSet<String> = HashSet::new();
    let mut repeated = 0;
    let mut again = |name: &str| {
        repeated += 1;
        Ident::with_quote('"', format!("{name}{REPEATED}{repeated}"))
    };
    for item in &mut select.projection {
        match item {
            SelectItem::ExprWithAlias { alias, .. } if !used.insert(folded(alias)) => *alias = again(&folded(alias)),
            SelectItem::UnnamedExpr(Expr::Identifier(ident)) => {
                used.insert(folded(ident));
            }
            _ => {}
        }
    }
    let mut plain: HashSet<String> = HashSet::new();
    for item in &mut select.projection {
        let SelectItem::UnnamedExpr(expr) = item else { continue };
        let name = match &*expr {
            Expr::Identifier(ident) if plain.insert(folded(ident)) => continue,
            Expr::CompoundIdentifier(_) if plain.insert(expr.to_string()) => continue,
            expr => column_name(expr).unwrap_or_else(|| "?column?".to_owned()),
        };
        let alias = if used.insert(name.clone()) { Ident::with_quote('"', name) } else { again(&name) };
        *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
    }
}

/// Postgres's `FigureColname`.
fn column_name(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Identifier(ident) => Some(folded(ident)),
        Expr::CompoundIdentifier(parts) => parts.last().map(folded),
        Expr::Function(function) => last_part(&function.name),
        Expr::Cast { expr, data_type, .. } => column_name(expr).or_else(|| Some(type_name(data_type))),
        Expr::TypedString(typed) => Some(type_name(&typed.data_type)),
        Expr::AtTimeZone { .. } => Some("timezone".to_owned()),
        Expr::Nested(inner) | Expr::Collate { expr: inner, .. } => column_name(inner),
        Expr::CompoundFieldAccess { root, .. } => column_name(root),
        Expr::Case { else_result, .. } => {
            else_result.as_deref().and_then(column_name).or_else(|| Some("case".to_owned()))
        }
        Expr::Extract { .. } => Some("extract".to_owned()),
        Expr::Position { .. } => Some("position".to_owned()),
        Expr::Substring { .. } => Some("substring".to_owned()),
        Expr::Overlay { .. } => Some("overlay".to_owned()),
        Expr::Trim { .. } => Some("btrim".to_owned()),
        Expr::Ceil { .. } => Some("ceil".to_owned()),
        Expr::Floor { .. } => Some("floor".to_owned()),
        Expr::Interval(_) => Some("interval".to_owned()),
        Expr::Array(_) => Some("array".to_owned()),
        Expr::Exists { .. } => Some("exists".to_owned()),
        Expr::Tuple(_) => Some("row".to_owned()),
        Expr::Subquery(query) => subquery_name(query),
        Expr::Value(value) => matches!(value.value, Value::Boolean(_)).then(|| "bool".to_owned()),
        _ => None,
    }
}

fn subquery_name(query: &Query) -> Option<String> {
    let SetExpr::Select(select) = query.body.as_ref() else { return None };
    match select.projection.first()? {
        SelectItem::UnnamedExpr(expr) => column_name(expr),
        SelectItem::ExprWithAlias { alias, .. } => Some(folded(alias)),
        _ => None,
    }
}

fn last_part(name: &ObjectName) -> Option<String> {
    name.0.last()?.as_ident().map(folded)
}

/// A type's name in `pg_type`.
fn type_name(kind: &DataType) -> String {
    let name = match kind {
        DataType::Int(_) | DataType::Integer(_) | DataType::Int4(_) => "int4",
        DataType::BigInt(_) | DataType::Int8(_) => "int8",
        DataType::SmallInt(_) | DataType::Int2(_) => "int2",
        DataType::Real | DataType::Float4 => "float4",
        DataType::Double(_) | DataType::DoublePrecision | DataType::Float8 | DataType::Float(_) => "float8",
        DataType::Numeric(_) | DataType::Decimal(_) | DataType::Dec(_) => "numeric",
        DataType::Boolean | DataType::Bool => "bool",
        DataType::Varchar(_) | DataType::CharacterVarying(_) => "varchar",
        DataType::Char(_) | DataType::Character(_) => "bpchar",
        DataType::Timestamp(_, zone) => match zone.to_string().as_str() {
            " WITH TIME ZONE" | "TZ" => "timestamptz",
            _ => "timestamp",
        },
        DataType::Time(..) => "time",
        other => return other.to_string().to_lowercase(),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statement::{Sentence, parse::parse};

    fn named(sql: &str) -> String {
        let mut statements = parse(sql).unwrap();
        let Sentence::Query(mut query) = statements.remove(0).sentence else { panic!("a query") };
        name_columns(&mut query.query);
        query.query.to_string().replace(REPEATED, "#")
    }

    #[test]
    fn unnamed_columns_get_postgres_s_names() {
        assert_eq!(
            named("SELECT count(*), a + 1, b::bigint, '1'::int, CASE WHEN a THEN 1 END, t.c FROM t"),
            "SELECT count(*) AS \"count\", a + 1 AS \"?column?\", b::BIGINT AS \"b\", '1'::INT AS \"int4\", \
             CASE WHEN a THEN 1 END AS \"case\", t.c FROM t"
        );
    }

    #[test]
    fn a_repeated_name_differs_in_the_plan_only() {
        assert_eq!(
            named("SELECT 1, 2, a, a FROM t"),
            "SELECT 1 AS \"?column?\", 2 AS \"?column?#1\", a, a AS \"a#2\" FROM t"
        );
        assert_eq!(named("SELECT 1 AS a, 2 AS a"), "SELECT 1 AS a, 2 AS \"a#1\"");
        assert_eq!(shown_name("a\u{1}2"), "a");
    }

    #[test]
    fn subqueries_are_named_too() {
        assert_eq!(
            named("SELECT count FROM (SELECT count(*) FROM t) AS x"),
            "SELECT count FROM (SELECT count(*) AS \"count\" FROM t) AS x"
        );
    }
}
