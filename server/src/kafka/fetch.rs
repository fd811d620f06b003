//! Fetch: batches as they lie in the log, without a copy; a long poll that ends with the client.
//!
//! Read and written by hand: the message crate would copy every byte of every batch. Sessions (KIP-227) are never made:
//! the session id is always 0, which clients take as "send whole requests".

use std::sync::Arc;
use std::time::Duration;

use aquifer_storage::record::batch::BatchHeader;
use aquifer_storage::{AbortedTransaction, Error, FetchRequest, Fetched, Isolation, TopicPartition, Watermarks};
use bytes::{BufMut, Bytes};
use kafka_protocol::ResponseError;
use kafka_protocol::protocol::StrBytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::api::Request;
use super::broker::Broker;
use super::errors::Refusal;
use super::frame::{Response, begin};
use super::schema::ELEMENTS_MAX;
use super::turns::{ANSWER_BYTES_MAX, Place, Turns};
use super::wire::{Malformed, Reader, Writer};

/// What a fetch may answer however much is in flight: consumers go on, with smaller answers, beside clients that read
/// nothing.
const ANSWER_BYTES_MIN: usize = 1 << 20;
/// With data in the answer, room for less than this share of its limit is not worth another partition's turn: the first
/// batch there would mostly be read in vain. It comes with the next answer.
const REST_SHARE: usize = 8;
/// Pause before reading again when there is something, but less than `min_bytes`: each record may wake us.
const REREAD_PAUSE: Duration = Duration::from_millis(5);
/// How many times `wal.sync_interval_max` an offset beyond the high watermark is waited for.
const SYNCS_TO_WAIT: u32 = 4;
/// Base offset and length: what stands in front of each batch.
const BATCH_PREFIX_BYTES: usize = 12;

#[derive(Debug)]
pub(super) struct Call {
    wait: Duration,
    bytes_min: usize,
    bytes_max: usize,
    isolation: Isolation,
    session_id: i32,
    topics: Vec<(StrBytes, Vec<Wanted>)>,
}

#[derive(Debug)]
struct Wanted {
    partition: i32,
    leader_epoch: i32,
    offset: i64,
    bytes_max: usize,
}

/// One partition's part of the answer.
#[derive(Debug)]
struct Found {
    partition: i32,
    error: Option<ResponseError>,
    watermarks: Watermarks,
    batches: Vec<Bytes>,
    /// What of the batches was aborted; `None` for who wants to see it all.
    aborted: Option<Vec<AbortedTransaction>>,
}

impl Found {
    /// Nothing to read, for a reason or none.
    fn nothing(partition: i32, error: Option<ResponseError>, watermarks: Watermarks) -> Self {
        Self { partition, error, watermarks, batches: Vec::new(), aborted: None }
    }
}

/// One pass over all partitions.
#[derive(Debug, Default)]
struct Pass {
    topics: Vec<(StrBytes, Vec<Found>)>,
    bytes: usize,
    failed: bool,
    /// The last partition with data.
    last_read: Option<Place>,
    /// Where to wait for more, beyond which offset.
    ends: Vec<(TopicPartition, i64)>,
}

/// Room for answers that their clients have not read yet, shared by all connections
/// (`kafka.fetch_bytes_in_flight_max`).
#[derive(Clone, Debug)]
pub(crate) struct FetchRoom {
    bytes: Arc<Semaphore>,
}

/// Bytes of the room, given back when dropped. `None` where the room is used up and only the minimum is granted.
type Held = Option<OwnedSemaphorePermit>;

impl FetchRoom {
    pub(crate) fn new(bytes: usize) -> Self {
        Self { bytes: Arc::new(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS))) }
    }

    /// Grants at most a quarter of what is left, so that no few clients take all, but never less than the minimum: who
    /// has to wait for strangers to read would wait for ever.
    fn take(&self, wanted: usize) -> (Held, usize) {
        let granted = wanted.min((self.bytes.available_permits() / 4).max(ANSWER_BYTES_MIN));
        (self.hold(granted), granted)
    }

    fn hold(&self, bytes: usize) -> Held {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.bytes.clone().try_acquire_many_owned(bytes).ok()
    }
}

