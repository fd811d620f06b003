//! One connection: requests in, answers out in the same order, nothing unbounded in between.
//!
//! Produce requests overlap: the next is read and submitted while earlier ones wait for their sync, so that one sync
//! serves them all. Every other request waits until the answers before it are written and is handled alone, as Kafka does
//! it. Answers are written by a task of their own, so that a client that reads slowly never stops the polling of commits
//! that wait in the storage's queue.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Buf;
use futures::future::BoxFuture;
use futures::stream::{FuturesOrdered, StreamExt};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

use super::api::{Incoming, Request, find};
use super::broker::Broker;
use super::dispatch::{self, Caller};
use super::frame::{Frame, FrameError, FrameLimits, FrameReader, Response, STALL_MAX};
use super::produce::{self, Produced};
use super::turns::Turns;
use super::wire::Malformed;
use kafka_protocol::messages::ApiKey;

/// Requests in flight are counted in shares of this many bytes, at least one each.
const SHARE_BYTES: usize = 64 << 10;
/// Shares of one connection: 512 requests, or 32 MiB of them (or one that is larger).
const SHARES: u32 = 512;

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the client has gone away")]
    Gone,
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("a produce with acks=0 failed")]
    SilentFailure,
    #[error("the node shuts down")]
    Shutdown,
}

impl From<Malformed> for Ended {
    fn from(error: Malformed) -> Self {
        Self::Frame(error.into())
    }
}

/// An answer and the shares that come free when it is written.
struct Outgoing {
    response: Response,
    _shares: OwnedSemaphorePermit,
}

type PendingProduce = BoxFuture<'static, (Produced, OwnedSemaphorePermit)>;

struct Connection {
    broker: Arc<Broker>,
    peer: SocketAddr,
    frames: FrameReader<OwnedReadHalf>,
    pending: FuturesOrdered<PendingProduce>,
    shares: Arc<Semaphore>,
    turns: Turns,
    /// Unbounded, because the shares bound what is in it.
    outgoing: mpsc::UnboundedSender<Outgoing>,
}

/// Serves a connection to its end.
pub(crate) async fn serve(stream: TcpStream, peer: SocketAddr, broker: Arc<Broker>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "cannot set TCP_NODELAY");
    }
    let limits = FrameLimits { request_bytes_max: broker.settings.kafka_request_bytes_max };
    let (read, write) = stream.into_split();
    let (outgoing, answers) = mpsc::unbounded_channel();
    let writer = tokio::spawn(write_answers(write, answers));
    let frames = FrameReader::new(read, limits, broker.request_room.clone());
    let mut connection = Connection {
        broker,
        peer,
        frames,
        pending: FuturesOrdered::new(),
        shares: Arc::new(Semaphore::new(SHARES as usize)),
        turns: Turns::default(),
        outgoing,
    };
    let ended = connection.run().await;
    match &ended {
        Ended::Frame(FrameError::TooLarge { .. } | FrameError::Malformed(_)) => {
            tracing::warn!(%peer, error = %ended, "closed a Kafka connection");
        }
        _ => tracing::debug!(%peer, reason = %ended, "a Kafka connection ended"),
    }
    connection.drain().await;
    drop(connection);
    if let Err(error) = writer.await {
        tracing::error!(%peer, %error, "the writer of a Kafka connection failed");
    }
}

impl Connection {
    async fn run(&mut self) -> Ended {
        loop {
            if let Err(ended) = self.step().await {
                return ended;
            }
        }
    }

