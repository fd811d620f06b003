//! Postgres's wire, in the simple protocol as psql speaks it: results are text.

use futures::TryStreamExt;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage, SimpleQueryRow, SimpleQueryStream};

use crate::failure::Result;

/// One connection.
pub(crate) struct Sql {
    client: Client,
}

impl Sql {
    /// Connects to `HOST:PORT`.
    pub(crate) async fn connect(address: &str) -> Result<Self> {
        let (host, port) = address.rsplit_once(':').ok_or("the address has no port")?;
        let mut config = Config::new();
        config.host(host).port(port.parse()?).user("benchmark").dbname("aquifer");
        let (client, connection) = config.connect(NoTls).await?;
        // Ends with the client; what failed, the client's own call tells.
        tokio::spawn(connection);
        Ok(Self { client })
    }

    /// Runs statements whose rows nobody wants.
    pub(crate) async fn execute(&self, sql: &str) -> Result<()> {
        Ok(self.client.batch_execute(sql).await.map_err(|error| told(sql, &error))?)
    }

    /// All rows of a query, as text.
    pub(crate) async fn rows(&self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        let messages = self.client.simple_query(sql).await.map_err(|error| told(sql, &error))?;
        let row = |row: &SimpleQueryRow| (0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect();
        Ok(messages
            .iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(found) => Some(row(found)),
                _ => None,
            })
            .collect())
    }

    /// What else tokio-postgres can do.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// The first column of a query's first row, if there is a row.
    pub(crate) async fn first(&self, sql: &str) -> Result<Option<String>> {
        let messages = self.client.simple_query(sql).await.map_err(|error| told(sql, &error))?;
        Ok(messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
            _ => None,
        }))
    }

    /// A number, the only result of a query.
    pub(crate) async fn number(&self, sql: &str) -> Result<u64> {
        let text = self.first(sql).await?.ok_or_else(|| format!("{sql}: no row"))?;
        Ok(text.parse().map_err(|_| format!("{sql}: '{text}' is no number"))?)
    }

    /// The first column of each row of a query that need not end.
    pub(crate) async fn follow(&self, sql: &str) -> Result<Follow> {
        let rows = self.client.simple_query_raw(sql).await.map_err(|error| told(sql, &error))?;
        Ok(Follow { sql: sql.to_owned(), rows: Box::pin(rows) })
    }
}

/// Rows as they come.
pub(crate) struct Follow {
    sql: String,
    rows: std::pin::Pin<Box<SimpleQueryStream>>,
}

impl Follow {
    /// The next row's first column; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<String>> {
        while let Some(message) = self.rows.try_next().await.map_err(|error| told(&self.sql, &error))? {
            if let SimpleQueryMessage::Row(row) = message {
                return Ok(Some(row.get(0).unwrap_or_default().to_owned()));
            }
        }
        Ok(None)
    }
}

/// A server's error with its statement: the message alone would not say which.
pub(crate) fn told(sql: &str, error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(error) => format!("{sql}: {} ({})", error.message(), error.code().code()),
        None => format!("{sql}: {error}"),
    }
}
