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

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{MemTable, SchemaProvider, Session, TableProvider};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
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
        if table.name == "pg_stat_activity" {
            return Ok(Some(Arc::new(Live { table, directory: Arc::clone(&self.directory) })));
        }
        let rows = table.rows.map(|rows| rows(&self.directory)).unwrap_or_default();
        let batch = kind::batch_of(table.columns, &rows)?;
        Ok(Some(Arc::new(MemTable::try_new(batch.schema(), vec![vec![batch]])?)))
    }

    fn table_exist(&self, name: &str) -> bool {
        tables::find(self.name, name).is_some()
    }
}

/// A system table whose rows change without the catalog: a prepared statement sees them as they are when it runs.
#[derive(Debug)]
struct Live {
    table: &'static tables::SystemTable,
    directory: Arc<Directory>,
}

#[async_trait]
impl TableProvider for Live {
    fn schema(&self) -> SchemaRef {
        kind::schema_of(self.table.columns)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> datafusion::error::Result<Arc<dyn ExecutionPlan>> {
        let rows = self.table.rows.map(|rows| rows(&self.directory)).unwrap_or_default();
        let batch = kind::batch_of(self.table.columns, &rows)?;
        Ok(MemorySourceConfig::try_new_exec(&[vec![batch]], self.schema(), projection.cloned())?)
    }
}

#[cfg(test)]
mod tests {
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
            sessions: Arc::default(),
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

    /// The rows of a result, a line each, columns separated by `|`.
    async fn lines(sql: &str) -> Vec<String> {
        let table = shown(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let rows = table.lines().filter(|line| line.starts_with('|')).skip(1);
        rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>().join("|")).collect()
    }

    #[tokio::test]
    async fn relations_are_listed_with_their_kind_and_owner() {
        let sql = "SELECT n.nspname as \"Schema\", c.relname as \"Name\", CASE c.relkind WHEN 'r' THEN 'table' \
            WHEN 'm' THEN 'materialized view' END as \"Type\", pg_catalog.pg_get_userbyid(c.relowner) as \"Owner\" \
            FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
            WHERE c.relkind IN ('r','p','v','m','S','f','') AND n.nspname <> 'pg_catalog' \
            AND n.nspname !~ '^pg_toast' AND n.nspname <> 'information_schema' \
            AND pg_catalog.pg_table_is_visible(c.oid) ORDER BY 1,2";
        let wanted = ["public|page_views|table|bi", "public|per_minute|materialized view|bi", "public|users|table|bi"];
        assert_eq!(lines(sql).await, wanted);
    }

    #[tokio::test]
    async fn correlated_subqueries_become_joins_or_null() {
        let sql = "SELECT a.attname, (SELECT pg_catalog.pg_get_expr(d.adbin, d.adrelid, true) \
            FROM pg_catalog.pg_attrdef d WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum AND a.atthasdef), \
            (SELECT c.collname FROM pg_catalog.pg_collation c, pg_catalog.pg_type t WHERE c.oid = a.attcollation \
            AND t.oid = a.atttypid AND a.attcollation <> t.typcollation) AS attcollation \
            FROM pg_catalog.pg_attribute a WHERE a.attrelid = '16395' AND a.attnum > 0 ORDER BY a.attnum";
        assert_eq!(lines(sql).await, ["user_id||", "region||"]);
    }

    #[tokio::test]
    async fn arrays_of_subqueries_are_empty_where_there_is_nothing() {
        let sql = "SELECT r.rolname, ARRAY(SELECT b.rolname FROM pg_catalog.pg_auth_members m \
            JOIN pg_catalog.pg_roles b ON (m.roleid = b.oid) WHERE m.member = r.oid) as memberof \
            FROM pg_catalog.pg_roles r WHERE r.rolname !~ '^pg_'";
        assert_eq!(lines(sql).await, ["bi|[]"]);
        let names = "SELECT array_to_string(ARRAY(SELECT relname FROM pg_class WHERE relkind = 'm' ORDER BY 1), ',')";
        assert_eq!(lines(names).await, ["per_minute"]);
    }

    #[tokio::test]
    async fn names_and_oids_turn_into_each_other() {
        assert_eq!(lines("SELECT 'users'::regclass").await, ["users"]);
        assert_eq!(lines("SELECT 'public.users'::regclass::oid").await, ["16395"]);
        assert_eq!(
            lines("SELECT c.oid::pg_catalog.regclass FROM pg_class c WHERE c.oid = 'users'::regclass").await,
            ["users"]
        );
        assert_eq!(lines("SELECT 20::regtype::text, 'text'::regtype::oid").await, ["bigint|25"]);
        assert_eq!(lines("SELECT to_regclass('nope') IS NULL").await, ["true"]);
    }

    #[tokio::test]
    async fn a_primary_key_is_an_index_and_a_constraint() {
        let sql = "SELECT c2.relname, i.indisprimary, pg_catalog.pg_get_indexdef(i.indexrelid, 0, true), \
            pg_catalog.pg_get_constraintdef(con.oid, true), contype FROM pg_catalog.pg_class c, \
            pg_catalog.pg_class c2, pg_catalog.pg_index i LEFT JOIN pg_catalog.pg_constraint con \
            ON (conrelid = i.indrelid AND conindid = i.indexrelid AND contype IN ('p','u','x')) \
            WHERE c.oid = '16395' AND c.oid = i.indrelid AND i.indexrelid = c2.oid";
        let wanted = "users_pkey|true|CREATE UNIQUE INDEX users_pkey ON public.users USING btree (user_id)|PRIMARY KEY (user_id)|p";
        assert_eq!(lines(sql).await, [wanted]);
    }

    #[tokio::test]
    async fn the_standards_schema_has_columns_with_their_types() {
        let sql = "SELECT column_name, data_type, is_nullable, udt_name FROM information_schema.columns \
            WHERE table_name = 'page_views' ORDER BY ordinal_position";
        assert_eq!(lines(sql).await, ["viewtime|bigint|YES|int8", "tags|ARRAY|YES|_text"]);
    }

    #[tokio::test]
    async fn patterns_escape_with_any_sign_and_bytes_are_read_as_hex() {
        let sql = "SELECT nspname FROM pg_namespace WHERE nspname NOT LIKE 'pg/_' || '%' ESCAPE '/' \
            AND nspname <> 'information_schema' ORDER BY 1";
        assert_eq!(lines(sql).await, ["aquifer", "public", "topics"]);
        assert_eq!(lines("SELECT '\\x00ff'::bytea").await, ["00ff"]);
    }

    #[tokio::test]
    async fn the_session_says_who_and_where_it_is() {
        let sql = "SELECT current_schema, current_user, pg_catalog.current_database(), pg_backend_pid(), \
            'public' = ANY(current_schemas(true))";
        assert_eq!(lines(sql).await, ["public|bi|aquifer|7|true"]);
    }
}
