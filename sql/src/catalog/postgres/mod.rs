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
mod sleep;
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
pub(crate) use types::by_name as type_oid;
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
    context.register_udf(sleep::pg_sleep());
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use arrow::datatypes::DataType;
    use arrow::util::pretty::pretty_format_batches;
    use datafusion::prelude::SessionConfig;
    use datafusion::sql::parser::Statement as DfStatement;
    use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    fn view() -> Arc<CatalogView> {
        let column = |name: &str, arrow, oid, not_null| CatalogColumn {
            name: name.into(),
            arrow,
            oid,
            type_modifier: -1,
            not_null,
            description: None,
        };
        let relation = |oid, name: &str, kind, columns, primary_key| CatalogRelation {
            oid,
            schema: "public".into(),
            name: name.into(),
            kind,
            columns,
            primary_key,
            definition: None,
            description: None,
        };
        let users = vec![column("user_id", DataType::Utf8, 25, true), column("region", DataType::Utf8, 25, false)];
        let views = vec![column("viewtime", DataType::Int64, 20, false), column("tags", DataType::Utf8, 1009, false)];
        Arc::new(CatalogView {
            relations: vec![
                relation(16_390, "page_views", RelationKind::Table, views.clone(), vec![]),
                relation(16_395, "users", RelationKind::Table, users, vec![0]),
                relation(16_407, "per_minute", RelationKind::Materialized, views, vec![]),
            ],
            settings: vec![],
            user: "bi".into(),
            database: "aquifer".into(),
            search_path: vec!["public".into()],
            version: "0.1.0".into(),
            backend_pid: 7,
        })
    }

    async fn shown(sql: &str) -> datafusion::error::Result<String> {
        let config = SessionConfig::new().with_default_catalog_and_schema("aquifer", "public");
        let context = SessionContext::new_with_config(config);
        register(&context, &view()).unwrap();
        let mut statement = Parser::parse_sql(&PostgreSqlDialect {}, sql)?.remove(0);
        rewrite(&mut statement);
        let plan = context.state().statement_to_plan(DfStatement::Statement(Box::new(statement))).await?;
        let batches = context.execute_logical_plan(plan).await?.collect().await?;
        Ok(pretty_format_batches(&batches)?.to_string())
    }

    #[tokio::test]
    async fn the_corpus() {
        let Ok(paths) = std::env::var("PG_CORPUS") else { return };
        let text: String = paths.split(':').map(|path| std::fs::read_to_string(path).unwrap()).collect();
        let mut seen: HashMap<String, usize> = HashMap::new();
        for block in text.split("\n-- [").skip(1) {
            let Some((head, rest)) = block.split_once('\n') else { continue };
            let sql: String = rest.lines().filter(|line| !line.starts_with("--")).collect::<Vec<_>>().join("\n");
            if !(sql.to_lowercase().starts_with("select") || sql.to_lowercase().starts_with("with")) {
                continue;
            }
            if let Err(error) = shown(&sql).await {
                let error = error.to_string().chars().take(300).collect::<String>();
                let count = seen.entry(error.clone()).or_default();
                *count += 1;
                if *count == 1 {
                    println!("=== {head}\n{}\n--> {error}", sql.chars().take(1500).collect::<String>());
                }
            }
        }
        println!("{seen:#?}");
    }
}
