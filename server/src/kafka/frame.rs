//! Frames: a length of four bytes and a message, read without trusting the length and written without copying batches.
//!
//! The buffer grows with what has arrived, so a frame that announces 100 MiB and sends ten bytes costs ten bytes and its
//! connection. Only Produce may be large; everything else is refused by its header. All connections together hold no more than
//! the request room has: a frame's bytes are read when there is room for all of them, and until then the client waits.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::Encodable;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::answers::{ANSWER_BYTES_MAX, too_large};
use super::api::RequestHeader;
use super::wire::Malformed;

/// Largest request that is not a Produce. They become structures many times the size of their bytes.
const CONTROL_REQUEST_BYTES_MAX: usize = 8 << 20;
/// Room made for a read; grows with what has arrived.
const READ_BYTES_MIN: usize = 8 << 10;
/// Room made at once for a frame of which [`READ_BYTES_MIN`] have come: address space, of which only what arrives becomes
/// memory. So a frame of this size is hardly moved while it arrives, nor read in more pieces than the socket gives.
const FRAME_READ_BYTES_MAX: usize = 1 << 20;
/// What is read of later requests while an earlier one waits, to learn when the client goes away.
const READ_AHEAD_BYTES_MAX: usize = 64 << 10;
/// A connection without a request is closed after this; Kafka's default.
const IDLE_MAX: Duration = Duration::from_mins(10);
/// One that sends nothing more in the midst of a frame, or reads nothing of an answer, keeps memory: closed after this.
pub(crate) const STALL_MAX: Duration = Duration::from_mins(1);
/// Bytes of length, key and version: enough to judge a frame.
const PREAMBLE_BYTES: usize = 8;

/// Why no more frames come of a connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("reading from the client")]
    Io(#[from] io::Error),
    #[error("a frame of {bytes} bytes exceeds {setting} = {limit} (TLS and HTTP look like this too)")]
    TooLarge { bytes: usize, setting: &'static str, limit: usize },
    #[error("nothing came for {} seconds", .0.as_secs())]
    Silent(Duration),
    #[error("the client closed after {0} bytes of a frame")]
    Half(usize),
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// What limits a connection's frames.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameLimits {
    pub(crate) request_bytes_max: usize,
}

/// Room for the requests of all connections (`kafka.request_bytes_in_flight_max`). Whoever has some is at work or reads, and
/// waits for nobody else's, so that it always comes free again.
#[derive(Clone, Debug)]
pub(crate) struct RequestRoom {
    bytes: Arc<Semaphore>,
    whole: u32,
}

impl RequestRoom {
    pub(crate) fn new(bytes: usize) -> Self {
        let whole = u32::try_from(bytes.min(Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
        Self { bytes: Arc::new(Semaphore::new(whole as usize)), whole }
    }

    /// Waits for room for a frame; one that is larger than the room gets it whole.
    async fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, FrameError> {
        let wanted = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.whole);
        let taken = self.bytes.clone().acquire_many_owned(wanted).await;
        // Nobody closes it.
        taken.map_err(|_| FrameError::Io(io::ErrorKind::BrokenPipe.into()))
    }
}

/// A frame without its length, and the room it takes until it is done.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) bytes: Bytes,
    pub(crate) room: OwnedSemaphorePermit,
}

/// Cuts a stream of bytes into frames.
#[derive(Debug)]
pub(crate) struct FrameReader<R> {
    stream: R,
    buffer: BytesMut,
    limits: FrameLimits,
    room: RequestRoom,
    /// What the frame that is being read has taken.
    taken: Option<OwnedSemaphorePermit>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(crate) fn new(stream: R, limits: FrameLimits, room: RequestRoom) -> Self {
        Self { stream, buffer: BytesMut::new(), limits, room, taken: None }
    }

    /// The next frame; `None` when the client has closed between two. May be dropped and called again.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            let missing = match announced(&self.buffer, self.limits)? {
                Some(length) => {
                    let room = match self.taken.take() {
                        Some(room) => room,
                        None => self.room.take(length).await?,
                    };
                    if self.buffer.len() >= 4 + length {
                        self.buffer.advance(4);
                        return Ok(Some(Frame { bytes: self.buffer.split_to(length).freeze(), room }));
                    }
                    self.taken = Some(room);
                    4 + length - self.buffer.len()
                }
                None => PREAMBLE_BYTES,
            };
            let at_once = if self.buffer.len() < READ_BYTES_MIN { READ_BYTES_MIN } else { FRAME_READ_BYTES_MAX };
            self.buffer.reserve(missing.max(READ_BYTES_MIN).min(self.buffer.len().max(at_once)));
            let limit = if self.buffer.is_empty() { IDLE_MAX } else { STALL_MAX };
            let read = timeout(limit, self.stream.read_buf(&mut self.buffer)).await;
            if read.map_err(|_| FrameError::Silent(limit))?? == 0 {
                return match self.buffer.len() {
                    0 => Ok(None),
                    half => Err(FrameError::Half(half)),
                };
            }
        }
    }

    /// Returns when the client has gone away. Meanwhile reads a little ahead; beyond that it waits for ever.
    pub(crate) async fn closed(&mut self) {
        while self.buffer.len() < READ_AHEAD_BYTES_MAX {
            self.buffer.reserve(READ_BYTES_MIN);
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        std::future::pending().await
    }
}

