//! What SQL answers when it cannot: SQLSTATE, message, position, hint.
//!
//! Codes: <https://www.postgresql.org/docs/15/errcodes-appendix.html>. The one table of them is [`SqlState`].

mod planning;

use std::sync::Arc;

/// What to do when the disk or the log is full.
const ROOM_HINT: &str = "DROP … DELETE TOPIC, DeleteRecords and CHECKPOINT make room; else give the disk more of it, or raise wal.bytes_max";

/// The codes we use. The text is what travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are Postgres's own")]
pub enum SqlState {
    SuccessfulCompletion,
    ProtocolViolation,
    TooManyConnections,
    ConfigurationLimitExceeded,
    CharacterNotInRepertoire,
    CardinalityViolation,
    SubstringError,
    InvalidDatetimeFormat,
    InvalidArgumentForNtile,
    InvalidEscapeSequence,
    InvalidArgumentForPower,
    InvalidArgumentForLogarithm,
    InvalidRegularExpression,
    InvalidRowCountInLimit,
    InvalidRowCountInOffset,
    InvalidColumnReference,
    DuplicateAlias,
    DatetimeOutOfRange,
    BadCopyFileFormat,
    CheckViolation,
    SerializationFailure,
    InvalidAuthorization,
    InvalidSchemaName,
    DuplicateColumn,
    InvalidSavepoint,
    InvalidBinaryRepresentation,
    InvalidStatementName,
    InvalidCursorName,
    DuplicatePreparedStatement,
    DuplicateCursor,
    FeatureNotSupported,
    ActiveTransaction,
    InFailedTransaction,
    NoActiveTransaction,
    SyntaxError,
    UndefinedTable,
    UndefinedColumn,
    UndefinedFunction,
    UndefinedObject,
    UndefinedParameter,
    DuplicateTable,
    DuplicateObject,
    AmbiguousColumn,
    DatatypeMismatch,
    InvalidTextRepresentation,
    NumericValueOutOfRange,
    StringTooLong,
    DivisionByZero,
    InvalidParameterValue,
    WrongObjectType,
    CannotChangeParameter,
    NotNullViolation,
    NullValueNotAllowed,
    ObjectInUse,
    ObjectNotInPrerequisiteState,
    ProgramLimitExceeded,
    OutOfMemory,
    DiskFull,
    QueryCanceled,
    ReadOnly,
    GroupingError,
    InvalidName,
    InvalidColumnDefinition,
    AdminShutdown,
    SnapshotTooOld,
    IoError,
    DataCorrupted,
    InternalError,
}

impl SqlState {
    /// The five characters.
    #[must_use]
    #[allow(clippy::too_many_lines, reason = "a table, one line for each")]
    pub fn code(self) -> &'static str {
        match self {
            Self::SuccessfulCompletion => "00000",
            Self::ProtocolViolation => "08P01",
            Self::TooManyConnections => "53300",
            Self::ConfigurationLimitExceeded => "53400",
            Self::CharacterNotInRepertoire => "22021",
            Self::CardinalityViolation => "21000",
            Self::SubstringError => "22011",
            Self::InvalidDatetimeFormat => "22007",
            Self::InvalidArgumentForNtile => "22014",
            Self::InvalidEscapeSequence => "22025",
            Self::InvalidArgumentForPower => "2201F",
            Self::InvalidArgumentForLogarithm => "2201E",
            Self::InvalidRegularExpression => "2201B",
            Self::InvalidRowCountInLimit => "2201W",
            Self::InvalidRowCountInOffset => "2201X",
            Self::InvalidColumnReference => "42P10",
            Self::DuplicateAlias => "42712",
            Self::DatetimeOutOfRange => "22008",
            Self::BadCopyFileFormat => "22P04",
            Self::CheckViolation => "23514",
            Self::SerializationFailure => "40001",
            Self::InvalidAuthorization => "28000",
            Self::InvalidSchemaName => "3F000",
            Self::InvalidSavepoint => "3B001",
            Self::DuplicateColumn => "42701",
            Self::InvalidBinaryRepresentation => "22P03",
            Self::InvalidStatementName => "26000",
            Self::InvalidCursorName => "34000",
            Self::DuplicatePreparedStatement => "42P05",
            Self::DuplicateCursor => "42P03",
            Self::FeatureNotSupported => "0A000",
            Self::ActiveTransaction => "25001",
            Self::InFailedTransaction => "25P02",
            Self::NoActiveTransaction => "25P01",
            Self::SyntaxError => "42601",
            Self::UndefinedTable => "42P01",
            Self::UndefinedColumn => "42703",
            Self::UndefinedFunction => "42883",
            Self::UndefinedObject => "42704",
            Self::UndefinedParameter => "42P02",
            Self::DuplicateTable => "42P07",
            Self::DuplicateObject => "42710",
            Self::AmbiguousColumn => "42702",
            Self::DatatypeMismatch => "42804",
            Self::InvalidTextRepresentation => "22P02",
            Self::NumericValueOutOfRange => "22003",
            Self::StringTooLong => "22001",
            Self::DivisionByZero => "22012",
            Self::InvalidParameterValue => "22023",
            Self::WrongObjectType => "42809",
            Self::CannotChangeParameter => "55P02",
            Self::NotNullViolation => "23502",
            Self::NullValueNotAllowed => "22004",
            Self::ObjectInUse => "55006",
            Self::ObjectNotInPrerequisiteState => "55000",
            Self::ProgramLimitExceeded => "54000",
            Self::OutOfMemory => "53200",
            Self::DiskFull => "53100",
            Self::QueryCanceled => "57014",
            Self::ReadOnly => "25006",
            Self::GroupingError => "42803",
            Self::InvalidName => "42602",
            Self::InvalidColumnDefinition => "42611",
            Self::AdminShutdown => "57P01",
            Self::SnapshotTooOld => "72000",
            Self::IoError => "58030",
            Self::DataCorrupted => "XX001",
            Self::InternalError => "XX000",
        }
    }
}

