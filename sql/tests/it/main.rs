//! SQL against a storage of its own: statements in, rows as text out.

mod continuous;
mod node;
mod oracle;
mod queries;
mod statements;
mod support;
