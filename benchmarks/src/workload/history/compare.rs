//! Whether two answers are one: cell by cell as text, numbers by value, and floats to a relative 1e-9, since the order of
//! adding is nobody's promise.

use crate::peer::duckdb::Rows;

const TOLERANCE: f64 = 1e-9;

/// The first difference between two answers, in words.
pub(super) fn difference(ours: &Rows, theirs: &Rows) -> Option<String> {
    if ours.len() != theirs.len() {
        return Some(format!("{} rows where DuckDB has {}", ours.len(), theirs.len()));
    }
    let differing = ours.iter().zip(theirs).position(|(ours, theirs)| !same_row(ours, theirs))?;
    Some(format!("row {differing} is {:?} where DuckDB has {:?}", ours.get(differing), theirs.get(differing)))
}

fn same_row(ours: &[Option<String>], theirs: &[Option<String>]) -> bool {
    ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(ours, theirs)| same_cell(ours, theirs))
}

fn same_cell(ours: &Option<String>, theirs: &Option<String>) -> bool {
    match (ours, theirs) {
        (Some(ours), Some(theirs)) => ours == theirs || same_number(ours, theirs),
        (None, None) => true,
        _ => false,
    }
}

fn same_number(ours: &str, theirs: &str) -> bool {
    // Whole numbers may be larger than a float is exact.
    if let (Ok(ours), Ok(theirs)) = (ours.parse::<i128>(), theirs.parse::<i128>()) {
        return ours == theirs;
    }
    match (ours.parse::<f64>(), theirs.parse::<f64>()) {
        (Ok(ours), Ok(theirs)) => ours == theirs || (ours - theirs).abs() <= TOLERANCE * ours.abs().max(theirs.abs()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(cells: &[&[Option<&str>]]) -> Rows {
        cells.iter().map(|row| row.iter().map(|cell| cell.map(str::to_owned)).collect()).collect()
    }

    #[test]
    fn numbers_are_compared_by_value_and_everything_else_as_text() {
        let ours = rows(&[&[Some("a"), Some("10"), Some("0.30000000000000004"), None]]);
        let theirs = rows(&[&[Some("a"), Some("10.0"), Some("0.3"), None]]);
        assert_eq!(difference(&ours, &theirs), None);
        for other in [
            rows(&[]),
            rows(&[&[Some("b"), Some("10"), Some("0.3"), None]]),
            rows(&[&[Some("a"), Some("11"), Some("0.3"), None]]),
            rows(&[&[Some("a"), Some("10"), Some("0.3001"), None]]),
            rows(&[&[Some("a"), Some("10"), Some("0.3"), Some("")]]),
            rows(&[&[Some("a"), Some("10"), Some("0.3")]]),
        ] {
            assert!(difference(&ours, &other).is_some(), "{other:?}");
        }
        let (large, larger) = (rows(&[&[Some("9007199254740992")]]), rows(&[&[Some("9007199254740993")]]));
        assert!(difference(&large, &larger).is_some());
    }
}
