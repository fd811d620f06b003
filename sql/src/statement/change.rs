//! UPDATE and DELETE: which rows, beside which others, and what becomes of them. And RETURNING, which INSERT has too.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{
    Assignment, AssignmentTarget, Expr, FromTable, SelectItem, Statement as Ast, TableFactor, TableWithJoins,
    UpdateTableFromKind,
};
use datafusion::sql::sqlparser::tokenizer::TokenWithSpan;

use super::cursor::{Cursor, Places};
use super::parse::{object_name, statement, text_of};
use super::{Change, Name, Returning, Sentence};
use crate::error::{Error, Result};

/// `UPDATE name [AS alias] SET column = expression | DEFAULT, … [FROM tables] [WHERE condition] [RETURNING …]`.
pub(crate) fn update(tokens: &[TokenWithSpan], places: &Arc<Places>) -> Result<Sentence> {
    let Ast::Update(update) = statement(tokens, places)? else {
        return Err(Cursor::new(tokens, places).expected("UPDATE name SET"));
    };
    let others = match update.from {
        None => Vec::new(),
        Some(UpdateTableFromKind::AfterSet(tables)) => tables,
        Some(UpdateTableFromKind::BeforeSet(_)) => {
            return Err(
                Error::unsupported("FROM before SET").with_hint("UPDATE name SET … FROM tables WHERE condition")
            );
        }
    };
    if update.or.is_some() || update.limit.is_some() || !update.order_by.is_empty() || update.output.is_some() {
        return Err(Error::unsupported("UPDATE with OR, OUTPUT, ORDER BY or LIMIT")
            .with_hint("UPDATE name SET column = expression WHERE condition"));
    }
    let mut assignments = Vec::new();
    for assignment in update.assignments {
        assign(assignment, places, &mut assignments)?;
    }
    let rows = Rows { from: update.table, others, selection: update.selection, returning: update.returning };
    change(rows, Some(assignments), tokens, places)
}

/// `DELETE FROM name [AS alias] [USING tables] [WHERE condition] [RETURNING …]`.
pub(crate) fn delete(tokens: &[TokenWithSpan], places: &Arc<Places>) -> Result<Sentence> {
    let Ast::Delete(delete) = statement(tokens, places)? else {
        return Err(Cursor::new(tokens, places).expected("DELETE FROM"));
    };
    if delete.limit.is_some() || !delete.order_by.is_empty() || delete.output.is_some() {
        return Err(Error::unsupported("DELETE with OUTPUT, ORDER BY or LIMIT")
            .with_hint("DELETE FROM name WHERE condition; the condition may have subqueries"));
    }
    let (FromTable::WithFromKeyword(mut from) | FromTable::WithoutKeyword(mut from)) = delete.from;
    let Some(table) = from.pop().filter(|_| from.is_empty()) else {
        return Err(Error::unsupported("DELETE from several tables").with_hint("DELETE FROM name WHERE condition"));
    };
    let others = delete.using.unwrap_or_default();
    let rows = Rows { from: table, others, selection: delete.selection, returning: delete.returning };
    change(rows, None, tokens, places)
}

struct Rows {
    from: TableWithJoins,
    others: Vec<TableWithJoins>,
    selection: Option<Expr>,
    returning: Option<Vec<SelectItem>>,
}

