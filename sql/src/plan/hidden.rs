//! Hidden columns: which of them a statement names, and `*` written out where it would show them.
//!
//! DataFusion knows no hidden columns. So a source gets just those that the statement names somewhere, and if there are
//! any, each `*` over a source is replaced by the columns it shows.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    AccessExpr, BinaryOperator, Expr, Ident, JoinConstraint, JoinOperator, ObjectName, Query, Select, SelectItem,
    SelectItemQualifiedWildcardKind, TableFactor, Value, Visit, VisitMut, Visitor, VisitorMut,
};

use crate::error::{Error, Result};
use crate::statement::window::folded;
use crate::table::SourceColumn;
use crate::table::source::HIDDEN_COLUMNS;

/// The hidden columns a statement names.
pub(crate) fn named_hidden(query: &Query) -> Vec<SourceColumn> {
    let mut names = Names(HashSet::new());
    let _ = query.visit(&mut names);
    let named = |column: &SourceColumn| column.hidden_name().is_some_and(|name| names.0.contains(name));
    HIDDEN_COLUMNS.into_iter().filter(named).collect()
}

struct Names(HashSet<String>);

impl Visitor for Names {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        match expr {
            Expr::Identifier(ident) => {
                self.0.insert(folded(ident));
            }
            Expr::CompoundIdentifier(parts) => self.0.extend(parts.iter().map(folded)),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// Writes out every `*` over these sources: relation as written, folded, to the columns it shows.
pub(crate) fn expand_wildcards(query: &mut Query, shown: &HashMap<String, Vec<String>>) -> Result<()> {
    match query.visit(&mut Expand { shown }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

struct Expand<'a> {
    shown: &'a HashMap<String, Vec<String>>,
}

/// One relation of a FROM.
struct From {
    alias: Ident,
    /// `None`: it has no hidden columns, its own `*` will do.
    columns: Option<Vec<String>>,
}

impl VisitorMut for Expand<'_> {
    type Break = Error;

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Error> {
        let wild = |item: &SelectItem| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..));
        if !select.projection.iter().any(wild) {
            return ControlFlow::Continue(());
        }
        match self.expand(select) {
            Ok(projection) => {
                select.projection = projection;
                ControlFlow::Continue(())
            }
            Err(error) => ControlFlow::Break(error),
        }
    }
}

impl Expand<'_> {
    fn expand(&self, select: &Select) -> Result<Vec<SelectItem>> {
        let mut from = Vec::new();
        let mut merged: HashSet<(usize, String)> = HashSet::new();
        for table in &select.from {
            from.push(self.relation(&table.relation)?);
            for join in &table.joins {
                merged.extend(merged_columns(&join.join_operator)?.into_iter().map(|name| (from.len(), name)));
                from.push(self.relation(&join.relation)?);
            }
        }
        let mut projection = Vec::new();
        for item in &select.projection {
            match item {
                SelectItem::Wildcard(_) if from.iter().any(|relation| relation.columns.is_some()) => {
                    for (index, relation) in from.iter().enumerate() {
                        expand_one(relation, |name| merged.contains(&(index, name.to_owned())), &mut projection);
                    }
                }
                SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), _) => {
                    let wanted = name.0.last().and_then(|part| part.as_ident()).map(folded);
                    match from.iter().find(|relation| Some(folded(&relation.alias)) == wanted) {
                        Some(relation) if relation.columns.is_some() => {
                            expand_one(relation, |_| false, &mut projection);
                        }
                        _ => projection.push(item.clone()),
                    }
                }
                _ => projection.push(item.clone()),
            }
        }
        Ok(projection)
    }

    fn relation(&self, factor: &TableFactor) -> Result<From> {
        let cannot = || {
            Err(Error::unsupported("* beside a hidden column over this FROM")
                .with_hint("name the columns instead of *, or give each subquery an alias"))
        };
        match factor {
            TableFactor::Table { name, alias: Some(alias), .. } => {
                Ok(From { alias: alias.name.clone(), columns: self.shown.get(&folded_name(name)).cloned() })
            }
            TableFactor::Table { name, alias: None, .. } => match name.0.last().and_then(|part| part.as_ident()) {
                Some(last) => Ok(From { alias: last.clone(), columns: self.shown.get(&folded_name(name)).cloned() }),
                None => cannot(),
            },
            TableFactor::Derived { alias: Some(alias), .. } | TableFactor::UNNEST { alias: Some(alias), .. } => {
                Ok(From { alias: alias.name.clone(), columns: None })
            }
            _ => cannot(),
        }
    }
}