/// Gives back what an answer did not need.
fn shrink(held: Held, bytes: usize) -> Held {
    let mut held = held?;
    let unused = held.num_permits().saturating_sub(bytes);
    drop(held.split(unused));
    Some(held)
}

/// Answers a fetch, perhaps after waiting for records.
///
/// # Errors
/// A body that is none.
pub(crate) async fn answer(broker: &Broker, request: &Request, turns: &Turns) -> Result<Response, Malformed> {
    let call = parse(request, broker.settings.kafka_fetch_wait_max_ms)?;
    if call.session_id != 0 {
        return Ok(encode(request, ResponseError::FetchSessionIdNotFound.code(), Pass::default()));
    }
    let deadline = Instant::now() + call.wait;
    let (answer_bytes, last_read) = turns.next(std::time::Instant::now());
    // Who waits for so many bytes gets them.
    let wanted = call.bytes_max.min(answer_bytes.max(call.bytes_min));
    loop {
        let (held, bytes_max) = broker.fetch_room.take(wanted);
        let mut pass = read(broker, &call, last_read.as_ref(), bytes_max).await;
        // Where there is no room for what was asked for at the least, a full answer is enough.
        let full = (bytes_max - bytes_max / REST_SHARE).max(1);
        let enough = pass.bytes >= call.bytes_min.min(full) || pass.failed;
        if enough || Instant::now() >= deadline || broker.shutdown.is_cancelled() {
            count_fetched(broker, &pass);
            let held = shrink(held, pass.bytes);
            turns.left(pass.bytes, pass.last_read.take(), std::time::Instant::now());
            return Ok(encode(request, 0, pass).holding(held));
        }
        pass.topics.clear();
        drop(held);
        let more = async {
            if pass.bytes > 0 {
                tokio::time::sleep(REREAD_PAUSE).await;
            }
            if pass.ends.is_empty() {
                std::future::pending().await
            }
            match call.isolation {
                Isolation::ReadUncommitted => broker.storage.wait_past(&pass.ends).await,
                Isolation::ReadCommitted => broker.storage.wait_past_stable(&pass.ends).await,
            }
        };
        tokio::select! {
            () = more => {}
            () = tokio::time::sleep_until(deadline) => {}
            () = broker.shutdown.cancelled() => {}
        }
    }
}

pub(super) fn parse(request: &Request, wait_max_ms: u64) -> Result<Call, Malformed> {
    let (version, flexible) = (request.header.version, request.header.flexible());
    let mut reader = Reader::new(request.body.clone());
    reader.int32()?; // replica_id: we have no followers
    let wait_ms = u64::try_from(reader.int32()?).unwrap_or(0);
    let bytes_min = usize::try_from(reader.int32()?).unwrap_or(0);
    let bytes_max = usize::try_from(reader.int32()?).unwrap_or(0);
    let isolation = isolation(reader.int8()?);
    let session_id = if version >= 7 { reader.int32()? } else { 0 };
    if version >= 7 {
        reader.int32()?; // session_epoch
    }
    let topics = parse_topics(&mut reader, version, flexible)?;
    if version >= 7 {
        parse_forgotten(&mut reader, flexible)?;
    }
    if version >= 11 {
        reader.string(flexible)?; // rack_id: there is one replica
    }
    if flexible {
        reader.skip_tagged_fields()?;
    }
    Ok(Call {
        wait: Duration::from_millis(wait_ms.min(wait_max_ms)),
        bytes_min,
        bytes_max: bytes_max.min(ANSWER_BYTES_MAX),
        isolation,
        session_id,
        topics,
    })
}

/// An isolation level as Kafka numbers them.
pub(crate) fn isolation(level: i8) -> Isolation {
    if level == 1 { Isolation::ReadCommitted } else { Isolation::ReadUncommitted }
}

