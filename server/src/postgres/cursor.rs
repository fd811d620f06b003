//! `Cursor`: a result on its way to the client. A task of its own computes, one batch ahead at most; the connection
//! encodes and sends, and meanwhile hears a cancel, a shutdown and a client that went away.

use std::time::Duration;

use aquifer_sql::error::{Error, SqlState};
use aquifer_sql::session;
use aquifer_sql::session::Column;
use arrow::array::timezone::Tz;
use arrow::record_batch::RecordBatch;
use futures::StreamExt;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::errors::{Stop, canceled, shutting_down};
use super::meter;
use super::rows::{Format, Rows};
use super::wire::{FLUSH_BYTES, Wire};

/// Batches computed before they are asked for.
const BATCHES_AHEAD_MAX: usize = 1;
/// How long rows of a result with an end may wait for more of them before they are sent.
const FLUSH_IDLE: Duration = Duration::from_millis(20);

/// What ends a statement before its time.
#[derive(Clone, Debug)]
pub(crate) struct Interrupts {
    /// The client asked for it.
    pub(crate) cancel: CancellationToken,
    /// The node goes down; what has an end may reach it.
    pub(crate) shutdown: CancellationToken,
    /// The node waits no longer.
    pub(crate) deadline: CancellationToken,
}

impl Interrupts {
    /// Returns when the statement must end, and why. `live` results have no end to wait for.
    pub(crate) async fn stop(&self, wire: &mut Wire, live: bool) -> Stop {
        let shutdown = if live { &self.shutdown } else { &self.deadline };
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Stop::Statement(canceled()),
            () = shutdown.cancelled() => Stop::Session(shutting_down()),
            () = wire.gone() => Stop::Gone,
        }
    }
}

/// A result on its way.
#[derive(Debug)]
pub(crate) struct Cursor {
    pub(crate) columns: Vec<Column>,
    pub(crate) tag: &'static str,
    live: bool,
    zone: Tz,
    /// `None` is the end; a channel that closes without it is a task that broke down.
    batches: mpsc::Receiver<Result<Option<RecordBatch>, Error>>,
    ended: bool,
    /// What was begun when a limit of rows was reached.
    rest: Option<RecordBatch>,
    _producer: AbortOnDropHandle<()>,
}

/// How far sending came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) rows: u64,
    /// Nothing is left.
    pub(crate) complete: bool,
}

impl Cursor {
    /// Starts to compute.
    pub(crate) fn start(rows: session::Rows, zone: Tz, compute: &Handle) -> Self {
        let session::Rows { columns, mut stream, live, tag } = rows;
        let (sender, batches) = mpsc::channel(BATCHES_AHEAD_MAX);
        let producer = compute.spawn(async move {
            loop {
                let batch = stream.next().await.transpose().map_err(Error::from);
                let last = !matches!(batch, Ok(Some(_)));
                if sender.send(batch).await.is_err() || last {
                    break;
                }
            }
        });
        Self {
            columns,
            tag,
            live,
            zone,
            batches,
            ended: false,
            rest: None,
            _producer: AbortOnDropHandle::new(producer),
        }
    }

    /// Sends rows, `rows_max` at the most (0: all). What waits in the wire is flushed whenever no batch is at hand, so
    /// that a live result shows each change at once.
    ///
    /// # Errors
    /// What the query says, or what ended it.
    pub(crate) async fn send(
        &mut self,
        wire: &mut Wire,
        format: &Format,
        rows_max: usize,
        interrupts: &Interrupts,
    ) -> Result<Sent, Stop> {
        let mut rows = 0;
        while let Some(batch) = self.next(wire, interrupts).await? {
            let wanted = if rows_max == 0 { batch.num_rows() } else { batch.num_rows().min(rows_max - rows) };
            let encoder = Rows::of(&batch, &self.columns, format, self.zone)?;
            for row in 0..wanted {
                encoder.write(row, &mut wire.outgoing)?;
                if wire.outgoing.len() >= FLUSH_BYTES {
                    flush(wire, interrupts, self.live).await?;
                }
            }
            rows += wanted;
            meter::sent(wanted);
            if wanted < batch.num_rows() {
                self.rest = Some(batch.slice(wanted, batch.num_rows() - wanted));
            }
            if rows_max != 0 && rows == rows_max {
                return Ok(Sent { rows: rows as u64, complete: false });
            }
        }
        Ok(Sent { rows: rows as u64, complete: true })
    }

    async fn next(&mut self, wire: &mut Wire, interrupts: &Interrupts) -> Result<Option<RecordBatch>, Stop> {
        if let Some(rest) = self.rest.take() {
            return Ok(Some(rest));
        }
        if self.ended {
            return Ok(None);
        }
        let received = match self.batches.try_recv() {
            Ok(received) => Some(received),
            Err(TryRecvError::Disconnected) => None,
            Err(TryRecvError::Empty) => self.wait(wire, interrupts).await?,
        };
        let batch = received.unwrap_or_else(|| {
            Err(Error::new(SqlState::InternalError, "the query broke down").with_hint("the server's log says where"))
        })?;
        self.ended = batch.is_none();
        Ok(batch)
    }

    async fn wait(
        &mut self,
        wire: &mut Wire,
        interrupts: &Interrupts,
    ) -> Result<Option<Result<Option<RecordBatch>, Error>>, Stop> {
        if self.live {
            flush(wire, interrupts, true).await?;
        }
        loop {
            tokio::select! {
                biased;
                stop = interrupts.stop(wire, self.live) => return Err(stop),
                received = self.batches.recv() => return Ok(received),
                () = tokio::time::sleep(FLUSH_IDLE), if !wire.outgoing.is_empty() => {}
            }
            flush(wire, interrupts, self.live).await?;
        }
    }
}

/// Flushes, unless the statement must end before the client has read.
pub(crate) async fn flush(wire: &mut Wire, interrupts: &Interrupts, live: bool) -> Result<(), Stop> {
    let shutdown = if live { &interrupts.shutdown } else { &interrupts.deadline };
    tokio::select! {
        biased;
        () = interrupts.cancel.cancelled() => Err(Stop::Statement(canceled())),
        () = shutdown.cancelled() => Err(Stop::Session(shutting_down())),
        flushed = wire.flush() => Ok(flushed?),
    }
}
