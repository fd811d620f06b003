//! How deep a statement's tree becomes at the most, told from its tokens. Operators beside each other are read one inside the
//! other: ten thousand ORs are a tree of ten thousand levels, and whoever walks it needs a stack as deep. What is deeper than
//! our threads' stacks bear is refused before there is a tree; a stack that overflows ends the process. Pure.

use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::cursor::Places;
use crate::error::{Error, Result, SqlState};

/// Levels of a tree, at the most. A level takes some 1.5 KiB of stack, without optimisation up to 10.
const DEPTH_MAX: usize = 2000;
/// Brackets inside of each other, at the most: the parser takes many times longer for each further one.
const NESTED_MAX: usize = 50;
/// Levels of a relation that stands beside others: a join of two is a plan around both.
const RELATION_LEVELS: usize = 2;

/// Between these words and commas nothing is one inside the other.
const CLAUSES: [&str; 16] = [
    "select",
    "from",
    "where",
    "group",
    "having",
    "order",
    "limit",
    "when",
    "then",
    "else",
    "on",
    "set",
    "values",
    "returning",
    "with",
    "window",
];
const BESIDE: [&str; 4] = ["join", "union", "intersect", "except"];

/// What stands between two parentheses, or in none.
#[derive(Debug, Default)]
struct Group {
    /// Levels of relations that are beside each other, added up.
    relations: usize,
    /// The deepest clause or element of a list that has ended.
    deepest: usize,
    /// ANDs and ORs of the clause so far.
    logical: usize,
    /// The deepest condition between them.
    condition: usize,
    /// Other operators of the condition so far, and the deepest parentheses in it.
    operators: usize,
    inner: usize,
    /// Elements of this list are relations.
    chained: bool,
}

impl Group {
    fn end_condition(&mut self) {
        self.condition = self.condition.max(self.operators + self.inner);
        (self.operators, self.inner) = (0, 0);
    }

    fn end_element(&mut self) {
        self.end_condition();
        let depth = self.logical + self.condition;
        (self.logical, self.condition) = (0, 0);
        if self.chained {
            self.relations += RELATION_LEVELS + depth;
        } else {
            self.deepest = self.deepest.max(depth);
        }
    }

    fn depth(mut self) -> usize {
        self.end_element();
        self.relations + self.deepest
    }

    fn take(&mut self, token: &Token) {
        match token {
            Token::Word(word) if word.quote_style.is_none() => self.word(&word.value.to_ascii_lowercase()),
            Token::Comma => self.end_element(),
            Token::Word(_)
            | Token::Number(..)
            | Token::SingleQuotedString(_)
            | Token::Placeholder(_)
            | Token::Period
            | Token::Whitespace(_) => {}
            _ => self.operators += 1,
        }
    }

    fn word(&mut self, word: &str) {
        match word {
            "and" | "or" => {
                self.end_condition();
                self.logical += 1;
            }
            word if BESIDE.contains(&word) => {
                self.end_element();
                self.relations += RELATION_LEVELS;
            }
            word if CLAUSES.contains(&word) => {
                self.end_element();
                self.chained = matches!(word, "from" | "with");
            }
            "not" | "is" | "isnull" | "notnull" | "like" | "ilike" | "in" | "between" | "collate" | "at" => {
                self.operators += 1;
            }
            _ => {}
        }
    }
}

/// Refuses a statement whose tree would be too deep.
///
/// # Errors
/// 54000.
pub(crate) fn check(tokens: &[TokenWithSpan], places: &Places) -> Result<()> {
    if tokens.len() <= NESTED_MAX {
        return Ok(());
    }
    let (depth, nested) = depth_of(tokens.iter().map(|token| &token.token));
    if depth <= DEPTH_MAX && nested <= NESTED_MAX {
        return Ok(());
    }
    let message = match nested > NESTED_MAX {
        true => format!("statement has {nested} brackets inside of each other, more than {NESTED_MAX}"),
        false => format!("statement would be a tree of {depth} levels, more than {DEPTH_MAX}"),
    };
    let position = tokens.first().and_then(|first| places.position(first.span.start));
    let error = Error::new(SqlState::ProgramLimitExceeded, message)
        .with_hint("write a = 1 OR a = 2 OR … as a IN (1, 2, …), and many SELECTs of a UNION ALL as VALUES");
    Err(position.into_iter().fold(error, Error::with_position))
}