fn expand_one(relation: &From, merged: impl Fn(&str) -> bool, projection: &mut Vec<SelectItem>) {
    match &relation.columns {
        Some(columns) => projection.extend(columns.iter().filter(|name| !merged(name)).map(|name| {
            let column = Ident::with_quote('"', name.clone());
            SelectItem::UnnamedExpr(Expr::CompoundIdentifier(vec![relation.alias.clone(), column]))
        })),
        None => projection.push(SelectItem::QualifiedWildcard(
            SelectItemQualifiedWildcardKind::ObjectName(ObjectName::from(vec![relation.alias.clone()])),
            Default::default(),
        )),
    }
}

/// Columns that JOIN … USING shows once.
fn merged_columns(operator: &JoinOperator) -> Result<Vec<String>> {
    let (JoinOperator::Join(constraint)
    | JoinOperator::Inner(constraint)
    | JoinOperator::Left(constraint)
    | JoinOperator::LeftOuter(constraint)
    | JoinOperator::Right(constraint)
    | JoinOperator::RightOuter(constraint)
    | JoinOperator::FullOuter(constraint)) = operator
    else {
        return Ok(Vec::new());
    };
    match constraint {
        JoinConstraint::Using(names) => {
            Ok(names.iter().filter_map(|name| name.0.last()?.as_ident().map(folded)).collect())
        }
        JoinConstraint::Natural => {
            Err(Error::unsupported("NATURAL JOIN beside a hidden column")
                .with_hint("say which columns: JOIN … USING (…)"))
        }
        JoinConstraint::On(_) | JoinConstraint::None => Ok(Vec::new()),
    }
}

/// A relation's name as [`expand_wildcards`] knows it.
pub(crate) fn folded_name(name: &ObjectName) -> String {
    name.0.iter().filter_map(|part| part.as_ident().map(folded)).collect::<Vec<_>>().join(".")
}

/// ksqlDB's `s->field`: a bare name behind `->` that is no column of the statement's sources is a field.
pub(crate) fn quote_fields(query: &mut Query, is_column: &dyn Fn(&str) -> bool) {
    let _ = query.visit(&mut Fields { is_column });
}

struct Fields<'a> {
    is_column: &'a dyn Fn(&str) -> bool,
}

impl VisitorMut for Fields<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::BinaryOp { op: BinaryOperator::Arrow | BinaryOperator::LongArrow, right, .. } = expr {
            let subscripts = match right.as_mut() {
                Expr::Identifier(ident) if !(self.is_column)(&folded(ident)) => {
                    **right = Expr::value(Value::SingleQuotedString(folded(ident)));
                    None
                }
                // `s->list[1]` is parsed as `s->(list[1])`, and means `(s->list)[1]`.
                Expr::CompoundFieldAccess { root, access_chain } => match root.as_ref() {
                    Expr::Identifier(ident) if !(self.is_column)(&folded(ident)) => {
                        let subscripts = std::mem::take(access_chain);
                        **right = Expr::value(Value::SingleQuotedString(folded(ident)));
                        Some(subscripts)
                    }
                    _ => None,
                },
                _ => None,
            };
            if let Some(access_chain) = subscripts {
                let field = std::mem::replace(expr, Expr::value(Value::Null));
                *expr = Expr::CompoundFieldAccess { root: Box::new(Expr::Nested(Box::new(field))), access_chain };
            }
        }
        // `(column).field`; DataFusion takes the name as a text only.
        if let Expr::CompoundFieldAccess { access_chain, .. } = expr {
            for access in access_chain {
                if let AccessExpr::Dot(Expr::Identifier(ident)) = access {
                    *access = AccessExpr::Dot(Expr::value(Value::SingleQuotedString(folded(ident))));
                }
            }
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statement::{Sentence, parse::parse};

    fn query(sql: &str) -> Box<Query> {
        let Sentence::Query(query) = parse(sql).unwrap().remove(0).sentence else { panic!("a query") };
        query.query
    }

    #[test]
    fn a_star_beside_a_hidden_column_shows_the_declared_ones_only() {
        let shown = HashMap::from([
            ("s".to_owned(), vec!["id".to_owned(), "v".to_owned()]),
            ("t".to_owned(), vec!["id".to_owned(), "w".to_owned()]),
        ]);
        let mut over = query("SELECT *, _offset FROM s JOIN t AS x USING (id)");
        assert_eq!(named_hidden(&over), vec![SourceColumn::Offset]);
        expand_wildcards(&mut over, &shown).unwrap();
        assert_eq!(over.to_string(), "SELECT s.\"id\", s.\"v\", x.\"w\", _offset FROM s JOIN t AS x USING(id)");
    }

    #[test]
    fn a_bare_name_behind_an_arrow_is_a_field_unless_it_is_a_column() {
        let mut over = query("SELECT address->city, doc->k, a->b->tags[2], doc->k[1] FROM s");
        quote_fields(&mut over, &|name| name == "k");
        assert_eq!(over.to_string(), "SELECT address -> 'city', doc -> k, (a -> 'b' -> 'tags')[2], doc -> k[1] FROM s");
    }
}
