//! What DataFusion says, in Postgres's codes: our own errors come out of it as they went in, its own get the code that
//! clients act on.

use std::sync::Arc;

use arrow::error::ArrowError;
use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;

use super::{Error, SqlState};

impl From<DataFusionError> for Error {
    fn from(error: DataFusionError) -> Self {
        let mut mapped = map(&error);
        if mapped.source.is_none() {
            mapped.source = Some(Arc::new(error));
        }
        mapped
    }
}

fn map(error: &DataFusionError) -> Error {
    match error {
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => map(inner),
        DataFusionError::Shared(inner) => map(inner),
        DataFusionError::Collection(errors) => {
            errors.first().map_or_else(|| Error::new(SqlState::InternalError, error.to_string()), map)
        }
        DataFusionError::External(inner) => external(inner.as_ref()),
        DataFusionError::ArrowError(inner, _) => arrow(inner),
        DataFusionError::SchemaError(inner, _) => schema(inner),
        DataFusionError::SQL(inner, _) => Error::new(SqlState::SyntaxError, inner.to_string()),
        DataFusionError::NotImplemented(message) => {
            Error::new(SqlState::FeatureNotSupported, first_line(message)).with_hint("write the query in another way")
        }
        DataFusionError::Plan(message) => plan(message),
        DataFusionError::Configuration(message) => Error::new(SqlState::InvalidParameterValue, first_line(message)),
        DataFusionError::Execution(message) => execution(message),
        DataFusionError::ResourcesExhausted(message) => Error::new(SqlState::OutOfMemory, first_line(message))
            .with_hint("select, sort or group less at once, or raise memory.limit: queries have what its caches leave"),
        DataFusionError::IoError(inner) => {
            let message = inner.to_string();
            spilled_too_much(&message).unwrap_or_else(|| Error::new(SqlState::IoError, message))
        }
        DataFusionError::ObjectStore(inner) => Error::new(SqlState::IoError, inner.to_string()),
        other => internal(&other.to_string()),
    }
}

