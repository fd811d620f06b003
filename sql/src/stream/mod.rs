//! Continuous queries and push queries: SELECTs that go on.

mod define;
mod hold;
mod job;
mod position;
mod prepare;
mod push;
mod reader;
mod replay;
mod sink;
mod source;
mod supervisor;
mod tick;

pub(crate) use define::QueryDefinition;
pub(crate) use push::push;
pub(crate) use replay::ReplayFrom;
pub(crate) use supervisor::Supervisor;

/// A row of `aquifer.queries`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QueryStatus {
    /// The relation it writes.
    pub(crate) name: String,
    /// As written.
    pub(crate) statement: String,
    /// `running` or `error`.
    pub(crate) state: String,
    /// Why it ended by itself.
    pub(crate) error: Option<String>,
    /// Next offset per source partition: `0:120,1:98`.
    pub(crate) position: String,
    /// Records it has not read yet.
    pub(crate) lag_records: i64,
    /// First offset per source partition that is not removed for its sake: `0:120,1:98`.
    pub(crate) holds_back: String,
    /// When it was started, us.
    pub(crate) started_at_us: i64,
}