/// The result of SQL calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error as a client sees it. Build with [`Error::new`] and the `with_` calls.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The code.
    pub state: SqlState,
    /// Lower case, no full stop, values named.
    pub message: String,
    /// More of what happened.
    pub detail: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// Character of the statement, from 1.
    pub position: Option<usize>,
    /// Where it came from.
    pub source: Option<Arc<dyn std::error::Error + Send + Sync>>,
    /// Where it lies, beside the statement.
    pub(crate) place: Option<Box<Whereabouts>>,
}

/// Where in data or in the catalog an error lies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Whereabouts {
    /// In words, as `COPY t, line 3, column amount: "x"`.
    pub context: Option<String>,
    /// The relation, in schema public.
    pub relation: Option<String>,
    /// A column of it.
    pub column: Option<String>,
    /// A constraint of it.
    pub constraint: Option<String>,
    /// Of the rows that were written together, from 0.
    row: Option<usize>,
}

impl Error {
    /// An error with its code and message.
    #[must_use]
    pub fn new(state: SqlState, message: impl Into<String>) -> Self {
        Self { state, message: message.into(), detail: None, hint: None, position: None, source: None, place: None }
    }

    /// What is not supported, by name; always give a hint too.
    #[must_use]
    pub fn unsupported(what: impl std::fmt::Display) -> Self {
        Self::new(SqlState::FeatureNotSupported, format!("{what} is not supported"))
    }

    /// What to do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// More of what happened.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Character of the statement, from 1.
    #[must_use]
    pub fn with_position(mut self, position: usize) -> Self {
        self.position = Some(position);
        self
    }

    /// Where it lies, beside the statement.
    #[must_use]
    pub fn whereabouts(&self) -> &Whereabouts {
        static NOWHERE: Whereabouts =
            Whereabouts { context: None, relation: None, column: None, constraint: None, row: None };
        self.place.as_deref().unwrap_or(&NOWHERE)
    }

    fn place(&mut self) -> &mut Whereabouts {
        self.place.get_or_insert_default()
    }

    /// Where in the client's data.
    #[must_use]
    pub fn with_context(mut self, context: impl Into<String>) -> Self {
        self.place().context = Some(context.into());
        self
    }

    /// Which column of a relation.
    #[must_use]
    pub fn with_column(mut self, relation: &str, column: &str) -> Self {
        (self.place().relation, self.place().column) = (Some(relation.to_owned()), Some(column.to_owned()));
        self
    }