    /// Answers what is done, or takes the next request.
    async fn step(&mut self) -> Result<(), Ended> {
        let shutdown = self.broker.shutdown.clone();
        let frame = tokio::select! {
            biased;
            Some((produced, shares)) = self.pending.next(), if !self.pending.is_empty() => {
                return self.deliver(produced, shares);
            }
            () = shutdown.cancelled() => return Err(Ended::Shutdown),
            frame = self.frames.next() => frame?,
        };
        let Frame { bytes: frame, room } = frame.ok_or(Ended::Gone)?;
        let bytes = frame.len();
        let incoming = Incoming::parse(frame)?;
        let came_at = Instant::now();
        if let Incoming::Request(request) = &incoming {
            self.broker.meter.asked(request.header.api);
        }
        match incoming {
            Incoming::UnknownApiVersions { correlation_id } => {
                let shares = self.take_shares(SHARES).await?;
                let api = find(ApiKey::ApiVersions as i16).ok_or(Ended::Gone)?;
                self.send(dispatch::unknown_api_versions(api, correlation_id)?, shares)
            }
            Incoming::Request(request) if request.header.api.key == ApiKey::Produce => {
                self.broker.meter.produced(bytes);
                let shares = u32::try_from(1 + bytes / SHARE_BYTES).unwrap_or(SHARES).min(SHARES);
                let shares = self.take_shares(shares).await?;
                let (broker, api) = (self.broker.clone(), request.header.api);
                let produced = produce::submit(broker.clone(), &request)?;
                self.pending.push_back(Box::pin(async move {
                    let produced = produced.await;
                    broker.meter.answered(api, came_at);
                    drop(room);
                    (produced, shares)
                }));
                Ok(())
            }
            Incoming::Request(request) => self.handle_alone(request, room, came_at).await,
        }
    }

    /// Waits for room among what is in flight, delivering meanwhile. All shares: until nothing is in flight.
    async fn take_shares(&mut self, count: u32) -> Result<OwnedSemaphorePermit, Ended> {
        let taken = self.shares.clone().acquire_many_owned(count);
        tokio::pin!(taken);
        loop {
            tokio::select! {
                Some((produced, shares)) = self.pending.next(), if !self.pending.is_empty() => {
                    self.deliver(produced, shares)?;
                }
                taken = &mut taken => return taken.map_err(|_| Ended::Gone),
            }
        }
    }

    /// Handles a request that may take long; gives it up when the client goes away or, if it only waits, at shutdown.
    async fn handle_alone(
        &mut self,
        request: Request,
        room: OwnedSemaphorePermit,
        came_at: Instant,
    ) -> Result<(), Ended> {
        let shares = self.take_shares(SHARES).await?;
        let key = request.header.api.key;
        let caller = Caller { broker: &self.broker, peer: self.peer, turns: &self.turns };
        let waits = matches!(key, ApiKey::JoinGroup | ApiKey::SyncGroup);
        let response = tokio::select! {
            biased;
            response = dispatch::answer(caller, &request) => response?,
            () = self.frames.closed() => return Err(Ended::Gone),
            () = self.broker.shutdown.cancelled(), if waits => return Err(Ended::Shutdown),
        };
        drop(room);
        self.broker.meter.answered(request.header.api, came_at);
        self.send(response, shares)
    }

    fn deliver(&self, produced: Produced, shares: OwnedSemaphorePermit) -> Result<(), Ended> {
        match produced {
            Produced::Answer(response) => self.send(response, shares),
            Produced::Silent => Ok(()),
            Produced::Close => Err(Ended::SilentFailure),
        }
    }

    fn send(&self, response: Response, shares: OwnedSemaphorePermit) -> Result<(), Ended> {
        self.outgoing.send(Outgoing { response, _shares: shares }).map_err(|_| Ended::Gone)
    }

    /// What has been submitted is answered, whatever ended the connection.
    async fn drain(&mut self) {
        while let Some((produced, shares)) = self.pending.next().await {
            if self.deliver(produced, shares).is_err() {
                return;
            }
        }
    }
}

async fn write_answers(mut stream: OwnedWriteHalf, mut answers: mpsc::UnboundedReceiver<Outgoing>) {
    while let Some(mut answer) = answers.recv().await {
        if let Err(error) = write_answer(&mut stream, &mut answer.response).await {
            tracing::debug!(%error, "cannot write to a Kafka client");
            return;
        }
    }
}

async fn write_answer(stream: &mut (impl AsyncWrite + Unpin), response: &mut Response) -> std::io::Result<()> {
    while response.has_remaining() {
        let written = timeout(STALL_MAX, stream.write_buf(response)).await;
        if written.map_err(|_| std::io::ErrorKind::TimedOut)?? == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
    }
    Ok(())
}
