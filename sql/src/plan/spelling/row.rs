//! Rows that are compared as wholes, column by column: `(a, b) = (1, 'x')` is `a = 1 AND b = 'x'`, which look-ups by key and
//! statistics understand.

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, UnaryOperator};

use crate::statement::balance::joined;

/// What a comparison of rows means, if it is one.
pub(super) fn rewritten(expr: &Expr) -> Option<Expr> {
    match expr {
        Expr::BinaryOp { left, op: op @ (BinaryOperator::Eq | BinaryOperator::NotEq), right } => {
            let equal = equal(row(left)?, row(right)?)?;
            Some(if *op == BinaryOperator::Eq { equal } else { not(equal) })
        }
        Expr::InList { expr, list, negated } => {
            let columns = row(expr)?;
            let rows = list.iter().map(row).collect::<Option<Vec<_>>>()?;
            let alternatives = rows.iter().map(|row| equal(columns, row)).collect::<Option<Vec<_>>>()?;
            let any = Expr::Nested(joined(alternatives, &BinaryOperator::Or)?.into());
            if *negated {
                return Some(not(any));
            }
            // Each column says by itself what it may be.
            let of_column = |at: usize| Expr::InList {
                expr: Box::new(columns[at].clone()),
                list: rows.iter().map(|row| row[at].clone()).collect(),
                negated: false,
            };
            let all = (0..columns.len()).map(of_column).chain([any]).collect();
            Some(Expr::Nested(joined(all, &BinaryOperator::And)?.into()))
        }
        _ => None,
    }
}

fn row(expr: &Expr) -> Option<&[Expr]> {
    match expr {
        Expr::Tuple(columns) => Some(columns),
        _ => None,
    }
}

/// `None` for rows of different lengths, which the planner refuses.
fn equal(left: &[Expr], right: &[Expr]) -> Option<Expr> {
    if left.len() != right.len() {
        return None;
    }
    let of_column = |(left, right): (&Expr, &Expr)| Expr::BinaryOp {
        left: Box::new(left.clone()),
        op: BinaryOperator::Eq,
        right: Box::new(right.clone()),
    };
    let equal = joined(left.iter().zip(right).map(of_column).collect(), &BinaryOperator::And)?;
    Some(Expr::Nested(equal.into()))
}

fn not(expr: Expr) -> Expr {
    Expr::Nested(Expr::UnaryOp { op: UnaryOperator::Not, expr: expr.into() }.into())
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    #[test]
    fn rows_are_compared_column_by_column() {
        let parsed = |sql: &str| Parser::new(&PostgreSqlDialect {}).try_with_sql(sql).unwrap().parse_expr().unwrap();
        for (sql, means) in [
            ("(a, b) = (1, 'x')", Some("(a = 1 AND b = 'x')")),
            ("(a, b) <> (1, 'x')", Some("(NOT (a = 1 AND b = 'x'))")),
            ("(a, b) IN ((1, 'x'))", Some("(a IN (1) AND b IN ('x') AND ((a = 1 AND b = 'x')))")),
            ("(a, b) NOT IN ((1, 2), (3, 4))", Some("(NOT ((a = 1 AND b = 2) OR (a = 3 AND b = 4)))")),
            ("(a, b) = (1, 2, 3)", None),
            ("(a, b) < (1, 2)", None),
            ("a = 1", None),
            ("a IN (1, 2)", None),
        ] {
            assert_eq!(rewritten(&parsed(sql)).map(|expr| expr.to_string()).as_deref(), means, "{sql}");
        }
    }
}