    /// Which constraint of a relation.
    #[must_use]
    pub fn with_constraint(mut self, relation: &str, constraint: &str) -> Self {
        (self.place().relation, self.place().constraint) = (Some(relation.to_owned()), Some(constraint.to_owned()));
        self
    }

    /// Which of the rows that were written together, from 0.
    #[must_use]
    pub(crate) fn with_row(mut self, row: usize) -> Self {
        self.place().row = Some(row);
        self
    }

    /// The row it is about, if it is about one.
    pub(crate) fn row(&self) -> Option<usize> {
        self.whereabouts().row
    }

    /// The same, with rows in front that it did not know of.
    #[must_use]
    pub(crate) fn behind_rows(self, rows: usize) -> Self {
        match self.row() {
            Some(row) => self.with_row(row + rows),
            None => self,
        }
    }

    /// Where it came from.
    #[must_use]
    pub fn with_source(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }
}

impl From<aquifer_storage::Error> for Error {
    fn from(error: aquifer_storage::Error) -> Self {
        use aquifer_storage::Error as Storage;
        let (state, hint) = match &error {
            Storage::UnknownTopic { .. } => (SqlState::UndefinedTable, Some("SHOW TOPICS lists what there is")),
            Storage::UnknownPartition { .. } => (SqlState::InvalidParameterValue, None),
            Storage::TopicExists { .. } => (SqlState::DuplicateObject, None),
            Storage::InvalidTopic { .. }
            | Storage::InvalidTopicConfig { .. }
            | Storage::InvalidPartitions { .. }
            | Storage::Config { .. } => (SqlState::InvalidParameterValue, None),
            Storage::KeylessRecords { .. } => (
                SqlState::NotNullViolation,
                Some("give every row a key, or make the topic with cleanup_policy = 'delete'"),
            ),
            Storage::TopicHeld { .. } => (SqlState::ObjectInUse, Some("TERMINATE or DROP what uses it first")),
            Storage::TableTopic { .. } | Storage::TableWrittenByQuery { .. } | Storage::TableKeyed { .. } => {
                (SqlState::ObjectInUse, Some("DROP the table first"))
            }
            Storage::TopicInternal { .. } => (SqlState::ReadOnly, Some("the node keeps this topic for itself")),
            Storage::Conflict { .. } => {
                (SqlState::ObjectNotInPrerequisiteState, Some("somebody else changed it; try again"))
            }
            Storage::RowsContended { .. } => (SqlState::SerializationFailure, Some("run the transaction again")),
            Storage::OffsetOutOfRange { .. } => (SqlState::SnapshotTooOld, Some("run the statement again")),
            Storage::OutOfOrderSequence { .. }
            | Storage::InvalidProducerEpoch { .. }
            | Storage::ProducerFenced { .. }
            | Storage::UnknownTransactionalId { .. } => (SqlState::InternalError, None),
            Storage::InvalidTransactionState { .. } => (SqlState::ObjectNotInPrerequisiteState, None),
            Storage::InvalidBatch { .. } => (SqlState::InvalidParameterValue, None),
            Storage::TooLarge { .. } => (SqlState::ProgramLimitExceeded, Some("write it in smaller portions")),
            Storage::CorruptBatch { .. } | Storage::Corrupt { .. } | Storage::Format { .. } => (
                SqlState::DataCorrupted,
                Some(
                    "leave the named range out by _partition and _offset, as in WHERE _offset >= its end; the rest is served",
                ),
            ),
            Storage::Full { .. } => (SqlState::DiskFull, Some(ROOM_HINT)),
            Storage::ReadOnly { .. } | Storage::Fenced { .. } => {
                (SqlState::ReadOnly, Some("restart the node once the cause is mended"))
            }
            Storage::Closed => (SqlState::AdminShutdown, None),
            Storage::Io { .. } | Storage::ObjectStore { .. } => (SqlState::IoError, None),
            _ => (SqlState::InternalError, None),
        };
        let mut mapped = Self::new(state, error.to_string());
        let mut cause = std::error::Error::source(&error);
        while let Some(inner) = cause {
            mapped.detail = Some(inner.to_string());
            cause = inner.source();
        }
        mapped.hint = hint.map(str::to_owned);
        mapped.with_source(error)
    }
}

impl From<Error> for datafusion::error::DataFusionError {
    fn from(error: Error) -> Self {
        Self::External(Box::new(error))
    }
}
