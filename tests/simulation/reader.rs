//! Looks from outside: fetches, consumers that go on, snapshots and scans, each held against the model.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use aquifer_storage::record::batch::{BatchLimits, CheckedBatch};
use aquifer_storage::record::columns::RecordColumn;
use aquifer_storage::{
    AbortedTransaction, Error, FetchRequest, Fetched, Isolation, ScanRequest, Snapshot, Storage, TimedOffset, TopicId,
    TopicPartition,
};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int8Type, Int32Type, Int64Type, TimestampMicrosecondType, TimestampMillisecondType};
use futures::StreamExt;

use crate::model::{Checked, Fate, Presence, Record, RecordId, broken};
use crate::world::World;

const LIMITS: BatchLimits = BatchLimits { decompressed_bytes_max: 1 << 24 };

/// What one fetch has shown: records with their offsets, and where the next fetch begins.
pub(crate) type Shown = (Vec<(i64, Record)>, i64);

/// Fetches once and holds what comes against the model. `None` if the weather, or a topic's end, explains an error.
pub(crate) async fn fetch(
    world: &World,
    storage: &Storage,
    at: TopicPartition,
    offset: i64,
    bytes_max: usize,
    isolation: Isolation,
) -> Option<Shown> {
    let before = world.model.borrow().partition(at);
    let held = isolation == Isolation::ReadCommitted && world.model.borrow().is_held(at);
    let fetched = storage.fetch(FetchRequest { partition: at, offset, bytes_max, isolation }).await;
    world.note(|| match &fetched {
        Ok(fetched) => format!("fetch {at:?} from {offset}: {} bytes, {:?}", fetched.bytes_len(), fetched.watermarks),
        Err(error) => format!("fetch {at:?} from {offset}: {error}"),
    });
    match fetched {
        Ok(fetched) => {
            let ends = world.model.borrow_mut().ends_shown(at, &before, fetched.watermarks);
            world.check(ends)?;
            let shown = records_of(&fetched, at, offset).and_then(|shown| {
                let mut model = world.model.borrow_mut();
                for (offset, record) in &shown.0 {
                    match isolation {
                        Isolation::ReadCommitted => model.shown(at, *offset, record)?,
                        Isolation::ReadUncommitted => model.seen(at, *offset, record)?,
                    };
                }
                let found = shown.0.iter().map(|(offset, _)| *offset).collect();
                match model.missing_now(at, offset..shown.1, &found) {
                    Some(missing) => broken(3, format!("{at:?}: {missing} is missing in {offset}..{}", shown.1)),
                    None => Ok(shown),
                }
            });
            let shown = world.check(shown)?;
            let end = if held { offset } else { before.acknowledged_end };
            let missing = world.model.borrow().missing_now(at, offset..end, &BTreeSet::new());
            if let Some(missing) = missing.filter(|_| shown.1 == offset) {
                world.violate(1, format!("{at:?}: nothing from {offset} on, {missing} is there"));
            }
            Some(shown)
        }
        Err(Error::OffsetOutOfRange { offset, log_start_offset, high_watermark }) => {
            let start_max = world.model.borrow().start_max(at);
            if (log_start_offset..=high_watermark).contains(&offset) || log_start_offset > start_max {
                world.violate(3, format!("{at:?}: {offset} is out of {log_start_offset}..{high_watermark}"));
            } else if offset >= start_max && offset <= before.acknowledged_end {
                world.violate(1, format!("{at:?}: {offset} is out of range, {} are there", before.acknowledged_end));
            }
            None
        }
        Err(error) => {
            excuse(world, at.topic, &error, "fetch");
            None
        }
    }
}

/// An error that nothing explains breaks a promise.
pub(crate) fn excuse(world: &World, topic: TopicId, error: &Error, what: &str) {
    let presence = world.model.borrow().topics.get(&topic).map(|topic| topic.presence);
    let gone = matches!(error, Error::UnknownTopic { .. } | Error::UnknownPartition { .. })
        && presence != Some(Presence::There);
    if !gone && !world.is_weather(error) {
        world.violate(1, format!("{what} of {topic:?}: {error}: {error:?}"));
    }
}