/// An error that went through DataFusion: ours, storage's, or one of its own again.
fn external(error: &(dyn std::error::Error + Send + Sync + 'static)) -> Error {
    if let Some(ours) = error.downcast_ref::<Error>() {
        return ours.clone();
    }
    if let Some(inner) = error.downcast_ref::<DataFusionError>() {
        return map(inner);
    }
    if let Some(inner) = error.downcast_ref::<ArrowError>() {
        return arrow(inner);
    }
    internal(&error.to_string())
}

fn arrow(error: &ArrowError) -> Error {
    match error {
        ArrowError::ExternalError(inner) => external(inner.as_ref()),
        ArrowError::IoError(message, _) => {
            spilled_too_much(message).unwrap_or_else(|| Error::new(SqlState::IoError, first_line(message)))
        }
        ArrowError::DivideByZero => Error::new(SqlState::DivisionByZero, "division by zero"),
        ArrowError::ArithmeticOverflow(message) => Error::new(SqlState::NumericValueOutOfRange, message),
        ArrowError::CastError(message) | ArrowError::ParseError(message) => cast(message),
        ArrowError::ComputeError(message) | ArrowError::InvalidArgumentError(message) => execution(message),
        ArrowError::NotYetImplemented(message) => {
            Error::new(SqlState::FeatureNotSupported, message).with_hint("write the query in another way")
        }
        other => internal(&other.to_string()),
    }
}

/// What a sort, a join or a group is told that finds no more room on disk: it comes as an error of the file.
fn spilled_too_much(message: &str) -> Option<Error> {
    let (_, limit) = message.split_once("exceeded the allowable limit of ")?;
    let limit = limit.lines().next().unwrap_or_default().split(". ").next().unwrap_or_default();
    let message = format!("queries have spilled more to disk than query.spill_bytes_max = {limit} allows");
    let hint = "select, sort or group less at once, or raise query.spill_bytes_max or memory.limit";
    Some(Error::new(SqlState::ConfigurationLimitExceeded, message).with_hint(hint))
}

fn cast(message: &str) -> Error {
    let lower = message.to_lowercase();
    let overflow =
        ["overflow", "out of range", "too large", "can't cast value"].iter().any(|word| lower.contains(word));
    let state = if overflow {
        SqlState::NumericValueOutOfRange
    } else if lower.contains("timezone") {
        SqlState::InvalidParameterValue
    } else if lower.contains("type interval") {
        SqlState::InvalidDatetimeFormat
    } else {
        text_into(&lower)
    };
    Error::new(state, first_line(message))
}

/// Why a text did not become a value: `cannot cast string '…' to value of … type`, `error parsing timestamp from '…'`.
fn text_into(lower: &str) -> SqlState {
    let mut parts = lower.splitn(3, '\'');
    let (Some(before), Some(text), Some(after)) = (parts.next(), parts.next(), parts.next()) else {
        return SqlState::InvalidTextRepresentation;
    };
    let kinds = ["value of date", "value of time"];
    if before.contains("error parsing timestamp") || kinds.iter().any(|kind| after.contains(kind)) {
        // What has a time's form says one that there is not.
        let formed = text.contains(|char: char| char.is_ascii_digit())
            && text.chars().all(|char| char.is_ascii_digit() || "-:.+tz ".contains(char));
        return if formed { SqlState::DatetimeOutOfRange } else { SqlState::InvalidDatetimeFormat };
    }
    let whole = after.contains("value of int") && text.trim().parse::<i128>().is_ok();
    if whole { SqlState::NumericValueOutOfRange } else { SqlState::InvalidTextRepresentation }
}

fn schema(error: &SchemaError) -> Error {
    match error {
        SchemaError::FieldNotFound { field, valid_fields }
            if field.relation.is_some()
                && !valid_fields.is_empty()
                && valid_fields.iter().all(|known| known.relation != field.relation) =>
        {
            let relation = field.relation.as_ref().map(ToString::to_string).unwrap_or_default();
            let message = format!("missing FROM-clause entry for table \"{relation}\"");
            Error::new(SqlState::UndefinedTable, message)
                .with_hint("name the relation in FROM, by its alias if it has one")
        }
        SchemaError::FieldNotFound { field, valid_fields } => {
            let column = field.quoted_flat_name();
            let known: Vec<String> =
                valid_fields.iter().map(|field| field.quoted_flat_name()).take(NAMES_MAX).collect();
            let error = Error::new(SqlState::UndefinedColumn, format!("column {column} does not exist"));
            if known.is_empty() { error } else { error.with_hint(format!("there are {}", known.join(", "))) }
        }
        SchemaError::AmbiguousReference { field } => {
            let column = field.quoted_flat_name();
            Error::new(SqlState::AmbiguousColumn, format!("column reference {column} is ambiguous"))
                .with_hint("put the relation's name in front")
        }
        SchemaError::DuplicateQualifiedField { name, .. } | SchemaError::DuplicateUnqualifiedField { name } => {
            Error::new(SqlState::DuplicateColumn, format!("column name \"{name}\" appears more than once"))
                .with_hint("give one of them another name with AS")
        }
    }
}

/// Columns that a hint names.
const NAMES_MAX: usize = 20;

/// What planning says, by words in it, in lower case; the first that fits counts.
const PLANNING: [(&str, SqlState); 20] = [
    ("invalid function", SqlState::UndefinedFunction),
    ("no function matches", SqlState::UndefinedFunction),
    ("must appear in the group by", SqlState::GroupingError),
    ("in group by clause or must be part of", SqlState::GroupingError),
    ("aggregate functions are not allowed", SqlState::GroupingError),
    ("aggregate function calls cannot be nested", SqlState::GroupingError),
    ("cannot coerce arithmetic expression", SqlState::UndefinedFunction),
    ("cannot get result type for", SqlState::UndefinedFunction),
    ("unary operator '-' only supports", SqlState::UndefinedFunction),
    ("failed to coerce", SqlState::DatatypeMismatch),
    ("cannot coerce", SqlState::DatatypeMismatch),
    ("type_coercion", SqlState::DatatypeMismatch),
    ("non-boolean predicate", SqlState::DatatypeMismatch),
    ("requires a boolean expression", SqlState::DatatypeMismatch),
    ("order by column out of bounds", SqlState::InvalidColumnReference),
    ("order by expressions", SqlState::InvalidColumnReference),
    ("limit must be", SqlState::InvalidRowCountInLimit),
    ("offset must be", SqlState::InvalidRowCountInOffset),
    ("invalid escape character", SqlState::InvalidEscapeSequence),
    ("step cannot be zero", SqlState::InvalidParameterValue),
];

/// The same of what running says.
const RUNNING: [(&str, SqlState); 13] = [
    ("overflow", SqlState::NumericValueOutOfRange),
    ("out of range", SqlState::NumericValueOutOfRange),
    ("too large to store in a decimal", SqlState::NumericValueOutOfRange),
    ("more than one row", SqlState::CardinalityViolation),
    ("square root of a negative", SqlState::InvalidArgumentForPower),
    ("raised to a negative power", SqlState::InvalidArgumentForPower),
    ("negative count not allowed", SqlState::SubstringError),
    ("negative substring length", SqlState::SubstringError),
    ("ntile requires", SqlState::InvalidArgumentForNtile),
    ("unable to parse date from", SqlState::DatetimeOutOfRange),
    ("regex parse error", SqlState::InvalidRegularExpression),
    ("step size cannot equal zero", SqlState::InvalidParameterValue),
    ("step cannot be zero", SqlState::InvalidParameterValue),
];

fn state_in(table: &[(&str, SqlState)], lower: &str) -> Option<SqlState> {
    table.iter().find(|(words, _)| lower.contains(words)).map(|(_, state)| *state)
}

/// Planning errors are words; their beginnings have not changed for years.
fn plan(message: &str) -> Error {
    let message = first_line(message);
    let lower = message.to_lowercase();
    if let Some(table) = message.strip_prefix("table '").and_then(|rest| rest.strip_suffix("' not found")) {
        // Bare names come with catalog and schema in front.
        let name = table.strip_prefix("aquifer.public.").or_else(|| table.strip_prefix("aquifer.")).unwrap_or(table);
        return Error::new(SqlState::UndefinedTable, format!("relation \"{name}\" does not exist"))
            .with_hint("SHOW STREAMS and SHOW TABLES list what there is; topics are in schema topics");
    }
    if lower.contains("must appear in the group by clause")
        && let Some(column) = message.split("column \"").nth(1).and_then(|rest| rest.split('"').next())
    {
        let message =
            format!("column \"{column}\" must appear in the GROUP BY clause or be used in an aggregate function");
        return Error::new(SqlState::GroupingError, message);
    }
    if lower.starts_with("with query name") {
        return Error::new(SqlState::DuplicateAlias, message);
    }
    let schema = lower.contains("schema not found") || lower.contains("failed to resolve schema");
    let other = if schema { SqlState::InvalidSchemaName } else { SqlState::SyntaxError };
    Error::new(state_in(&PLANNING, &lower).unwrap_or(other), message)
}

fn execution(message: &str) -> Error {
    let message = first_line(message);
    let lower = message.to_lowercase();
    if lower.contains("divide by zero") || lower.contains("division by zero") {
        return Error::new(SqlState::DivisionByZero, "division by zero");
    }
    Error::new(state_in(&RUNNING, &lower).unwrap_or(SqlState::InvalidParameterValue), message)
}

/// What nobody has foreseen: a bug, but for a pattern that is none, of which the regex crate alone knows.
fn internal(message: &str) -> Error {
    if let Some(error) = spilled_too_much(message) {
        return error;
    }
    let regex = message.to_lowercase().contains("regex parse error");
    let state = if regex { SqlState::InvalidRegularExpression } else { SqlState::InternalError };
    Error::new(state, if regex { message.to_owned() } else { first_line(message) })
}

/// DataFusion adds advice on its own making behind the first line; a client has no use for it.
fn first_line(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    let line = line.strip_prefix("Error during planning: ").unwrap_or(line);
    // Inner structures are not words: what is printed as one is left out, from its name on.
    let words = match line.find(" { ").or_else(|| line.find("ScalarFunction(")) {
        Some(at) => line[..at].rsplit_once(' ').map_or("this expression cannot be run", |(words, _)| words),
        None => line,
    };
    words.trim_end_matches(['.', ',', ' ']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_errors_come_out_as_they_went_in() {
        let ours = Error::new(SqlState::SnapshotTooOld, "gone").with_hint("ask for later");
        let wrapped = DataFusionError::Context(
            "scan".into(),
            Box::new(DataFusionError::ArrowError(
                Box::new(ArrowError::ExternalError(Box::new(DataFusionError::External(Box::new(ours))))),
                None,
            )),
        );
        let out = Error::from(wrapped);
        assert_eq!((out.state, out.hint.as_deref()), (SqlState::SnapshotTooOld, Some("ask for later")));
    }

    #[test]
    fn what_clients_act_on_has_its_code() {
        let of = |error: DataFusionError| Error::from(error).state.code();
        assert_eq!(of(DataFusionError::Plan("table 'aquifer.public.x' not found".into())), "42P01");
        assert_eq!(of(DataFusionError::Plan("Invalid function 'nope'.\nDid you mean 'now'?".into())), "42883");
        assert_eq!(of(DataFusionError::ArrowError(Box::new(ArrowError::DivideByZero), None)), "22012");
        assert_eq!(
            of(DataFusionError::ArrowError(
                Box::new(ArrowError::CastError("Cannot cast string 'a' to value of Int64 type".into())),
                None
            )),
            "22P02"
        );
        let cast =
            |message: &str| of(DataFusionError::ArrowError(Box::new(ArrowError::CastError(message.into())), None));
        assert_eq!(cast("Cannot cast string '3000000000' to value of Int32 type"), "22003");
        assert_eq!(cast("Cannot cast string '2023-02-29' to value of Date32 type"), "22008");
        assert_eq!(cast("Cannot cast string 'soon' to value of Date32 type"), "22007");
        assert_eq!(of(DataFusionError::Plan("LIMIT must be >= 0, '-1' was provided".into())), "2201W");
        assert_eq!(of(DataFusionError::Execution("Scalar subquery returned more than one row".into())), "21000");
        assert_eq!(of(DataFusionError::ResourcesExhausted("too much".into())), "53200");
        let spilled =
            "The used disk space during the spilling process has exceeded the allowable limit of 1.0 KB. Please try";
        let spilled = Error::from(DataFusionError::IoError(std::io::Error::other(spilled)));
        assert_eq!(spilled.state.code(), "53400");
        assert_eq!(spilled.message, "queries have spilled more to disk than query.spill_bytes_max = 1.0 KB allows");
        assert_eq!(of(DataFusionError::NotImplemented("that".into())), "0A000");
    }
}
