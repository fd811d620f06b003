//! `Wire`: one client's socket. What goes out waits in one buffer until it is flushed; what comes in is read whenever
//! somebody waits, so that a client that went away is noticed while its statement runs.

use std::future::pending;
use std::io;

use aquifer_sql::error::{Error, Result, SqlState};
use bytes::BytesMut;
use pgwire::messages::PgWireBackendMessage;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::frame::{self, Framed, Opening};

/// Bytes that wait to go out before a sender must flush.
pub(crate) const FLUSH_BYTES: usize = 64 << 10;
/// Bytes of later messages that are read while a statement runs; a client that sends more waits.
const AHEAD_BYTES_MAX: usize = 64 << 10;
/// Room for what is read at once.
const READ_BYTES: usize = 16 << 10;
/// Bytes the buffers keep once a large message has passed.
const KEPT_BYTES_MAX: usize = 256 << 10;

/// What reading gave.
#[derive(Debug)]
pub(crate) enum Heard<T> {
    /// A frame.
    Frame(T),
    /// The client is gone.
    End,
    /// Bytes that are no frame.
    Garbage(Error),
}

/// One client's socket.
#[derive(Debug)]
pub(crate) struct Wire {
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
    incoming: BytesMut,
    /// What waits to go out; whole messages, written with [`Wire::put`] or in place.
    pub(crate) outgoing: BytesMut,
    message_bytes_max: usize,
}

/// Writes a message behind others.
///
/// # Errors
/// 54000 where it is larger than the protocol can say.
pub(crate) fn encoded(message: &PgWireBackendMessage, out: &mut BytesMut) -> Result<(), Error> {
    message.encode(out).map_err(|error| {
        Error::new(SqlState::ProgramLimitExceeded, format!("a message is too large: {error}"))
            .with_hint("select less at once")
    })
}

impl Wire {
    pub(crate) fn new(socket: TcpStream, message_bytes_max: usize) -> Self {
        let (read, write) = socket.into_split();
        Self { read, write, incoming: BytesMut::new(), outgoing: BytesMut::new(), message_bytes_max }
    }

    /// Lets a message wait to go out.
    pub(crate) fn put(&mut self, message: &PgWireBackendMessage) -> Result<(), Error> {
        encoded(message, &mut self.outgoing)
    }

    /// Sends what waits. May be dropped and called again: what was sent is gone from the buffer.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        while !self.outgoing.is_empty() {
            if self.write.write_buf(&mut self.outgoing).await? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        if self.outgoing.capacity() > KEPT_BYTES_MAX {
            self.outgoing = BytesMut::new();
        }
        Ok(())
    }

    /// Says goodbye to the socket, so that the last bytes arrive before the end does.
    pub(crate) async fn close(&mut self) -> io::Result<()> {
        self.flush().await?;
        self.write.shutdown().await
    }

    /// The next opening frame.
    pub(crate) async fn opening(&mut self) -> Heard<Opening> {
        loop {
            match frame::opening(&mut self.incoming) {
                Ok(Some(opening)) => return Heard::Frame(opening),
                Err(error) => return Heard::Garbage(error),
                Ok(None) => {}
            }
            if !matches!(self.read.read_buf(&mut self.incoming).await, Ok(1..)) {
                return Heard::End;
            }
        }
    }

    /// The next frame of the session, if its bytes are here already.
    pub(crate) fn request_at_hand(&mut self) -> Option<Heard<Framed>> {
        match frame::request(&mut self.incoming, self.message_bytes_max) {
            Ok(framed) => framed.map(Heard::Frame),
            Err(error) => Some(Heard::Garbage(error)),
        }
    }

    /// The next frame of the session.
    pub(crate) async fn request(&mut self) -> Heard<Framed> {
        loop {
            if let Some(heard) = self.request_at_hand() {
                return heard;
            }
            if self.incoming.is_empty() && self.incoming.capacity() > KEPT_BYTES_MAX {
                self.incoming = BytesMut::new();
            }
            self.incoming.reserve(READ_BYTES);
            if !matches!(self.read.read_buf(&mut self.incoming).await, Ok(1..)) {
                return Heard::End;
            }
        }
    }

    /// Returns when the client is gone or says goodbye; until then reads ahead what it sends.
    pub(crate) async fn gone(&mut self) {
        loop {
            if self.incoming.first() == Some(&b'X') {
                return;
            }
            if self.incoming.len() >= AHEAD_BYTES_MAX {
                return pending().await;
            }
            if !matches!(self.read.read_buf(&mut self.incoming).await, Ok(1..)) {
                return;
            }
        }
    }
}
