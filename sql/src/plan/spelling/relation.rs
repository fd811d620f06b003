//! Functions in FROM that give rows: DataFusion knows `unnest` of a list, and names its column by no alias.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    FunctionArg, FunctionArgExpr, Ident, Query, TableAlias, TableAliasColumnDef, TableFactor, VisitMut, VisitorMut,
};

use super::{SETS, call};
use crate::statement::window::folded;

/// Rewrites them; names are resolved after this.
pub(crate) fn rewrite_relations(query: &mut Query) {
    let _ = query.visit(&mut Relations);
}

/// A relation of DataFusion's own in FROM.
const SERIES: &str = "generate_series";

struct Relations;

impl VisitorMut for Relations {
    type Break = ();

    fn pre_visit_table_factor(&mut self, table: &mut TableFactor) -> ControlFlow<()> {
        if let Some(unnest) = unnested(table) {
            *table = unnest;
        }
        if let Some(alias) = alias_of_series(table)
            && alias.columns.is_empty()
        {
            alias.columns.push(TableAliasColumnDef { name: alias.name.clone(), data_type: None });
        }
        if let TableFactor::UNNEST { alias, array_exprs, .. } = table
            && array_exprs.len() == 1
        {
            let alias = alias.get_or_insert_with(|| alias_of(Ident::new("unnest")));
            if alias.columns.is_empty() {
                alias.columns.push(TableAliasColumnDef { name: alias.name.clone(), data_type: None });
            }
        }
        ControlFlow::Continue(())
    }
}

/// Of a series: its column bears the name it is given, or its function's.
fn alias_of_series(table: &mut TableFactor) -> Option<&mut TableAlias> {
    let (name, alias) = match table {
        TableFactor::Table { name, args: Some(_), alias, with_ordinality: false, .. }
        | TableFactor::Function { name, alias, with_ordinality: false, .. } => (name, alias),
        _ => return None,
    };
    let function = name.0.last().and_then(|part| part.as_ident()).map(folded)?;
    (function == SERIES).then(|| alias.get_or_insert_with(|| alias_of(Ident::new(SERIES))))
}

fn alias_of(name: Ident) -> TableAlias {
    TableAlias { explicit: true, name, columns: Vec::new(), at: None }
}

/// A call of a function that gives a list here, as the rows of that list.
fn unnested(table: &TableFactor) -> Option<TableFactor> {
    let (name, args, alias) = match table {
        TableFactor::Table { name, args: Some(args), alias, with_ordinality: false, .. } => (name, &args.args, alias),
        TableFactor::Function { name, args, alias, with_ordinality: false, .. } => (name, args, alias),
        _ => return None,
    };
    let function = name.0.last().and_then(|part| part.as_ident()).map(folded)?;
    // A series in FROM is a relation of DataFusion's own.
    if function == SERIES || !SETS.contains(&function.as_str()) {
        return None;
    }
    let arguments = args.iter().map(|argument| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
        _ => None,
    });
    let column = if function.contains("elements") { "value" } else { function.as_str() };
    let mut alias = alias.clone().unwrap_or_else(|| {
        let mut alias = alias_of(Ident::new(function.clone()));
        alias.columns.push(TableAliasColumnDef { name: Ident::new(column), data_type: None });
        alias
    });
    alias.explicit = true;
    Some(TableFactor::UNNEST {
        alias: Some(alias),
        array_exprs: vec![call(&function, arguments.collect::<Option<Vec<_>>>()?)],
        with_offset: false,
        with_offset_alias: None,
        with_ordinality: false,
    })
}