/// Where a partition ends for a reader.
pub(crate) fn end_of(watermarks: &Watermarks, isolation: Isolation) -> i64 {
    match isolation {
        Isolation::ReadUncommitted => watermarks.high_watermark,
        Isolation::ReadCommitted => watermarks.last_stable_offset,
    }
}

/// Counts elements over the whole request, so that what is built of it stays small.
fn count(reader: &mut Reader, flexible: bool, elements: &mut u32) -> Result<usize, Malformed> {
    let count = reader.bytes_length(flexible)?.unwrap_or(0);
    *elements = elements.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
    if *elements > ELEMENTS_MAX {
        return Err(Malformed::new(format!("more than {ELEMENTS_MAX} partitions in one request")));
    }
    Ok(count)
}

fn parse_topics(reader: &mut Reader, version: i16, flexible: bool) -> Result<Vec<(StrBytes, Vec<Wanted>)>, Malformed> {
    let (mut topics, mut elements) = (Vec::new(), 0);
    for _ in 0..count(reader, flexible, &mut elements)? {
        let name = reader.string(flexible)?;
        let mut partitions = Vec::new();
        for _ in 0..count(reader, flexible, &mut elements)? {
            let partition = reader.int32()?;
            let leader_epoch = if version >= 9 { reader.int32()? } else { -1 };
            let offset = reader.int64()?;
            if version >= 12 {
                reader.int32()?; // last_fetched_epoch, of followers
            }
            if version >= 5 {
                reader.int64()?; // log_start_offset, of followers
            }
            let bytes_max = usize::try_from(reader.int32()?).unwrap_or(0);
            if flexible {
                reader.skip_tagged_fields()?;
            }
            partitions.push(Wanted { partition, leader_epoch, offset, bytes_max });
        }
        if flexible {
            reader.skip_tagged_fields()?;
        }
        topics.push((name, partitions));
    }
    Ok(topics)
}

/// What a session should forget; we keep none.
fn parse_forgotten(reader: &mut Reader, flexible: bool) -> Result<(), Malformed> {
    let mut elements = 0;
    for _ in 0..count(reader, flexible, &mut elements)? {
        reader.string(flexible)?;
        for _ in 0..count(reader, flexible, &mut elements)? {
            reader.int32()?;
        }
        if flexible {
            reader.skip_tagged_fields()?;
        }
    }
    Ok(())
}

/// The places of all partitions of a request in the order they are read: the one behind where the last answer ended comes
/// first, so that an answer without room for all of them gives each its turn, whatever order the client asks in.
fn turns(topics: &[(StrBytes, Vec<Wanted>)], last_read: Option<&Place>) -> Vec<(usize, usize)> {
    let of_topic =
        |(at, (_, partitions)): (usize, &(StrBytes, Vec<Wanted>))| (0..partitions.len()).map(move |of| (at, of));
    let mut turns: Vec<_> = topics.iter().enumerate().flat_map(of_topic).collect();
    let is_last = |(topic, of): &(usize, usize)| {
        let (name, partitions) = &topics[*topic];
        last_read.is_some_and(|(last_name, last)| last_name == name && *last == partitions[*of].partition)
    };
    if let Some(last) = turns.iter().position(is_last) {
        turns.rotate_left(last + 1);
    }
    turns
}

