//! `pg_catalog` and `information_schema`: what clients of Postgres ask about relations, answered from the catalog.
//!
//! Before planning, the session calls [`rewrite`] on each statement, and [`register`] on the context that plans it.
//! System tables are plain rows (`tables` lists them), computed from a [`CatalogView`] when a statement names them.

mod absent;
mod directory;
mod function;
mod functions;
mod information_schema;
mod kind;
mod node;
mod relations;
mod rewrite;
mod tables;
mod types;
mod view;

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{MemTable, SchemaProvider, TableProvider};
use datafusion::prelude::SessionContext;

use crate::error::{Error, Result, SqlState};
use directory::Directory;

pub use rewrite::rewrite;
pub use view::{CatalogColumn, CatalogRelation, CatalogSetting, CatalogView, RelationKind};

/// Registers the schemas `pg_catalog` and `information_schema` in the context's default catalog, and Postgres's system
/// functions. Tables are built when a statement names them; a context may be registered anew for every statement.
///
/// # Errors
/// XX000 if the context has no default catalog.
pub fn register(context: &SessionContext, view: &Arc<CatalogView>) -> Result<()> {
    let name = context.state().config_options().catalog.default_catalog.clone();
    let catalog = context
        .catalog(&name)
        .ok_or_else(|| Error::new(SqlState::InternalError, format!("there is no catalog \"{name}\"")))?;
    let directory = Arc::new(Directory::new(Arc::clone(view)));
    for schema in ["pg_catalog", "information_schema"] {
        catalog.register_schema(schema, Arc::new(SystemSchema { name: schema, directory: Arc::clone(&directory) }))?;
    }
    for function in functions::all(&directory) {
        context.register_udf(function);
    }
    Ok(())
}

/// A schema of system tables.
#[derive(Debug)]
struct SystemSchema {
    name: &'static str,
    directory: Arc<Directory>,
}

#[async_trait]
impl SchemaProvider for SystemSchema {
    fn table_names(&self) -> Vec<String> {
        let own = tables::SYSTEM_TABLES.iter().filter(|table| table.schema == self.name);
        own.map(|table| table.name.to_owned()).collect()
    }

    async fn table(&self, name: &str) -> datafusion::error::Result<Option<Arc<dyn TableProvider>>> {
        let Some(table) = tables::find(self.name, name) else { return Ok(None) };
        let rows = table.rows.map(|rows| rows(&self.directory)).unwrap_or_default();
        let batch = kind::batch_of(table.columns, &rows)?;
        Ok(Some(Arc::new(MemTable::try_new(batch.schema(), vec![vec![batch]])?)))
    }

    fn table_exist(&self, name: &str) -> bool {
        tables::find(self.name, name).is_some()
    }
}
