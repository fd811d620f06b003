//! Long chains of AND and OR as trees of few levels. The parser reads `a OR b OR c …` one inside the other, and who plans an
//! expression asks each level for its type and name, which ask all below: a chain of n conditions would cost n³. Both
//! operators are associative, so that a tree with as many conditions on its left as on its right means the same; their order
//! stays. Pure.

use std::mem;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Value, VisitMut, VisitorMut};

/// Chains of more conditions are balanced; shorter ones stay what EXPLAIN's readers wrote.
const CHAIN_MAX: usize = 16;

/// Balances every long chain in it; see the head of this file.
pub(super) fn balance(tree: &mut impl VisitMut) {
    let _ = tree.visit(&mut Balancer);
}

struct Balancer;

impl VisitorMut for Balancer {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let Expr::BinaryOp { op, .. } = &*expr else { return ControlFlow::Continue(()) };
        let op = op.clone();
        // A tree that was balanced has a level for each doubling, and is not long.
        if matches!(op, BinaryOperator::And | BinaryOperator::Or) && levels(expr, &op) > CHAIN_MAX {
            let mut conditions = Vec::new();
            take_apart(mem::replace(expr, Expr::value(Value::Null)), &op, &mut conditions);
            if let Some(balanced) = joined(conditions, &op) {
                *expr = balanced;
            }
        }
        ControlFlow::Continue(())
    }
}

/// Levels of this operator on the left side.
fn levels(expr: &Expr, operator: &BinaryOperator) -> usize {
    let mut levels = 0;
    let mut at = expr;
    while let Expr::BinaryOp { left, op, .. } = at
        && op == operator
    {
        levels += 1;
        at = left;
    }
    levels
}

/// The conditions between operators of this kind, from left to right.
fn take_apart(expr: Expr, operator: &BinaryOperator, conditions: &mut Vec<Expr>) {
    let mut waiting = vec![expr];
    while let Some(expr) = waiting.pop() {
        match expr {
            Expr::BinaryOp { left, op, right } if op == *operator => {
                waiting.push(*right);
                waiting.push(*left);
            }
            condition => conditions.push(condition),
        }
    }
}

/// Neighbours joined, until one is left; `None` of nothing.
pub(crate) fn joined(mut conditions: Vec<Expr>, operator: &BinaryOperator) -> Option<Expr> {
    while conditions.len() > 1 {
        let mut pairs = Vec::with_capacity(conditions.len().div_ceil(2));
        let mut rest = conditions.into_iter();
        while let Some(left) = rest.next() {
            pairs.push(match rest.next() {
                Some(right) => Expr::BinaryOp { left: left.into(), op: operator.clone(), right: right.into() },
                None => left,
            });
        }
        conditions = pairs;
    }
    conditions.pop()
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    fn parsed(sql: &str) -> Expr {
        Parser::new(&PostgreSqlDialect {}).try_with_sql(sql).unwrap().parse_expr().unwrap()
    }

    fn deepest(expr: &Expr) -> usize {
        match expr {
            Expr::BinaryOp { left, right, .. } => 1 + deepest(left).max(deepest(right)),
            Expr::Nested(inner) => 1 + deepest(inner),
            _ => 0,
        }
    }

    #[test]
    fn a_long_chain_becomes_a_low_tree_with_its_conditions_in_order() {
        for operator in [" OR ", " AND "] {
            let chain: Vec<String> = (0..1_500).map(|number| format!("a = {number}")).collect();
            let chain = format!("NOT ({}) {operator} b", chain.join(operator));
            let mut expr = parsed(&chain);
            assert!(deepest(&expr) < 10, "a NOT stands in front");
            balance(&mut expr);
            // Printed without brackets it is what was written.
            assert_eq!(expr.to_string(), parsed(&chain).to_string());
            let Expr::BinaryOp { left, .. } = &expr else { panic!("{expr}") };
            let Expr::UnaryOp { expr: inner, .. } = &**left else { panic!("{left}") };
            assert!((11..15).contains(&deepest(inner)), "{}", deepest(inner));
        }
    }

    #[test]
    fn mixed_operators_keep_their_meaning_and_short_chains_their_shape() {
        let mixed: Vec<String> = (0..100).map(|number| format!("a = {number} AND b")).collect();
        let mixed = mixed.join(" OR ");
        let mut expr = parsed(&mixed);
        balance(&mut expr);
        assert_eq!(expr.to_string(), mixed);
        assert!(deepest(&expr) < 12);
        let mut short = parsed("a OR b OR c OR d");
        let before = short.clone();
        balance(&mut short);
        assert_eq!(short, before);
        let mut sum = parsed(&vec!["1"; 100].join(" + "));
        balance(&mut sum);
        assert_eq!(deepest(&sum), 99, "sums of floats are not associative");
    }
}
