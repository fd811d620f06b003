//! `GuardedListener`: HTTP connections that are limited in number and in time.
//!
//! A connection has `http.request_timeout` from its beginning, and from each byte of an answer that it has read, to say
//! what it wants or to read on; one that trickles its request or idles is closed, and its place is free again.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

use crate::listen::Listener;
use crate::settings::ServerSettings;

/// What a listener that cannot accept waits before it tries again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// See the top of this file.
#[derive(Debug)]
pub(crate) struct GuardedListener {
    listener: Listener,
    places: Arc<Semaphore>,
    connections_max: usize,
    patience: Duration,
}

impl GuardedListener {
    pub(crate) fn new(listener: Listener, settings: &ServerSettings) -> Self {
        let connections_max = settings.http_connections_max;
        let patience = Duration::from_millis(settings.http_request_timeout_ms);
        Self { listener, places: Arc::new(Semaphore::new(connections_max)), connections_max, patience }
    }
}

impl axum::serve::Listener for GuardedListener {
    type Io = Guarded;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, peer) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an HTTP connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
                tracing::warn!(%peer, "closed a connection: http.connections_max = {} is reached", self.connections_max);
                continue;
            };
            let guarded =
                Guarded { stream, deadline: Box::pin(sleep(self.patience)), patience: self.patience, _place: place };
            return (guarded, peer);
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(self.listener.local_addr())
    }
}

/// A connection with its place and its deadline.
#[derive(Debug)]
pub(crate) struct Guarded {
    stream: TcpStream,
    deadline: Pin<Box<Sleep>>,
    patience: Duration,
    _place: OwnedSemaphorePermit,
}

impl Guarded {
    /// An error once the time is over; until then whoever waits is woken by it.
    fn check_time(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.deadline.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_time(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if written.is_pending() {
            self.check_time(context)?;
        } else {
            let deadline = Instant::now() + self.patience;
            self.deadline.as_mut().reset(deadline);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