/// The records of a fetch: whole batches from the one that holds `offset` on, in order, without the aborted ones.
pub(crate) fn records_of(fetched: &Fetched, at: TopicPartition, offset: i64) -> Checked<Shown> {
    let mut records = Vec::new();
    let mut next = offset;
    let mut waiting: VecDeque<AbortedTransaction> = fetched.aborted.iter().copied().collect();
    let mut aborted: BTreeSet<i64> = BTreeSet::new();
    for bytes in &fetched.batches {
        let mut rest = bytes.clone();
        while !rest.is_empty() {
            let header = match aquifer_storage::record::batch::BatchHeader::parse(&rest) {
                Ok(header) if header.total_bytes() <= rest.len() => header,
                _ => return broken(13, format!("{at:?}: no batch at {next}")),
            };
            let batch = match CheckedBatch::parse_stored(rest.split_to(header.total_bytes())) {
                Ok(batch) => batch,
                Err(error) => return broken(13, format!("{at:?}: batch at {next}: {error}")),
            };
            if header.last_offset() < next {
                return broken(3, format!("{at:?}: batch {}..{} at {next}", header.base_offset, header.last_offset()));
            }
            let (timestamp_type, wanted) = (header.timestamp_type() as i8, next);
            // As a consumer does it: from its first offset on a producer is aborted, up to its marker.
            while waiting.front().is_some_and(|first| first.first_offset <= header.last_offset()) {
                aborted.extend(waiting.pop_front().map(|first| first.producer_id));
            }
            next = header.last_offset() + 1;
            if header.is_control() {
                aborted.remove(&header.producer_id);
                continue;
            }
            if header.is_transactional() && aborted.contains(&header.producer_id) {
                continue;
            }
            let mut last = wanted - 1;
            let Ok(views) = batch.records(LIMITS) else { return broken(13, format!("{at:?}: bytes at {next}")) };
            for view in views.iter() {
                let Ok(view) = view else { return broken(13, format!("{at:?}: record near {next}")) };
                if view.offset < wanted {
                    continue;
                }
                if view.offset <= last {
                    return broken(3, format!("{at:?}: offset {} behind {last}", view.offset));
                }
                last = view.offset;
                let headers = view.headers.iter().map(|(key, value)| (key.to_vec(), value.map(<[u8]>::to_vec)));
                let record = Record {
                    key: view.key.map(<[u8]>::to_vec),
                    value: view.value.map(<[u8]>::to_vec),
                    headers: headers.collect(),
                    timestamp_ms: view.timestamp_ms,
                    timestamp_type,
                };
                records.push((view.offset, record));
            }
        }
    }
    if next > fetched.watermarks.high_watermark.max(offset) {
        return broken(8, format!("{at:?}: {next} is beyond {:?}", fetched.watermarks));
    }
    Ok((records, next))
}

/// Reads a partition from its log start to its end.
pub(crate) async fn fetch_all(
    world: &World,
    storage: &Storage,
    at: TopicPartition,
    bytes_max: usize,
    isolation: Isolation,
) -> Option<Vec<(i64, Record)>> {
    let watermarks = match storage.watermarks(at) {
        Ok(watermarks) => watermarks,
        Err(error) => {
            excuse(world, at.topic, &error, "watermarks");
            return None;
        }
    };
    let mut all = Vec::new();
    let mut next = watermarks.log_start_offset;
    let end = match isolation {
        Isolation::ReadCommitted => watermarks.last_stable_offset,
        Isolation::ReadUncommitted => watermarks.high_watermark,
    };
    while next < end {
        let Some((records, behind)) = fetch(world, storage, at, next, bytes_max, isolation).await else {
            // Retention may have been quicker.
            let start = storage.watermarks(at).ok()?.log_start_offset;
            if start <= next || world.violation.borrow().is_some() {
                return None;
            }
            world.note(|| format!("{at:?} is read on from {start}"));
            next = start;
            continue;
        };
        if behind == next {
            let missing = world.model.borrow().missing_now(at, next..end, &BTreeSet::new());
            if let Some(missing) = missing {
                world.violate(1, format!("{at:?}: a fetch from {next} of {watermarks:?} misses {missing}"));
            }
            break;
        }
        all.extend(records);
        next = behind;
    }
    Some(all)
}

/// A snapshot, and what was known when it was taken.
pub(crate) struct Held {
    pub(crate) snapshot: Snapshot,
    topics: Vec<TopicId>,
    /// Ends that were acknowledged before it was taken.
    acknowledged: BTreeMap<TopicPartition, i64>,
    /// Partitions in which something was open.
    held: BTreeSet<TopicPartition>,
}