/// The length of the frame at the front, once enough has arrived to judge it.
fn announced(buffer: &[u8], limits: FrameLimits) -> Result<Option<usize>, FrameError> {
    let Some((length, rest)) = buffer.split_first_chunk::<4>() else { return Ok(None) };
    let length = usize::try_from(i32::from_be_bytes(*length))
        .map_err(|_| Malformed::new("a frame's length is negative; is this the Kafka port?"))?;
    let limit = limits.request_bytes_max;
    if length > limit {
        return Err(FrameError::TooLarge { bytes: length, setting: "kafka.request_bytes_max", limit });
    }
    if length < PREAMBLE_BYTES {
        return Err(Malformed::new(format!("a frame of {length} bytes is shorter than a request's header")).into());
    }
    let Some((key, _)) = rest.split_first_chunk::<2>() else { return Ok(None) };
    if length > CONTROL_REQUEST_BYTES_MAX && i16::from_be_bytes(*key) != ApiKey::Produce as i16 {
        let limit = CONTROL_REQUEST_BYTES_MAX;
        return Err(FrameError::TooLarge { bytes: length, setting: "the limit of requests other than Produce", limit });
    }
    Ok(Some(length))
}

/// An answer as pieces: what was encoded, and batches as they lie in the log. Written with vectored writes.
#[derive(Debug, Default)]
pub(crate) struct Response {
    pieces: VecDeque<Bytes>,
    remaining: usize,
    /// Given back when the answer has been written.
    held: Option<OwnedSemaphorePermit>,
}

impl Response {
    /// Frames a message.
    ///
    /// # Errors
    /// When the message has a value its version cannot carry, which is a mistake of ours; when it is too large.
    pub(crate) fn message<T: Encodable>(header: &RequestHeader, message: &T) -> Result<Self, Malformed> {
        let mut body = begin(header.correlation_id, header.flexible() && header.api.key != ApiKey::ApiVersions);
        message.encode(&mut body, header.version).map_err(|error| Malformed::new(error.to_string()))?;
        if body.len() > ANSWER_BYTES_MAX {
            return Err(too_large(body.len()));
        }
        Ok(Self::finish(vec![body.freeze()]))
    }

    /// Frames pieces the first of which was made by [`begin`].
    pub(crate) fn finish(pieces: Vec<Bytes>) -> Self {
        let total: usize = pieces.iter().map(Bytes::len).sum();
        let length = i32::try_from(total).unwrap_or(i32::MAX).to_be_bytes();
        let mut all = VecDeque::with_capacity(pieces.len() + 1);
        all.push_back(Bytes::copy_from_slice(&length));
        all.extend(pieces.into_iter().filter(|piece| !piece.is_empty()));
        Self { pieces: all, remaining: total + 4, held: None }
    }

    /// The same answer, which keeps this until it has been written.
    pub(crate) fn holding(self, held: Option<OwnedSemaphorePermit>) -> Self {
        Self { held, ..self }
    }
}

