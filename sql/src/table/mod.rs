//! The bridge to DataFusion: relations and topics as tables it can scan, all of one statement through one snapshot.

pub(crate) mod exec;
mod known;
mod lanes;
pub(crate) mod latest;
pub(crate) mod lookup;
pub(crate) mod past;
pub(crate) mod position;
pub(crate) mod predicate;
pub(crate) mod provider;
mod prune;
pub(crate) mod reader;
pub(crate) mod returned;
pub(crate) mod rows;
pub(crate) mod source;
pub(crate) mod window;

pub(crate) use provider::{Scope, SourceTable};
pub(crate) use source::{Source, SourceColumn};