/// Pins some topics.
pub(crate) fn hold(world: &World, storage: &Storage, topics: &[TopicId]) -> Option<Held> {
    let acknowledged: BTreeMap<TopicPartition, i64> = {
        let model = world.model.borrow();
        let of_topics = model.partitions.iter().filter(|(at, _)| topics.contains(&at.topic));
        of_topics.map(|(at, partition)| (*at, partition.acknowledged_end)).collect()
    };
    let held = {
        let model = world.model.borrow();
        acknowledged.keys().copied().filter(|at| model.is_held(*at)).collect()
    };
    match storage.snapshot(topics, &HashMap::new()) {
        Ok(snapshot) => Some(Held { snapshot, topics: topics.to_vec(), acknowledged, held }),
        Err(error) => {
            let all_there = topics
                .iter()
                .all(|topic| world.model.borrow().topics.get(topic).is_some_and(|t| t.presence == Presence::There));
            if all_there && !world.is_weather(&error) {
                world.violate(1, format!("snapshot of {topics:?}: {error}"));
            }
            None
        }
    }
}

/// Reads all that a snapshot covers: each offset once, the whole of every commit or nothing of it.
pub(crate) async fn scan_all(world: &World, held: &Held) -> Option<BTreeMap<TopicPartition, Vec<(i64, Record)>>> {
    let mut whole = BTreeMap::new();
    let mut seen: BTreeMap<u64, BTreeSet<usize>> = BTreeMap::new();
    let mut ranges = Vec::new();
    for topic in held.snapshot.topics() {
        for partition in 0..topic.partitions {
            let at = TopicPartition { topic: topic.id, partition };
            let Some(range) = held.snapshot.range(at) else {
                world.violate(3, format!("{at:?} is not in its snapshot"));
                return None;
            };
            let acknowledged = held.acknowledged.get(&at).copied().unwrap_or(0);
            if range.end < acknowledged && !held.held.contains(&at) {
                world.violate(1, format!("{at:?}: a snapshot ends at {}, {acknowledged} were there", range.end));
            }
            let rows = scan(world, held, at).await?;
            let offsets: Vec<i64> = rows.iter().map(|(offset, _)| *offset).collect();
            let in_order = offsets.windows(2).all(|pair| pair[0] < pair[1]);
            if !in_order || offsets.iter().any(|offset| !(range.start..range.end).contains(offset)) {
                world.violate(3, format!("{at:?}: a scan of {range:?} gives {offsets:?}"));
                return None;
            }
            ranges.push((at, range.start..range.end, offsets.into_iter().collect::<BTreeSet<i64>>()));
            for (offset, record) in &rows {
                let id: Option<RecordId> = world.check(world.model.borrow_mut().shown(at, *offset, record));
                let id = id?;
                seen.entry(id.attempt).or_default().insert(id.batch);
            }
            whole.insert(at, rows);
        }
    }
    for (at, range, offsets) in ranges {
        let missing = world.model.borrow().missing(at, range.clone(), &offsets);
        if let Some(missing) = missing {
            world.violate(3, format!("{at:?}: {missing} is missing in a scan of {range:?}: {offsets:?}"));
            return None;
        }
        let resurrected = world.model.borrow().no_resurrection(at, range, &offsets);
        world.check(resurrected)?;
    }
    whole_attempts(world, held, &seen);
    Some(whole)
}

/// Of a commit of which a snapshot shows a part it shows all.
fn whole_attempts(world: &World, held: &Held, seen: &BTreeMap<u64, BTreeSet<usize>>) {
    let model = world.model.borrow();
    for (attempt, batches) in seen {
        let Some(sent) = model.attempts.get(attempt).map(|attempt| &attempt.sent) else { continue };
        let missing = (0..sent.len()).find(|batch| {
            let (at, sent) = (sent[*batch].partition, &sent[*batch]);
            let range = held.snapshot.range(at).map(|range| range.start..range.end);
            // What retention or compaction has taken is no gap in a commit.
            let kept = |base: i64| {
                let mut records = (0..sent.records.len()).map(|index| (base + index as i64, index));
                range.as_ref().is_some_and(|range| range.contains(&base))
                    && records.any(|(offset, index)| {
                        !model.may_be_gone(at, offset, RecordId { attempt: *attempt, batch: *batch, index })
                    })
            };
            // Nor is what lies behind an open transaction.
            let hidden = !model.partition(at).transactional
                && !model.may_have_been(sent, range.as_ref().map_or(0, |range| range.start));
            let due = sent.base.map_or(hidden, kept);
            held.topics.contains(&at.topic) && !batches.contains(batch) && due
        });
        if let Some(batch) = missing {
            world.violate(6, format!("a snapshot has batches {batches:?} of attempt {attempt} and not {batch}"));
        }
    }
}