async fn read(broker: &Broker, call: &Call, last_read: Option<&Place>, bytes_max: usize) -> Pass {
    let mut pass = Pass::default();
    let mut found: Vec<Vec<Option<Found>>> =
        call.topics.iter().map(|(_, partitions)| partitions.iter().map(|_| None).collect()).collect();
    for (topic, of) in turns(&call.topics, last_read) {
        let (name, partitions) = &call.topics[topic];
        let wanted = &partitions[of];
        let result = read_partition(broker, call, name, wanted, (pass.bytes, bytes_max)).await;
        found[topic][of] = Some(match result {
            Ok((at, part)) => {
                let bytes = part.batches.iter().map(Bytes::len).sum::<usize>();
                if bytes > 0 {
                    pass.last_read = Some((name.clone(), wanted.partition));
                }
                pass.bytes += bytes;
                pass.ends.push((at, end_of(&part.watermarks, call.isolation)));
                part
            }
            Err((refusal, watermarks)) => {
                tracing::debug!(topic = %name, partition = wanted.partition, error = %refusal.message, "a fetch was refused");
                pass.failed = true;
                Found::nothing(wanted.partition, Some(refusal.error), watermarks)
            }
        });
    }
    let names = call.topics.iter().map(|(name, _)| name.clone());
    pass.topics = names.zip(found.into_iter().map(|found| found.into_iter().flatten().collect())).collect();
    pass
}

/// Ends told with an error, when nothing better is known.
const NO_WATERMARKS: Watermarks = Watermarks {
    log_start_offset: -1,
    tiered_end_offset: -1,
    last_stable_offset: -1,
    high_watermark: -1,
    leader_epoch: -1,
};

async fn read_partition(
    broker: &Broker,
    call: &Call,
    name: &str,
    wanted: &Wanted,
    (bytes_so_far, bytes_max): (usize, usize),
) -> Result<(TopicPartition, Found), (Refusal, Watermarks)> {
    let unknown = |refusal| (refusal, NO_WATERMARKS);
    let (_, at) = broker.partition(name, wanted.partition).map_err(unknown)?;
    let watermarks = broker.storage.watermarks(at).map_err(|error| unknown(error.into()))?;
    check_epoch(wanted.leader_epoch, watermarks.leader_epoch).map_err(|refusal| (refusal, watermarks))?;
    if wanted.offset > watermarks.high_watermark {
        // Acknowledged by acks=1, perhaps, and not yet durable: neither shown nor called out of range before its sync.
        let sync = Duration::from_millis(broker.storage.settings().wal_sync_interval_max_ms);
        let below = [(at, wanted.offset - 1)];
        let reached = broker.storage.wait_past(&below);
        let _too_late = tokio::time::timeout(sync * SYNCS_TO_WAIT, reached).await;
    }
    let room = bytes_max.saturating_sub(bytes_so_far);
    if bytes_so_far > 0 && (room <= bytes_max / REST_SHARE || wanted.bytes_max == 0) {
        return Ok((at, Found::nothing(wanted.partition, None, watermarks)));
    }
    let bytes_max = wanted.bytes_max.min(room);
    let request = FetchRequest { partition: at, offset: wanted.offset, bytes_max, isolation: call.isolation };
    let mut fetched = broker.storage.fetch(request).await.map_err(|error| match error {
        Error::OffsetOutOfRange { .. } => (Refusal::from(&error), watermarks),
        _ => unknown(Refusal::from(&error)),
    })?;
    // Only the first data of a request may exceed the limits, so that a large batch cannot block a partition.
    let limit = if bytes_so_far > 0 { bytes_max } else { usize::MAX };
    cut(&mut fetched.batches, end_of(&fetched.watermarks, call.isolation), limit);
    let Fetched { watermarks, batches, aborted } = fetched;
    let aborted = (call.isolation == Isolation::ReadCommitted).then_some(aborted);
    Ok((at, Found { partition: wanted.partition, error: None, watermarks, batches, aborted }))
}

/// A client that knows a newer leader must wait for us; one that knows an older one must ask for metadata.
pub(crate) fn check_epoch(asked: i32, current: i32) -> Result<(), Refusal> {
    let message = |what| format!("leader epoch {asked} is {what} than {current}");
    match asked {
        -1 => Ok(()),
        _ if asked < current => Err(Refusal::new(ResponseError::FencedLeaderEpoch, message("older"))),
        _ if asked > current => Err(Refusal::new(ResponseError::UnknownLeaderEpoch, message("newer"))),
        _ => Ok(()),
    }
}

