//! Errors as the wire tells them: fields of `ErrorResponse` and `NoticeResponse`. The codes are `SqlState`'s.

use std::io;

use aquifer_sql::error::{Error, SqlState};
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::response::{ErrorResponse, NoticeResponse};

use super::meter;

/// Why a connection stops what it does.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The statement failed; the session goes on.
    Statement(Error),
    /// The session ends with a last word.
    Session(Error),
    /// The client is gone.
    Gone,
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Statement(error)
    }
}

impl From<io::Error> for Stop {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

/// The node is going down.
pub(crate) fn shutting_down() -> Error {
    Error::new(SqlState::AdminShutdown, "terminating connection due to administrator command")
}

/// The client asked for it.
pub(crate) fn canceled() -> Error {
    Error::new(SqlState::QueryCanceled, "canceling statement due to user request")
}

/// How grave it is, in Postgres's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severity {
    /// The statement failed.
    Error,
    /// The connection ends.
    Fatal,
    /// Good to know.
    Notice,
    /// Worth a look.
    Warning,
}

impl Severity {
    fn word(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
            Self::Notice => "NOTICE",
            Self::Warning => "WARNING",
        }
    }
}

/// An error as a message.
pub(crate) fn error_response(error: &Error, severity: Severity) -> PgWireBackendMessage {
    meter::told(error);
    PgWireBackendMessage::ErrorResponse(ErrorResponse::new(fields(error, severity)))
}

/// A notice as a message. What has the code of an error condition in it is a warning.
pub(crate) fn notice_response(notice: &Error) -> PgWireBackendMessage {
    let severity = match notice.state {
        SqlState::NoActiveTransaction | SqlState::ActiveTransaction => Severity::Warning,
        _ => Severity::Notice,
    };
    PgWireBackendMessage::NoticeResponse(NoticeResponse::new(fields(notice, severity)))
}

fn fields(error: &Error, severity: Severity) -> Vec<(u8, String)> {
    let mut fields = vec![
        (b'S', severity.word().to_owned()),
        (b'V', severity.word().to_owned()),
        (b'C', error.state.code().to_owned()),
        (b'M', text(&error.message)),
    ];
    fields.extend(error.detail.as_deref().map(|detail| (b'D', text(detail))));
    fields.extend(error.hint.as_deref().map(|hint| (b'H', text(hint))));
    fields.extend(error.position.map(|position| (b'P', position.to_string())));
    let place = error.whereabouts();
    fields.extend(place.context.as_deref().map(|context| (b'W', text(context))));
    if let Some(relation) = &place.relation {
        fields.extend([(b's', "public".to_owned()), (b't', text(relation))]);
    }
    fields.extend(place.column.as_deref().map(|column| (b'c', text(column))));
    fields.extend(place.constraint.as_deref().map(|constraint| (b'n', text(constraint))));
    fields
}

/// A field ends at its first zero byte; a message that quotes one must not end there.
fn text(text: &str) -> String {
    text.replace('\0', "\\0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_in_data_tells_where_it_lies() {
        let error = Error::new(SqlState::CheckViolation, "no").with_constraint("t", "t_a_check");
        let error = error.with_context("COPY t, line 3").with_column("t", "a");
        let PgWireBackendMessage::ErrorResponse(response) = error_response(&error, Severity::Error) else { panic!() };
        let fields: Vec<_> = response.fields[4..].iter().map(|(name, text)| (*name, text.as_str())).collect();
        let wanted = [(b'W', "COPY t, line 3"), (b's', "public"), (b't', "t"), (b'c', "a"), (b'n', "t_a_check")];
        assert_eq!(fields, wanted);
    }

    #[test]
    fn an_error_tells_code_message_hint_and_position() {
        let error = Error::new(SqlState::UndefinedTable, "relation \"a\0b\" does not exist")
            .with_hint("SHOW TABLES lists them")
            .with_position(15);
        let PgWireBackendMessage::ErrorResponse(response) = error_response(&error, Severity::Error) else { panic!() };
        let field = |code: u8| response.fields.iter().find(|(name, _)| *name == code).map(|(_, text)| text.as_str());
        assert_eq!(field(b'C'), Some("42P01"));
        assert_eq!(field(b'M'), Some("relation \"a\\0b\" does not exist"));
        assert_eq!(field(b'H'), Some("SHOW TABLES lists them"));
        assert_eq!(field(b'P'), Some("15"));
        assert_eq!(field(b'V'), Some("ERROR"));
        assert_eq!((field(b'W'), field(b't')), (None, None));
    }
}