async fn scan(world: &World, held: &Held, at: TopicPartition) -> Option<Vec<(i64, Record)>> {
    let batch_rows = usize::try_from(world.chance.fork("rows").below(20)).unwrap_or(0) + 1;
    let request = ScanRequest { batch_rows, ..ScanRequest::all(RecordColumn::ALL.to_vec()) };
    let mut stream = match held.snapshot.scan(at, request) {
        Ok(stream) => stream,
        Err(error) => {
            excuse(world, at.topic, &error, "scan");
            return None;
        }
    };
    let mut rows = Vec::new();
    while let Some(batch) = stream.next().await {
        match batch {
            Ok(batch) => rows.extend(world.check(rows_of(world, &batch, at, true))?),
            Err(error) => {
                let of_store = matches!(error, Error::Format { .. }) && world.weather.get().store;
                if !of_store {
                    excuse(world, at.topic, &error, "scan");
                }
                return None;
            }
        }
    }
    world.note(|| format!("scan {at:?}: {} rows", rows.len()));
    Some(rows)
}

/// Arrow rows as records; checks the columns that say where and when a record was committed. Unless the log is whole, the
/// ends of transactions may be lost with their times.
pub(crate) fn rows_of(
    world: &World,
    batch: &RecordBatch,
    at: TopicPartition,
    whole: bool,
) -> Checked<Vec<(i64, Record)>> {
    let partitions = batch.column(0).as_primitive::<Int32Type>();
    let offsets = batch.column(1).as_primitive::<Int64Type>();
    let timestamps = batch.column(2).as_primitive::<TimestampMillisecondType>();
    let types = batch.column(3).as_primitive::<Int8Type>();
    let committed = batch.column(4).as_primitive::<TimestampMicrosecondType>();
    let (keys, values) = (batch.column(5).as_binary::<i32>(), batch.column(6).as_binary::<i32>());
    let headers = batch.column(7).as_list::<i32>();
    let mut rows = Vec::new();
    for row in 0..batch.num_rows() {
        if partitions.value(row) != at.partition {
            return broken(2, format!("{at:?}: a row of partition {}", partitions.value(row)));
        }
        let of_row = headers.value(row);
        let pairs = of_row.as_struct();
        let (names, contents) = (pairs.column(0).as_binary::<i32>(), pairs.column(1).as_binary::<i32>());
        let pair = |at: usize| {
            let value = contents.is_valid(at).then(|| contents.value(at).to_vec());
            (names.value(at).to_vec(), value)
        };
        let record = Record {
            key: keys.is_valid(row).then(|| keys.value(row).to_vec()),
            value: values.is_valid(row).then(|| values.value(row).to_vec()),
            headers: (0..pairs.len()).map(pair).collect(),
            timestamp_ms: timestamps.value(row),
            timestamp_type: types.value(row),
        };
        if let Some(id) = RecordId::of(&record) {
            world.model.borrow_mut().committed((at, offsets.value(row)), id.attempt, committed.value(row), whole)?;
        }
        rows.push((offsets.value(row), record));
    }
    Ok(rows)
}

/// Looks an offset up by time and holds the answer against what the model knows to be there.
pub(crate) async fn offset_for_time(world: &World, storage: &Storage, at: TopicPartition, timestamp_ms: i64) {
    let before = first_at_or_after(world, at, timestamp_ms);
    let found = storage.offset_for_timestamp(at, timestamp_ms).await;
    world.note(|| format!("offset of {at:?} at {timestamp_ms}: {found:?}"));
    match found {
        Ok(found) => {
            let after = first_at_or_after(world, at, timestamp_ms);
            // What was known before and stays must not be missed; what came meanwhile may be found, and what may have gone
            // by now may have gone before it was looked for.
            let missed = match (before, after) {
                (Some(before), Some(after)) => found.is_none_or(|found| found.offset > before.offset.max(after.offset)),
                _ => false,
            };
            // Of open and aborted transactions there may be earlier ones.
            let invented = found.is_some_and(|found| after.is_some_and(|known| known.offset < found.offset));
            if missed || invented {
                world.violate(1, format!("{at:?} at {timestamp_ms}: {found:?}, known {before:?} then {after:?}"));
            }
        }
        Err(error) => excuse(world, at.topic, &error, "offset by time"),
    }
}

fn first_at_or_after(world: &World, at: TopicPartition, timestamp_ms: i64) -> Option<TimedOffset> {
    let model = world.model.borrow();
    let partition = model.partitions.get(&at)?;
    partition.records.range(model.start_max(at)..).find_map(|(offset, id)| {
        let attempt = model.attempts.get(&id.attempt).filter(|_| model.standing(id.attempt) == Fate::Durable)?;
        let attempt = Some(attempt).filter(|_| !model.may_be_gone(at, *offset, *id))?;
        let record = attempt.sent.get(id.batch)?.records.get(id.index)?;
        let found = TimedOffset { offset: *offset, timestamp_ms: record.timestamp_ms };
        (record.timestamp_ms >= timestamp_ms).then_some(found)
    })
}