/// Counts what is sent: a pass that found too little is made again.
fn count_fetched(broker: &Broker, pass: &Pass) {
    broker.meter.fetched(pass.bytes);
    for (topic, partitions) in &pass.topics {
        let batches = partitions.iter().flat_map(|found| &found.batches);
        let bytes: usize = batches.clone().map(Bytes::len).sum();
        if bytes > 0 {
            broker.storage.note_fetched(topic, batches.map(|batches| records_in(batches)).sum(), bytes as u64);
        }
    }
}

/// Records of whole batches, by their headers; markers are none.
fn records_in(mut batches: &[u8]) -> u64 {
    let mut records = 0;
    while let Ok(header) = BatchHeader::parse(batches) {
        let counted = if header.is_control() { 0 } else { header.record_count };
        records += u64::try_from(counted).unwrap_or(0);
        batches = batches.get(header.total_bytes().max(1)..).unwrap_or_default();
    }
    records
}

/// Keeps the whole batches below `end_offset` within `bytes_max`.
fn cut(batches: &mut Vec<Bytes>, end_offset: i64, bytes_max: usize) {
    let mut left = bytes_max;
    for piece in 0..batches.len() {
        let keep = whole_batches(&batches[piece], end_offset, left);
        left -= keep;
        if keep < batches[piece].len() {
            batches[piece].truncate(keep);
            batches.truncate(piece + usize::from(keep > 0));
            return;
        }
    }
}

/// Bytes of the batches at the front that begin below `end_offset` and fit.
fn whole_batches(bytes: &[u8], end_offset: i64, bytes_max: usize) -> usize {
    let mut at = 0;
    while let Some(prefix) = bytes.get(at..at + BATCH_PREFIX_BYTES) {
        let base_offset = prefix.first_chunk().map_or(i64::MAX, |offset| i64::from_be_bytes(*offset));
        let length = prefix.last_chunk().map_or(-1, |length| i32::from_be_bytes(*length));
        let Ok(length) = usize::try_from(length) else { break };
        let end = at + BATCH_PREFIX_BYTES + length;
        if base_offset >= end_offset || end > bytes_max || end > bytes.len() {
            break;
        }
        at = end;
    }
    at
}

fn encode(request: &Request, error_code: i16, pass: Pass) -> Response {
    let (version, flexible) = (request.header.version, request.header.flexible());
    let mut pieces = Vec::new();
    let mut writer = Writer { bytes: begin(request.header.correlation_id, flexible) };
    writer.bytes.put_i32(0); // throttle_time_ms
    if version >= 7 {
        writer.bytes.put_i16(error_code);
        writer.bytes.put_i32(0); // session_id
    }
    writer.length(pass.topics.len(), flexible);
    for (name, partitions) in pass.topics {
        writer.string(&name, flexible);
        writer.length(partitions.len(), flexible);
        for found in partitions {
            encode_partition(&mut writer, &mut pieces, version, flexible, found);
        }
        writer.no_tagged_fields(flexible);
    }
    writer.no_tagged_fields(flexible);
    pieces.push(writer.bytes.freeze());
    Response::finish(pieces)
}

fn encode_partition(writer: &mut Writer, pieces: &mut Vec<Bytes>, version: i16, flexible: bool, found: Found) {
    writer.bytes.put_i32(found.partition);
    writer.bytes.put_i16(found.error.map_or(0, |error| error.code()));
    writer.bytes.put_i64(found.watermarks.high_watermark);
    writer.bytes.put_i64(found.watermarks.last_stable_offset);
    if version >= 5 {
        writer.bytes.put_i64(found.watermarks.log_start_offset);
    }
    encode_aborted(writer, flexible, found.aborted.as_deref());
    if version >= 11 {
        writer.bytes.put_i32(-1); // preferred_read_replica
    }
    writer.length(found.batches.iter().map(Bytes::len).sum(), flexible);
    if !found.batches.is_empty() {
        pieces.push(writer.bytes.split().freeze());
        pieces.extend(found.batches);
    }
    writer.no_tagged_fields(flexible);
}

