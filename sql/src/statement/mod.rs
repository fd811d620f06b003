//! Statements as plain data: what was said, before anybody asks whether it makes sense.
//!
//! A text is tokenised once. Our own statements are parsed from the tokens by hand; everything else is sqlparser's,
//! whose tokens keep their places, so that an error can point at a character.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast;
use serde::{Deserialize, Serialize};

use aquifer_storage::record::format::ColumnType;

pub(crate) mod alter;
pub(crate) mod balance;
pub(crate) mod change;
pub(crate) mod conflict;
mod constraint;
pub(crate) mod constructor;
pub(crate) mod copy;
pub(crate) mod cursor;
pub(crate) mod declare;
pub(crate) mod define;
mod depth;
pub(crate) mod parse;
pub(crate) mod settings;
pub(crate) mod show;
pub(crate) mod travel;
pub(crate) mod values;
pub(crate) mod window;

/// One statement of a query text.
#[derive(Clone, Debug)]
pub(crate) struct Parsed {
    /// As written, without the semicolon.
    pub(crate) text: String,
    /// What it says.
    pub(crate) sentence: Sentence,
}

/// What a statement says.
#[derive(Clone, Debug)]
pub(crate) enum Sentence {
    /// Nothing but white space or comments.
    Empty,
    /// SELECT, VALUES, TABLE, WITH.
    Query(WindowedQuery),
    /// `CREATE [OR REPLACE] STREAM | TABLE name [(columns)] [WITH (…)]`.
    CreateRelation(CreateRelation),
    /// `ALTER STREAM | TABLE name …`.
    Alter(Alter),
    /// `CREATE STREAM | TABLE | MATERIALIZED VIEW name [WITH (…)] AS SELECT …`.
    CreateAsSelect(CreateAsSelect),
    /// `INSERT INTO name [(columns)] VALUES … | SELECT …`.
    Insert(Insert),
    /// `INSERT INTO name [(columns)] VALUES …` of literals and parameters only.
    InsertValues(values::InsertValues),
    /// `UPDATE name SET … [FROM …] [WHERE …]`, `DELETE FROM name [USING …] [WHERE …]`.
    Change(Box<Change>),
    /// `DROP STREAM | TABLE [IF EXISTS] name, … [DELETE TOPIC]`.
    Drop(Drop),
    /// `SHOW TOPICS` and its like.
    ShowList(ShowList),
    /// `SHOW name`, `SHOW ALL`.
    ShowSetting(Option<String>),
    /// `DESCRIBE name`.
    Describe(Name),
    /// `EXPLAIN [ANALYZE] query`.
    Explain(Explain),
    /// `TERMINATE name | ALL`; `None` is ALL.
    Terminate(Option<Name>),
    /// `CHECKPOINT`.
    Checkpoint,
    /// `CALL aquifer.abort_transaction('transactional id' | $1)`; `None` is the parameter.
    AbortTransaction(Option<String>),
    /// `VACUUM [name]`.
    Vacuum(Option<VacuumTarget>),
    /// `SET name = value`.
    Set(SetSetting),
    /// `RESET name | ALL`; `None` is ALL.
    Reset(Option<String>),
    /// `BEGIN`, `START TRANSACTION`.
    Begin,
    /// `COMMIT`, `END`.
    Commit,
    /// `ROLLBACK`, `ABORT`.
    Rollback,
    /// `SAVEPOINT name`.
    Savepoint(String),
    /// `RELEASE [SAVEPOINT] name`.
    Release(String),
    /// `ROLLBACK TO [SAVEPOINT] name`.
    RollbackTo(String),
    /// `COPY name [(columns)] FROM STDIN`.
    CopyFrom(copy::CopyFrom),
    /// `COPY name [(columns)] | (query) TO STDOUT`.
    CopyOut(copy::CopyOut),
    /// `DISCARD ALL` and its like: the session as new.
    Discard,
    /// `DECLARE name CURSOR FOR query`.
    Declare(Box<declare::Declare>),
    /// `FETCH … FROM name`, `MOVE … IN name`.
    Fetch(declare::Fetch),
    /// `CLOSE name | ALL`; `None` is ALL.
    Close(Option<Name>),
    /// `DEALLOCATE name | ALL`: the protocol's prepared statements.
    Deallocate(Option<String>),
}

/// What `VACUUM` is told to look after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VacuumTarget {
    /// A relation's name or a topic's.
    pub(crate) name: Name,
    /// `topics."name"`: a topic's for certain.
    pub(crate) is_topic: bool,
}

/// A relation's name as written, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    /// Folded to lower case unless quoted.
    pub(crate) value: String,
    /// Character of the statement, from 1.
    pub(crate) position: usize,
}

/// Whether a SELECT goes on, and when it shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Emit {
    /// `EMIT CHANGES`: every change.
    Changes,
    /// `EMIT FINAL`: a window's row once, when it is closed.
    Final,
}

