//! COPY on the wire, in either protocol: rows out as lines, and the client's data in, taken where statements compute. A
//! socket is read no faster than its data is taken.

use aquifer_sql::error::{Error, Result, SqlState};
use aquifer_sql::session::{CopyFormat, CopyIn, Outcome, Rows};
use bytes::{Bytes, BytesMut};
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::copy::{CopyDone, CopyInResponse};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::connection::Connection;
use super::cursor::{Cursor, Interrupts, flush};
use super::errors::Stop;
use super::frame::{Framed, Request};
use super::rows::{Format, copy_out};
use super::wire::Heard;

/// Bytes that are handed over at once; drivers send much smaller messages.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks that wait while one is taken.
const CHUNKS_AHEAD_MAX: usize = 1;

/// What a message of the client means for its COPY.
enum Heeded {
    Data(Bytes),
    Done,
    /// Nothing: Flush and Sync, which drivers send by habit.
    Passed,
}

impl Connection {
    /// `COPY … TO STDOUT`.
    pub(crate) async fn copy_out(
        &mut self,
        rows: Rows,
        format: CopyFormat,
        interrupts: &Interrupts,
    ) -> Result<(), Stop> {
        copy_out(&rows.columns, &format, &mut self.wire.outgoing)?;
        let mut cursor = Cursor::start(rows, self.zone, self.worker.compute());
        let sent = cursor.send(&mut self.wire, &Format::Copy(format), 0, interrupts).await?;
        self.wire.put(&PgWireBackendMessage::CopyDone(CopyDone::new()))?;
        self.complete(cursor.tag, Some(sent.rows)).await?;
        Ok(())
    }

    /// `COPY … FROM STDIN`: nothing of it is there unless all of it is.
    pub(crate) async fn copy_in(&mut self, copy: CopyIn, interrupts: &Interrupts) -> Result<(), Stop> {
        let columns = i16::try_from(copy.columns()).unwrap_or(i16::MAX);
        let opening = CopyInResponse::new(0, columns, vec![0; copy.columns()]);
        self.wire.put(&PgWireBackendMessage::CopyInResponse(opening))?;
        flush(&mut self.wire, interrupts, false).await?;
        let mut intake = Intake::start(copy, self.worker.compute());
        let mut chunk = BytesMut::new();
        loop {
            match self.heed(&mut intake, interrupts).await? {
                Heeded::Data(bytes) => {
                    chunk.extend_from_slice(&bytes);
                    if chunk.len() >= CHUNK_BYTES {
                        let whole = chunk.split().freeze();
                        self.hand_over(&mut intake, whole, interrupts).await?;
                    }
                }
                Heeded::Done => break,
                Heeded::Passed => {}
            }
        }
        self.hand_over(&mut intake, chunk.freeze(), interrupts).await?;
        let copy = tokio::select! {
            biased;
            stop = interrupts.stop(&mut self.wire, false) => return Err(stop),
            copy = intake.end() => copy?,
        };
        let stop = interrupts.stop(&mut self.wire, false);
        match self.worker.end_copy(copy, stop).await?? {
            Outcome::Done(tag) => Ok(self.complete(&tag, None).await?),
            _ => Err(Error::new(SqlState::InternalError, "a COPY that did not end").into()),
        }
    }

    /// The client's next message; an error of what has been taken comes before it.
    async fn heed(&mut self, intake: &mut Intake, interrupts: &Interrupts) -> Result<Heeded, Stop> {
        let heard = match self.wire.request_at_hand() {
            Some(heard) => heard,
            None => tokio::select! {
                biased;
                () = interrupts.cancel.cancelled() => return Err(Stop::Statement(super::errors::canceled())),
                () = interrupts.deadline.cancelled() => return Err(Stop::Session(super::errors::shutting_down())),
                stopped = intake.stopped() => return Err(stopped.into()),
                heard = self.wire.request() => heard,
            },
        };
        match heard {
            Heard::End => Err(Stop::Gone),
            Heard::Garbage(error) => Err(Stop::Session(error)),
            Heard::Frame(Framed { request, .. }) => match request? {
                Request::CopyData(bytes) => Ok(Heeded::Data(bytes)),
                Request::CopyDone => Ok(Heeded::Done),
                Request::Flush | Request::Sync => Ok(Heeded::Passed),
                Request::Terminate => Err(Stop::Gone),
                Request::CopyFail(reason) => {
                    let message = format!("COPY from stdin failed: {reason}");
                    Err(Error::new(SqlState::QueryCanceled, message).into())
                }
                _ => Err(Error::new(SqlState::ProtocolViolation, "unexpected message during COPY from stdin")
                    .with_hint("end the copy with CopyDone or CopyFail first")
                    .into()),
            },
        }
    }

    /// Waits until there is room for more.
    async fn hand_over(&mut self, intake: &mut Intake, chunk: Bytes, interrupts: &Interrupts) -> Result<(), Stop> {
        if chunk.is_empty() {
            return Ok(());
        }
        let sent = tokio::select! {
            biased;
            stop = interrupts.stop(&mut self.wire, false) => return Err(stop),
            sent = intake.chunks.send(chunk) => sent,
        };
        match sent {
            Ok(()) => Ok(()),
            Err(_) => Err(intake.stopped().await.into()),
        }
    }
}

/// A COPY that takes its data where statements compute; dropped, it has written nothing.
struct Intake {
    chunks: mpsc::Sender<Bytes>,
    taker: AbortOnDropHandle<Result<CopyIn>>,
    deadline: Option<tokio::time::Instant>,
}

impl Intake {
    fn start(mut copy: CopyIn, compute: &Handle) -> Self {
        let (chunks, mut waiting) = mpsc::channel::<Bytes>(CHUNKS_AHEAD_MAX);
        let deadline = copy.deadline();
        let taker = compute.spawn(async move {
            while let Some(chunk) = waiting.recv().await {
                copy.write(&chunk).await?;
            }
            Ok(copy)
        });
        Self { chunks, taker: AbortOnDropHandle::new(taker), deadline }
    }

    /// Why no more is taken, once that is so; also that its time is up.
    async fn stopped(&mut self) -> Error {
        let expired = async {
            match self.deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            taken = &mut self.taker => match taken {
                Ok(Err(error)) => error,
                Ok(Ok(_)) | Err(_) => broken(),
            },
            () = expired => Error::new(SqlState::QueryCanceled, "canceling statement due to statement timeout")
                .with_hint("raise statement_timeout, or copy less"),
        }
    }

    /// The copy, when all that was handed over has been taken.
    async fn end(self) -> Result<CopyIn> {
        drop(self.chunks);
        self.taker.await.unwrap_or_else(|_| Err(broken()))
    }
}

fn broken() -> Error {
    Error::new(SqlState::InternalError, "the COPY broke down")
        .with_hint("the server's log says where; please report it")
}