/// Who reads everything is told null, not an empty array.
fn encode_aborted(writer: &mut Writer, flexible: bool, aborted: Option<&[AbortedTransaction]>) {
    let Some(aborted) = aborted else { return writer.null(flexible) };
    writer.length(aborted.len(), flexible);
    for transaction in aborted {
        writer.bytes.put_i64(transaction.producer_id);
        writer.bytes.put_i64(transaction.first_offset);
        writer.no_tagged_fields(flexible);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(base_offset: i64, body_bytes: usize) -> Vec<u8> {
        let mut bytes = base_offset.to_be_bytes().to_vec();
        bytes.extend(i32::try_from(body_bytes).unwrap().to_be_bytes());
        bytes.extend(std::iter::repeat_n(7, body_bytes));
        bytes
    }

    #[test]
    fn a_cut_keeps_whole_batches_below_the_last_stable_offset() {
        let all = || vec![Bytes::from([batch(0, 50), batch(10, 60)].concat()), Bytes::from(batch(20, 70))];
        let lengths = |end, max| {
            let mut batches = all();
            cut(&mut batches, end, max);
            batches.iter().map(Bytes::len).collect::<Vec<_>>()
        };
        assert_eq!(lengths(i64::MAX, usize::MAX), [134, 82]);
        assert_eq!(lengths(20, usize::MAX), [134]);
        assert_eq!(lengths(10, usize::MAX), [62]);
        assert_eq!(lengths(0, usize::MAX), [0; 0]);
        assert_eq!(lengths(i64::MAX, 140), [134]);
        assert_eq!(lengths(i64::MAX, 61), [0; 0]);
    }

    #[test]
    fn what_the_last_answer_had_no_room_for_is_read_first() {
        let wanted = |partition| Wanted { partition, leader_epoch: -1, offset: 0, bytes_max: 1 };
        let name = StrBytes::from_static_str;
        let topics = [(name("a"), vec![wanted(0), wanted(4)]), (name("b"), vec![wanted(0)])];
        assert_eq!(turns(&topics, None), [(0, 0), (0, 1), (1, 0)]);
        assert_eq!(turns(&topics, Some(&(name("a"), 0))), [(0, 1), (1, 0), (0, 0)]);
        assert_eq!(turns(&topics, Some(&(name("a"), 4))), [(1, 0), (0, 0), (0, 1)]);
        assert_eq!(turns(&topics, Some(&(name("b"), 0))), [(0, 0), (0, 1), (1, 0)]);
        assert_eq!(turns(&topics, Some(&(name("b"), 7))), [(0, 0), (0, 1), (1, 0)]);
    }

    #[test]
    fn room_for_answers_shrinks_but_never_below_the_minimum_and_comes_back() {
        let room = FetchRoom::new(16 * ANSWER_BYTES_MIN);
        let (first, granted) = room.take(usize::MAX);
        assert_eq!(granted, 4 * ANSWER_BYTES_MIN);
        let rest: Vec<_> = (0..40).map(|_| room.take(usize::MAX)).collect();
        assert!(rest.iter().all(|(_, granted)| *granted >= ANSWER_BYTES_MIN));
        assert!(rest.iter().filter(|(held, _)| held.is_none()).count() > 20);
        drop(rest);
        let first = shrink(first, 10);
        assert_eq!(room.bytes.available_permits(), 16 * ANSWER_BYTES_MIN - 10);
        drop(first);
        assert_eq!(room.bytes.available_permits(), 16 * ANSWER_BYTES_MIN);
    }

    #[test]
    fn an_epoch_that_is_not_ours_is_named_older_or_newer() {
        assert!(check_epoch(-1, 5).is_ok() && check_epoch(5, 5).is_ok());
        assert_eq!(check_epoch(4, 5).unwrap_err().code(), 74);
        assert_eq!(check_epoch(6, 5).unwrap_err().code(), 75);
    }
}