/// `WINDOW …` behind a source: which windows each of its records belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WindowSpec {
    /// Windows side by side.
    Tumbling {
        /// Length.
        size_ms: i64,
        /// How late a record may be; `None`: [`DEFAULT_GRACE_MS`].
        grace_ms: Option<i64>,
    },
    /// Windows that overlap.
    Hopping {
        /// Length.
        size_ms: i64,
        /// From the start of one to the start of the next.
        advance_ms: i64,
        /// How late a record may be.
        grace_ms: Option<i64>,
    },
    /// Windows that end after a pause.
    Session {
        /// The pause.
        gap_ms: i64,
        /// How late a record may be.
        grace_ms: Option<i64>,
    },
}

/// Grace when none is said, as ksqlDB has it.
pub(crate) const DEFAULT_GRACE_MS: i64 = 24 * 60 * 60 * 1000;

/// A source with a window in a query. In the query's syntax tree its relation bears the name `marker`, which no
/// identifier can be by accident; the planner resolves it to the windowed source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WindowedSource {
    /// What stands in the tree.
    pub(crate) marker: String,
    /// The relation meant.
    pub(crate) source: Name,
    /// Its windows.
    pub(crate) spec: WindowSpec,
}

/// A relation as of a time. In the query's syntax tree it bears the name `marker`, as a [`WindowedSource`] does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Travel {
    /// What stands in the tree.
    pub(crate) marker: String,
    /// The relation meant, without its schema.
    pub(crate) source: Name,
    /// The time, as written.
    pub(crate) at: Box<ast::Expr>,
    /// Where FOR stands: character of the statement, from 1.
    pub(crate) position: usize,
}

/// A query with what sqlparser does not know cut out.
#[derive(Clone, Debug)]
pub(crate) struct WindowedQuery {
    /// The rest, with [`WindowedSource::marker`] as relation where a window stood; `windowstart` and `windowend` are
    /// in GROUP BY and in the select list of a grouped SELECT over it.
    pub(crate) query: Box<ast::Query>,
    /// The windows, in the order they were written.
    pub(crate) windows: Vec<WindowedSource>,
    /// The relations read as of a time, in the order they were written.
    pub(crate) travels: Vec<Travel>,
    /// EMIT behind the outermost SELECT.
    pub(crate) emit: Option<Emit>,
    /// WITH (…) behind EMIT.
    pub(crate) with: Vec<Property>,
    /// As written.
    pub(crate) text: String,
    /// Of the whole text, for errors.
    pub(crate) places: Arc<cursor::Places>,
}

/// What kind of relation; stored in definitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RelationKind {
    /// Inserts.
    Stream,
    /// Latest value per key.
    Table,
}

impl RelationKind {
    /// As in an error: `stream`, `table`.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Table => "table",
        }
    }
}

/// One `name = value` of WITH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Property {
    /// In lower case.
    pub(crate) name: String,
    /// As text, whatever it was written as.
    pub(crate) value: String,
    /// Character of the statement, from 1.
    pub(crate) position: usize,
}

/// One column of a declaration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ColumnDefinition {
    /// Folded to lower case unless quoted.
    pub(crate) name: Name,
    /// In its own case.
    pub(crate) field: String,
    /// Its type.
    pub(crate) kind: ColumnType,
    /// What was said behind the type.
    pub(crate) mark: Option<ColumnMark>,
    /// NOT NULL was said.
    pub(crate) not_null: bool,
    /// DEFAULT's expression as written, and where it stands.
    pub(crate) default: Option<(String, usize)>,
}

/// `[CONSTRAINT name] CHECK (condition)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CheckDefinition {
    /// As said.
    pub(crate) name: Option<String>,
    /// The column it was said behind.
    pub(crate) column: Option<String>,
    /// As written.
    pub(crate) expression: String,
    /// Character of the statement, from 1.
    pub(crate) position: usize,
}

/// What makes a column special.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ColumnMark {
    /// KEY.
    Key,
    /// PRIMARY KEY.
    PrimaryKey,
    /// HEADERS.
    Headers,
}

/// `CREATE [OR REPLACE] STREAM | TABLE name [(columns)] [WITH (…)]`.
#[derive(Clone, Debug)]
pub(crate) struct CreateRelation {
    /// Stream or table.
    pub(crate) kind: RelationKind,
    /// Its name.
    pub(crate) name: Name,
    /// IF NOT EXISTS.
    pub(crate) if_not_exists: bool,
    /// OR REPLACE.
    pub(crate) replaces: bool,
    /// Its columns; `None`: those that its topic's records show.
    pub(crate) columns: Option<Vec<ColumnDefinition>>,
    /// Conditions on its rows.
    pub(crate) checks: Vec<CheckDefinition>,
    /// Its properties.
    pub(crate) with: Vec<Property>,
    /// As written.
    pub(crate) text: String,
}

