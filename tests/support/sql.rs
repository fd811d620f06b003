//! `Sql`: one connection to the Postgres port through tokio-postgres, with answers as text, as psql shows them.

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::node::Node;

/// One connection.
pub(crate) struct Sql {
    pub(crate) client: Client,
}

impl Sql {
    /// Connects as anybody.
    pub(crate) async fn connect(node: &Node) -> Self {
        let address = node.ports.postgres;
        let target = format!("host={} port={} user=tester dbname=aquifer", address.ip(), address.port());
        let (client, connection) = tokio_postgres::connect(&target, NoTls).await.expect("the Postgres port answers");
        // A killed node ends the connection with an error; the statement that waits for it says so.
        drop(tokio::spawn(connection));
        Self { client }
    }

    /// All rows of a query, as text.
    pub(crate) async fn rows(&self, query: &str) -> Vec<Vec<Option<String>>> {
        self.try_rows(query).await.unwrap_or_else(|error| panic!("{query}: {}", told(&error)))
    }

    /// The same, with its error.
    pub(crate) async fn try_rows(&self, query: &str) -> Result<Vec<Vec<Option<String>>>, tokio_postgres::Error> {
        let messages = self.client.simple_query(query).await?;
        Ok(messages
            .into_iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => {
                    Some((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect())
                }
                _ => None,
            })
            .collect())
    }

    /// All rows, each column as text, NULL as `∅`.
    pub(crate) async fn table(&self, query: &str) -> Vec<Vec<String>> {
        let null = || "∅".to_owned();
        self.rows(query)
            .await
            .into_iter()
            .map(|row| row.into_iter().map(|v| v.unwrap_or_else(null)).collect())
            .collect()
    }

    /// The one value of a query.
    pub(crate) async fn value(&self, query: &str) -> String {
        let mut rows = self.table(query).await;
        assert_eq!(rows.len(), 1, "{query} gives one row, not {rows:?}");
        rows.remove(0).remove(0)
    }

    /// A number.
    pub(crate) async fn number(&self, query: &str) -> i64 {
        let value = self.value(query).await;
        value.parse().unwrap_or_else(|_| panic!("{query} gives a number, not {value}"))
    }

    /// Statements without an answer.
    pub(crate) async fn run(&self, statements: &str) {
        self.client.batch_execute(statements).await.unwrap_or_else(|error| panic!("{statements}: {}", told(&error)));
    }

    /// A statement that must fail, and how it does.
    pub(crate) async fn refused(&self, statement: &str) -> Refusal {
        self.try_run(statement).await.expect("should be refused")
    }

    /// A statement that may fail, and how it does.
    pub(crate) async fn try_run(&self, statement: &str) -> Option<Refusal> {
        let error = self.try_rows(statement).await.err()?;
        let said = error.as_db_error().unwrap_or_else(|| panic!("{statement}: not an answer of SQL's: {error}"));
        let position = match said.position() {
            Some(tokio_postgres::error::ErrorPosition::Original(position)) => Some(*position),
            _ => None,
        };
        Some(Refusal {
            state: said.code().clone(),
            message: said.message().to_owned(),
            hint: said.hint().map(str::to_owned),
            position,
        })
    }
}

/// What an error tells a client.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) state: SqlState,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    pub(crate) position: Option<u32>,
}

fn told(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(said) => format!("{} {} (hint: {})", said.code().code(), said.message(), said.hint().unwrap_or("none")),
        None => error.to_string(),
    }
}
