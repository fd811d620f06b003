//! The query set: one file, one question, in the spelling of each who is asked. `benchmarks/README.md` says how they are
//! written.

use std::fs;
use std::path::Path;

use crate::failure::Result;

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query {
    /// Its file's name.
    pub(super) name: String,
    pub(super) class: Class,
    pub(super) aquifer: String,
    /// Absent where the answers need not be the same.
    pub(super) duckdb: Option<String>,
}

/// What is asked of the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// On declared columns.
    Typed,
    /// On the records' own bytes.
    Raw,
    /// To the first row.
    FirstRow,
}

/// All questions of a folder, in the order of their names.
pub(super) fn read(folder: &Path) -> Result<Vec<Query>> {
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut queries = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "sql") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let text = fs::read_to_string(&path)?;
            queries.push(parse(name, &text).map_err(|error| format!("{}: {error}", path.display()))?);
        }
    }
    queries.sort_by(|one, other| one.name.cmp(&other.name));
    if queries.is_empty() {
        return Err(format!("{} has no queries", folder.display()).into());
    }
    Ok(queries)
}

fn parse(name: String, text: &str) -> std::result::Result<Query, String> {
    let mut class = Class::Typed;
    let (mut aquifer, mut duckdb) = (String::new(), String::new());
    let (mut for_aquifer, mut for_duckdb) = (false, false);
    for line in text.lines() {
        match line.strip_prefix("--").map(str::trim) {
            Some("aquifer:") => (for_aquifer, for_duckdb) = (true, false),
            Some("duckdb:") => (for_aquifer, for_duckdb) = (false, true),
            Some("both:") => (for_aquifer, for_duckdb) = (true, true),
            Some("class: raw") => class = Class::Raw,
            Some("class: first row") => class = Class::FirstRow,
            Some(comment) if comment.ends_with(':') || comment.starts_with("class") => {
                return Err(format!("'{line}' is neither a class nor somebody who is asked"));
            }
            Some(_) => {}
            None => {
                for (wanted, statement) in [(for_aquifer, &mut aquifer), (for_duckdb, &mut duckdb)] {
                    if wanted {
                        statement.push_str(line.trim());
                        statement.push(' ');
                    }
                }
            }
        }
    }
    let [aquifer, duckdb] = [aquifer, duckdb].map(|statement| statement.trim().to_owned());
    if aquifer.is_empty() {
        return Err("nothing is asked of aquifer".to_owned());
    }
    if class != Class::FirstRow && duckdb.is_empty() {
        return Err("nothing is asked of duckdb".to_owned());
    }
    Ok(Query { name, class, aquifer, duckdb: Some(duckdb).filter(|statement| !statement.is_empty()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_a_statement_for_each_who_is_asked() {
        let query =
            parse("q".to_owned(), "-- Why.\n-- class: raw\n-- aquifer:\nSELECT a\nFROM t\n-- duckdb:\nSELECT b\n");
        let query = query.unwrap();
        assert_eq!((query.aquifer.as_str(), query.duckdb.as_deref()), ("SELECT a FROM t", Some("SELECT b")));
        assert_eq!(query.class, Class::Raw);
        let both = parse("q".to_owned(), "-- both:\nSELECT 1").unwrap();
        assert_eq!(both.duckdb.as_deref(), Some("SELECT 1"));
        for wrong in ["SELECT 1", "-- aquifer:\nSELECT 1", "-- class: fast\n-- both:\nSELECT 1", "-- duck:\nSELECT 1"] {
            assert!(parse("q".to_owned(), wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_set_of_this_repository_is_well_formed() {
        let queries = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("queries")).unwrap();
        let of = |class| queries.iter().filter(|query| query.class == class).count();
        assert_eq!((of(Class::Typed), of(Class::Raw), of(Class::FirstRow)), (9, 1, 1));
    }
}