fn change(
    rows: Rows,
    assignments: Option<Vec<(Name, Expr)>>,
    tokens: &[TokenWithSpan],
    places: &Arc<Places>,
) -> Result<Sentence> {
    let Rows { from, others, selection, returning } = rows;
    let word = if assignments.is_some() { "UPDATE of" } else { "DELETE from" };
    let TableFactor::Table { name, .. } = &from.relation else {
        return Err(Error::unsupported(format!("{word} anything but a table")).with_hint("name a table"));
    };
    if !from.joins.is_empty() {
        return Err(Error::unsupported(format!("{word} a join")).with_hint("use a subquery in WHERE"));
    }
    let name = object_name(name, places)?;
    let all = |item: &SelectItem| matches!(item, SelectItem::Wildcard(_));
    if !others.is_empty() && returning.iter().flatten().any(all) {
        return Err(Error::unsupported("RETURNING * beside other tables")
            .with_position(name.position)
            .with_hint(format!("RETURNING answers with the columns of the rows written: RETURNING {}.*", name.value)));
    }
    let returning = returning.map(|items| returned(items, places)).transpose()?;
    let (places, text) = (Arc::clone(places), text_of(tokens, places));
    let change = Change { name, from, others, assignments, selection, returning, text, places };
    Ok(Sentence::Change(Box::new(change)))
}

/// RETURNING's items.
pub(crate) fn returned(items: Vec<SelectItem>, places: &Arc<Places>) -> Result<Returning> {
    Ok(Returning { items, places: Arc::clone(places) })
}

fn assign(assignment: Assignment, places: &Places, assignments: &mut Vec<(Name, Expr)>) -> Result<()> {
    let Assignment { target, value } = assignment;
    match (target, value) {
        (AssignmentTarget::ColumnName(name), value) => assignments.push((column_name(&name, places)?, value)),
        (AssignmentTarget::Tuple(names), Expr::Tuple(values)) if names.len() == values.len() => {
            for (name, value) in names.iter().zip(values) {
                assignments.push((column_name(name, places)?, value));
            }
        }
        (AssignmentTarget::Tuple(_), _) => {
            return Err(Error::unsupported("SET (columns) = anything but as many expressions")
                .with_hint("SET a = expression, b = expression"));
        }
    }
    Ok(())
}

fn column_name(name: &datafusion::sql::sqlparser::ast::ObjectName, places: &Places) -> Result<Name> {
    if name.0.len() == 1 {
        return object_name(name, places);
    }
    Err(Error::unsupported(format!("SET {name}")).with_hint("a column to be SET is named alone, without its table"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::SqlState;
    use crate::statement::parse::parse;

    fn one(sql: &str) -> Change {
        let Sentence::Change(change) = parse(sql).unwrap().remove(0).sentence else { panic!("{sql}") };
        *change
    }

    #[test]
    fn an_update_says_which_columns_get_what() {
        let update = one("UPDATE Public.T AS x SET A = a + 1, (\"B\", c) = (2, $1) WHERE id = 7 RETURNING *, a AS old");
        let assigned: Vec<_> =
            update.assignments.unwrap().iter().map(|(name, value)| format!("{}={value}", name.value)).collect();
        assert_eq!((update.name.value.as_str(), assigned.join(" ").as_str()), ("t", "a=a + 1 B=2 c=$1"));
        assert_eq!(update.returning.unwrap().items.len(), 2);
        let delete = one("DELETE FROM t");
        assert!(delete.assignments.is_none() && delete.selection.is_none() && delete.returning.is_none());
        let beside = one("UPDATE t SET a = DEFAULT FROM s, u JOIN v ON true WHERE t.id = s.id RETURNING t.*");
        assert_eq!((beside.others.len(), one("DELETE FROM t AS x USING s AS y").others.len()), (2, 1));
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for sql in [
            "UPDATE t SET a = 1 FROM s WHERE s.id = t.id RETURNING *",
            "UPDATE t FROM s SET a = 1",
            "UPDATE t SET (a, b) = (SELECT 1, 2)",
            "UPDATE t SET t.a = 1",
            "DELETE FROM t USING s RETURNING *",
            "DELETE FROM t LIMIT 1",
            "UPDATE topics.\"x\" SET a = 1",
        ] {
            let error = parse(sql).unwrap_err();
            assert_eq!(error.state, SqlState::FeatureNotSupported, "{sql}: {error}");
            assert!(error.hint.is_some(), "{sql}");
        }
    }
}
