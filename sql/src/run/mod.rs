//! Statements that end: rows and tags.