/// The header in front of a response; `flexible` ones have (no) tagged fields.
pub(crate) fn begin(correlation_id: i32, flexible: bool) -> BytesMut {
    let mut bytes = BytesMut::with_capacity(256);
    bytes.put_i32(correlation_id);
    if flexible {
        bytes.put_u8(0);
    }
    bytes
}

impl Buf for Response {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| piece)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let filled = slices.iter_mut().zip(&self.pieces);
        filled.map(|(slice, piece)| *slice = IoSlice::new(piece)).count()
    }

    fn advance(&mut self, mut count: usize) {
        self.remaining -= count;
        while let Some(piece) = self.pieces.front_mut() {
            if count < piece.len() {
                piece.advance(count);
                return;
            }
            count -= piece.len();
            self.pieces.pop_front();
        }
        self.held = None;
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const LIMITS: FrameLimits = FrameLimits { request_bytes_max: 100 << 20 };

    async fn read_all(bytes: &[u8]) -> Result<Vec<Bytes>, FrameError> {
        let mut reader = FrameReader::new(bytes, LIMITS, RequestRoom::new(1 << 20));
        let mut frames = Vec::new();
        while let Some(frame) = reader.next().await? {
            frames.push(frame.bytes);
        }
        Ok(frames)
    }

    #[tokio::test]
    async fn frames_come_out_as_they_went_in() {
        let mut sent = Vec::new();
        for length in [8usize, 100, 40_000] {
            sent.put_i32(i32::try_from(length).unwrap());
            sent.extend(std::iter::repeat_n(0, length));
        }
        let lengths: Vec<usize> = read_all(&sent).await.unwrap().iter().map(Bytes::len).collect();
        assert_eq!(lengths, [8, 100, 40_000]);
    }

    #[tokio::test]
    async fn a_frame_beyond_the_limit_is_refused_by_the_settings_name() {
        let error = read_all(&[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 3]).await.unwrap_err();
        assert!(error.to_string().contains("kafka.request_bytes_max"), "{error}");
        let control = (16_i32 << 20).to_be_bytes();
        let error = read_all(&[&control[..], &[0, 3, 0, 1]].concat()).await.unwrap_err();
        assert!(error.to_string().contains("other than Produce"), "{error}");
    }

    #[tokio::test]
    async fn a_large_frame_announced_but_not_sent_takes_no_memory_to_speak_of() {
        let (mut client, server) = tokio::io::duplex(1 << 10);
        let mut reader = FrameReader::new(server, LIMITS, RequestRoom::new(1 << 30));
        tokio::io::AsyncWriteExt::write_all(&mut client, &[5, 0, 0, 0, 0, 0, 0, 9, 1, 2]).await.unwrap();
        drop(client);
        assert!(reader.next().await.is_err());
        assert!(reader.buffer.capacity() <= 4 * READ_BYTES_MIN, "{}", reader.buffer.capacity());
    }

    #[tokio::test]
    async fn frames_of_all_connections_wait_for_room_and_a_small_room_takes_a_large_frame() {
        let mut sent = Vec::new();
        for length in [1000_i32, 100] {
            sent.put_i32(length);
            sent.extend(std::iter::repeat_n(0, usize::try_from(length).unwrap()));
        }
        let room = RequestRoom::new(500);
        let mut one = FrameReader::new(&sent[..], LIMITS, room.clone());
        let mut other = FrameReader::new(&sent[1004..], LIMITS, room);
        let first = one.next().await.unwrap().unwrap();
        assert_eq!(first.bytes.len(), 1000);
        assert!(other.next().now_or_never().is_none(), "there is no room");
        assert!(one.next().now_or_never().is_none(), "not for the same connection either");
        drop(first);
        let (second, third) = (other.next().await.unwrap(), one.next().await.unwrap());
        assert!(second.is_some() && third.is_some());
    }

    #[test]
    fn a_response_gives_out_every_piece_in_order() {
        let mut response =
            Response::finish(vec![Bytes::from_static(b"head"), Bytes::new(), Bytes::from_static(b"batch")]);
        let mut slices = [IoSlice::new(&[]); 8];
        assert_eq!(response.chunks_vectored(&mut slices), 3);
        response.advance(6);
        assert_eq!(response.remaining(), 7);
        assert_eq!(response.copy_to_bytes(7), Bytes::from_static(b"adbatch"));
    }
}