/// The depth, and how many brackets are inside of each other.
fn depth_of<'a>(tokens: impl Iterator<Item = &'a Token>) -> (usize, usize) {
    let (mut open, mut nested) = (vec![Group::default()], 0);
    for token in tokens {
        match token {
            Token::LParen | Token::LBracket => {
                if let (Token::LBracket, Some(outer)) = (token, open.last_mut()) {
                    outer.operators += 1;
                }
                open.push(Group::default());
                nested = nested.max(open.len() - 1);
            }
            Token::RParen | Token::RBracket => close(&mut open),
            token => open.last_mut().into_iter().for_each(|group| group.take(token)),
        }
    }
    // What was not closed is an error of the parser's to find.
    while open.len() > 1 {
        close(&mut open);
    }
    (open.pop().map_or(0, Group::depth), nested)
}

/// What closes nothing is the parser's to find too.
fn close(open: &mut Vec<Group>) {
    if open.len() > 1
        && let Some(inner) = open.pop()
        && let Some(outer) = open.last_mut()
    {
        outer.inner = outer.inner.max(inner.depth() + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::super::cursor::tokenize;
    use super::*;

    fn depth(sql: &str) -> usize {
        depth_of(tokenize(sql).unwrap().iter().map(|token| &token.token)).0
    }

    #[test]
    fn brackets_inside_of_each_other_are_counted() {
        let nested = |sql: &str| depth_of(tokenize(sql).unwrap().iter().map(|token| &token.token)).1;
        assert_eq!(nested("SELECT array[array[(1), 2], f(x[1])] ]]"), 3);
        assert_eq!(nested(&"array[".repeat(300)), 300);
    }

    fn many(count: usize, part: &str, between: &str) -> String {
        vec![part; count].join(between)
    }

    #[test]
    fn what_is_one_inside_the_other_adds_up() {
        for (sql, levels) in [
            (format!("SELECT {}", many(1000, "1", "+")), 1000),
            (format!("SELECT 1 WHERE {}", many(1000, "(a = 1 AND b = 2)", " OR ")), 1000),
            (many(500, "SELECT 1", " UNION ALL "), 1000),
            (format!("SELECT 1 FROM {}", many(500, "t", ", ")), 1000),
            (format!("SELECT 1 FROM t {}", many(500, "JOIN t ON true", " ")), 1000),
            (format!("WITH {} SELECT 1", many(300, "a AS (SELECT 1+1+1)", ", ")), 1000),
            (format!("SELECT a{}", "::int".repeat(1000)), 1000),
            (format!("SELECT a{}", "[1]".repeat(1000)), 1000),
            (format!("SELECT {}1{}", "(1+".repeat(500), ")".repeat(500)), 1000),
            (format!("SELECT a {}", many(1000, "IS NULL", " ")), 1000),
        ] {
            let found = depth(&sql);
            assert!((levels - 10..levels + 600).contains(&found), "{found}: {}", &sql[..60]);
        }
    }

    #[test]
    fn what_stands_side_by_side_does_not() {
        for sql in [
            format!("SELECT * FROM t WHERE a IN ({})", many(50_000, "-1", ", ")),
            format!("INSERT INTO t VALUES {}", many(10_000, "(1 + 1, now(), 'x' || 'y')", ", ")),
            format!("SELECT CASE {} END", many(5_000, "WHEN a = 1 AND b THEN 2 + 2", " ")),
            format!("SELECT {}", many(5_000, "a + b", ", ")),
            format!("SELECT 1 WHERE {}", many(1_000, "a = b + c * 2", " OR ")),
            ")".repeat(5_000),
        ] {
            assert!(depth(&sql) <= DEPTH_MAX, "{}: {}", depth(&sql), &sql[..60]);
        }
    }
}
