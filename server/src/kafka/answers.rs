//! `AnswerRoom`: what answers may take in memory that grow with what is asked for and not with the request.
//!
//! A request of a hundred kilobytes can ask for gigabytes. So whoever makes such an answer takes room for it first: it
//! waits its turn for the first room it takes, and is refused what would be more than one answer may have, or more than
//! is left beside the others. Taking room also gives way to others, so that a client that goes away ends the work.

use std::sync::Arc;

use bytes::Buf;
use kafka_protocol::protocol::Encodable;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::api::RequestHeader;
use super::frame::Response;
use super::wire::Malformed;

/// Largest answer other than a fetch's, in memory and on the wire. librdkafka takes 100 MB in one message by default.
pub(crate) const ANSWER_BYTES_MAX: usize = 128 << 20;
/// All such answers together, from when they are made until their clients have read them.
const ANSWERS_BYTES_MAX: usize = 256 << 20;
/// What every answer may have without asking: nearly all are smaller.
const FREE_BYTES: usize = 64 << 10;
/// Work for so many bytes of answer goes on without giving way.
const STRETCH_BYTES: usize = 256 << 10;

/// Room for the answers of all connections.
#[derive(Clone, Debug)]
pub(crate) struct AnswerRoom {
    bytes: Arc<Semaphore>,
}

impl Default for AnswerRoom {
    fn default() -> Self {
        Self { bytes: Arc::new(Semaphore::new(ANSWERS_BYTES_MAX)) }
    }
}

impl AnswerRoom {
    /// For one answer.
    pub(crate) fn share(&self) -> AnswerShare {
        AnswerShare { room: Arc::clone(&self.bytes), bytes: 0, held: None, since_pause: 0 }
    }
}

/// One answer's part of the room.
#[derive(Debug)]
pub(crate) struct AnswerShare {
    room: Arc<Semaphore>,
    /// All it has asked for.
    bytes: usize,
    held: Option<OwnedSemaphorePermit>,
    since_pause: usize,
}

impl AnswerShare {
    /// Takes room before what needs it is made.
    ///
    /// # Errors
    /// When the answer would be too large, or others leave no room for more of it; the connection ends.
    pub(crate) async fn take(&mut self, bytes: usize) -> Result<(), Malformed> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > ANSWER_BYTES_MAX {
            return Err(too_large(self.bytes));
        }
        let has = self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let wanted = u32::try_from(self.bytes.saturating_sub(FREE_BYTES).saturating_sub(has)).unwrap_or(u32::MAX);
        if wanted > 0 {
            let room = Arc::clone(&self.room);
            // Who has some never waits for more: two that do would wait for each other.
            let taken = match &mut self.held {
                None => room.acquire_many_owned(wanted).await.ok(),
                Some(_) => room.try_acquire_many_owned(wanted).ok(),
            };
            let taken = taken.ok_or_else(|| {
                Malformed::new(format!(
                    "no room for the answer: others hold most of {ANSWERS_BYTES_MAX} bytes; ask again"
                ))
            })?;
            match &mut self.held {
                None => self.held = Some(taken),
                Some(held) => held.merge(taken),
            }
        }
        self.worked(bytes).await;
        Ok(())
    }

    /// So many bytes of what has been taken are made: time to give way?
    pub(crate) async fn worked(&mut self, bytes: usize) {
        self.since_pause = self.since_pause.saturating_add(bytes);
        if self.since_pause >= STRETCH_BYTES {
            self.since_pause = 0;
            tokio::task::yield_now().await;
        }
    }

    /// Frames the answer, which keeps of the room what it still needs until it has been written.
    ///
    /// # Errors
    /// As [`Response::message`].
    pub(crate) fn framed<T: Encodable>(mut self, header: &RequestHeader, message: &T) -> Result<Response, Malformed> {
        let response = Response::message(header, message)?;
        let held = self.held.take().map(|mut held| {
            let spare = held.num_permits().saturating_sub(response.remaining());
            drop(held.split(spare));
            held
        });
        Ok(response.holding(held))
    }
}

/// The refusal of an answer that nobody should have to hold.
pub(crate) fn too_large(bytes: usize) -> Malformed {
    Malformed::new(format!(
        "an answer of {bytes} bytes or more: at most {ANSWER_BYTES_MAX} are sent; ask for less at once"
    ))
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn one_answer_is_limited_and_all_answers_are() {
        let room = AnswerRoom::default();
        let mut alone = room.share();
        alone.take(ANSWER_BYTES_MAX).await.unwrap();
        assert!(alone.take(1).await.unwrap_err().to_string().contains("ask for less"));
        let (mut second, mut third, mut small) = (room.share(), room.share(), room.share());
        second.take(ANSWER_BYTES_MAX / 2).await.unwrap();
        assert!(third.take(ANSWER_BYTES_MAX).now_or_never().is_none(), "the first room is waited for");
        assert!(small.take(FREE_BYTES).now_or_never().is_some(), "small answers never wait");
        let mut fourth = room.share();
        fourth.take(ANSWER_BYTES_MAX / 2).await.unwrap();
        assert!(second.take(FREE_BYTES * 4).await.unwrap_err().to_string().contains("ask again"));
        drop(alone);
        assert!(second.take(1).now_or_never().is_some_and(|taken| taken.is_ok()), "what was given back is there again");
    }
}
