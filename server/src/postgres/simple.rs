//! The simple protocol: a text of statements, run one after the other; the first error passes over the rest.

use std::sync::Arc;

use aquifer_sql::error::{Error, SqlState};
use aquifer_sql::session::{Outcome, Statement};
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::response::{CommandComplete, EmptyQueryResponse};

use super::connection::Connection;
use super::cursor::{Cursor, Interrupts};
use super::errors::Stop;
use super::meter;
use super::rows::{Format, describe};

impl Connection {
    /// Runs a query text and answers all but ReadyForQuery.
    pub(crate) async fn query(&mut self, text: &str) -> Result<(), Stop> {
        self.extended.forget_unnamed();
        let running = self.place.begin();
        let interrupts = self.interrupts(running.token.clone());
        let statements = self.worker.session().await.parse(text)?;
        if statements.is_empty() {
            self.wire.put(&PgWireBackendMessage::EmptyQueryResponse(EmptyQueryResponse::new()))?;
        }
        for statement in statements {
            self.statement(statement, &interrupts).await?;
        }
        Ok(())
    }

    async fn statement(&mut self, statement: Statement, interrupts: &Interrupts) -> Result<(), Stop> {
        let prepared = tokio::select! {
            biased;
            stop = interrupts.stop(&mut self.wire, false) => return Err(stop),
            prepared = self.worker.prepare(statement, Vec::new()) => prepared?,
        };
        if !prepared.parameters.is_empty() {
            return Err(Error::new(SqlState::UndefinedParameter, "there is no parameter $1")
                .with_hint("parameters need the extended protocol, which drivers speak when given values")
                .into());
        }
        let stop = interrupts.stop(&mut self.wire, false);
        match self.worker.execute(Arc::new(prepared), Vec::new(), stop).await?? {
            Outcome::Rows(rows) => {
                self.wire.put(&describe(&rows.columns, None))?;
                let format = Format::of(&[], rows.columns.len())?;
                let mut cursor = Cursor::start(rows, self.zone, self.worker.compute());
                let sent = cursor.send(&mut self.wire, &format, 0, interrupts).await?;
                self.complete(cursor.tag, Some(sent.rows)).await?;
            }
            Outcome::CopyOut(rows, format) => self.copy_out(rows, format, interrupts).await?,
            Outcome::CopyIn(copy) => self.copy_in(*copy, interrupts).await?,
            Outcome::Done(tag) => self.complete(&tag, None).await?,
            Outcome::Empty => self.wire.put(&PgWireBackendMessage::EmptyQueryResponse(EmptyQueryResponse::new()))?,
        }
        Ok(())
    }

    /// Notices, then the command's tag; those of results that count rows have the count behind them.
    pub(crate) async fn complete(&mut self, tag: &str, rows: Option<u64>) -> Result<(), Error> {
        meter::completed(tag);
        self.tell_notices().await?;
        let tag = match (tag, rows) {
            ("SHOW" | "EXPLAIN", _) | (_, None) => tag.to_owned(),
            (tag, Some(rows)) => format!("{tag} {rows}"),
        };
        self.wire.put(&PgWireBackendMessage::CommandComplete(CommandComplete::new(tag)))
    }
}