/// `ALTER STREAM | TABLE [IF EXISTS] name change, …`.
#[derive(Clone, Debug)]
pub(crate) struct Alter {
    /// The kind said.
    pub(crate) kind: RelationKind,
    /// Whose declaration changes.
    pub(crate) name: Name,
    /// IF EXISTS.
    pub(crate) if_exists: bool,
    /// What changes, in this order.
    pub(crate) changes: Vec<AlterChange>,
}

/// One change of ALTER.
#[derive(Clone, Debug)]
pub(crate) enum AlterChange {
    /// `ADD [COLUMN] [IF NOT EXISTS] name type`.
    AddColumn {
        /// The column.
        column: ColumnDefinition,
        /// IF NOT EXISTS.
        if_not_exists: bool,
    },
    /// `DROP [COLUMN] [IF EXISTS] name`.
    DropColumn {
        /// The column.
        name: Name,
        /// IF EXISTS.
        if_exists: bool,
    },
    /// `ALTER [COLUMN] name [SET DATA] TYPE type`.
    ChangeType {
        /// The column.
        name: Name,
        /// Its new type.
        kind: ColumnType,
    },
    /// `RENAME [COLUMN] from TO to`.
    RenameColumn {
        /// What it is called.
        from: Name,
        /// What it is to be called.
        to: Name,
    },
    /// `RENAME TO name`.
    RenameTo(Name),
}

/// `CREATE STREAM | TABLE name [WITH (…)] AS SELECT …`.
#[derive(Clone, Debug)]
pub(crate) struct CreateAsSelect {
    /// Stream or table.
    pub(crate) kind: RelationKind,
    /// Its name, also the query's.
    pub(crate) name: Name,
    /// IF NOT EXISTS.
    pub(crate) if_not_exists: bool,
    /// Its properties.
    pub(crate) with: Vec<Property>,
    /// What it is to hold.
    pub(crate) query: WindowedQuery,
    /// As written.
    pub(crate) text: String,
}

/// `INSERT INTO name [(columns)] query`.
#[derive(Clone, Debug)]
pub(crate) struct Insert {
    /// Where to.
    pub(crate) name: Name,
    /// Folded names with their places; empty: all, in declared order.
    pub(crate) columns: Vec<Name>,
    /// What.
    pub(crate) source: WindowedQuery,
    /// RETURNING.
    pub(crate) returning: Option<Returning>,
    /// ON CONFLICT.
    pub(crate) conflict: Option<Box<conflict::Conflict>>,
}

/// `UPDATE name SET … [WHERE …]`, `DELETE FROM name [WHERE …]`.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// Whose rows.
    pub(crate) name: Name,
    /// The same as written, with its alias.
    pub(crate) from: ast::TableWithJoins,
    /// FROM, USING: what the rows stand beside; of several that one row stands beside, any one counts.
    pub(crate) others: Vec<ast::TableWithJoins>,
    /// SET; `None` deletes.
    pub(crate) assignments: Option<Vec<(Name, ast::Expr)>>,
    /// WHERE.
    pub(crate) selection: Option<ast::Expr>,
    /// RETURNING.
    pub(crate) returning: Option<Returning>,
    /// As written.
    pub(crate) text: String,
    /// Of the whole text, for errors.
    pub(crate) places: Arc<cursor::Places>,
}

/// `RETURNING *, expression, …`: what is answered of the rows written.
#[derive(Clone, Debug)]
pub(crate) struct Returning {
    /// As in a select list.
    pub(crate) items: Vec<ast::SelectItem>,
    /// Of the whole text, for errors.
    pub(crate) places: Arc<cursor::Places>,
}

/// `DROP STREAM | TABLE [IF EXISTS] names [DELETE TOPIC]`.
#[derive(Clone, Debug)]
pub(crate) struct Drop {
    /// The kind said.
    pub(crate) kind: RelationKind,
    /// What goes.
    pub(crate) names: Vec<Name>,
    /// IF EXISTS.
    pub(crate) if_exists: bool,
    /// DELETE TOPIC.
    pub(crate) delete_topic: bool,
}

/// `SHOW …` of what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShowList {
    /// `SHOW TOPICS`; `all` shows our own too.
    Topics {
        /// SHOW ALL TOPICS.
        all: bool,
    },
    /// `SHOW STREAMS`.
    Streams,
    /// `SHOW TABLES`.
    Tables,
    /// `SHOW QUERIES`.
    Queries,
}

/// `EXPLAIN [ANALYZE] [VERBOSE] query`.
#[derive(Clone, Debug)]
pub(crate) struct Explain {
    /// Run it, and say what it cost.
    pub(crate) analyze: bool,
    /// Say more.
    pub(crate) verbose: bool,
    /// What to explain.
    pub(crate) query: WindowedQuery,
}

/// `SET [SESSION | LOCAL] name = value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SetSetting {
    /// In lower case, dots kept.
    pub(crate) name: String,
    /// As text; `None` is DEFAULT.
    pub(crate) value: Option<String>,
    /// Until the block ends only.
    pub(crate) local: bool,
}
