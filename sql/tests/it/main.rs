//! SQL against a storage of its own: statements in, rows as text out.

mod statements;
mod support;
