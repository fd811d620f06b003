//! `ON CONFLICT` of an INSERT: which key, and what becomes of a row that is there.

use datafusion::sql::sqlparser::ast::{
    Assignment, AssignmentTarget, ConflictTarget, Expr, ObjectName, OnConflict, OnConflictAction, OnInsert,
};

use super::Name;
use super::cursor::Places;
use super::parse::object_name;
use super::window::folded;
use crate::error::{Error, Result, SqlState};

/// `ON CONFLICT [target] action`.
#[derive(Clone, Debug)]
pub(crate) struct Conflict {
    /// The key meant.
    pub(crate) target: Target,
    /// `None`: DO NOTHING.
    pub(crate) update: Option<Update>,
}

/// Which key a row may be in conflict with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Any.
    Any,
    /// That of these columns, folded.
    Columns(Vec<String>),
    /// That of this constraint.
    Constraint(String),
}

/// `DO UPDATE SET column = expression, … [WHERE condition]`.
#[derive(Clone, Debug)]
pub(crate) struct Update {
    /// Columns and what they get.
    pub(crate) assignments: Vec<(Name, Expr)>,
    /// Rows that it leaves as they are do not meet it.
    pub(crate) selection: Option<Expr>,
}

/// What an INSERT says of conflicts.
///
/// # Errors
/// 0A000 by name, 42601 for DO UPDATE without a key.
pub(super) fn conflict(on: OnInsert, places: &Places) -> Result<Conflict> {
    let OnInsert::OnConflict(OnConflict { conflict_target, action }) = on else {
        return Err(Error::unsupported("ON DUPLICATE KEY UPDATE").with_hint("ON CONFLICT (key) DO UPDATE SET …"));
    };
    let target = match conflict_target {
        None => Target::Any,
        Some(ConflictTarget::Columns(columns)) => Target::Columns(columns.iter().map(folded).collect()),
        Some(ConflictTarget::OnConstraint(name)) => {
            let last = name.0.last().and_then(|part| part.as_ident());
            Target::Constraint(last.map_or_else(|| name.to_string(), folded))
        }
    };
    let update = match action {
        OnConflictAction::DoNothing => None,
        OnConflictAction::DoUpdate(_) if target == Target::Any => {
            let message = "ON CONFLICT DO UPDATE requires inference specification or constraint name";
            return Err(Error::new(SqlState::SyntaxError, message).with_hint("for example, ON CONFLICT (key column)"));
        }
        OnConflictAction::DoUpdate(update) => {
            let mut assignments = Vec::new();
            for assignment in update.assignments {
                assign(assignment, places, &mut assignments)?;
            }
            Some(Update { assignments, selection: update.selection })
        }
    };
    Ok(Conflict { target, update })
}

fn assign(assignment: Assignment, places: &Places, assignments: &mut Vec<(Name, Expr)>) -> Result<()> {
    let Assignment { target, value } = assignment;
    match (target, value) {
        (AssignmentTarget::ColumnName(name), value) => assignments.push((column(&name, places)?, value)),
        (AssignmentTarget::Tuple(names), Expr::Tuple(values)) if names.len() == values.len() => {
            for (name, value) in names.iter().zip(values) {
                assignments.push((column(name, places)?, value));
            }
        }
        (AssignmentTarget::Tuple(_), _) => {
            return Err(Error::unsupported("SET (columns) = anything but as many expressions")
                .with_hint("SET a = expression, b = expression"));
        }
    }
    Ok(())
}

fn column(name: &ObjectName, places: &Places) -> Result<Name> {
    if name.0.len() == 1 {
        return object_name(name, places);
    }
    Err(Error::unsupported(format!("SET {name}")).with_hint("a column to be SET is named alone, without its table"))
}
