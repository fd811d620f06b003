//! Records by chance, and batches of them: every kind of key, value, header and time that Kafka allows.

use aquifer_storage::clock::Clock;
use aquifer_storage::record::batch::{BatchBuilder, CheckedBatch, Compression, TimestampType};
use aquifer_storage::testing::chance::Chance;
use aquifer_storage::{ProducerIdentity, TopicId};

use crate::model::{Record, RecordId};
use crate::world::World;

/// The header that names a record; the first one.
const NAME: &[u8] = b"id";

fn bytes(chance: &Chance, length_max: u64) -> Vec<u8> {
    let length = chance.below(length_max + 1);
    (0..length).map(|_| u8::try_from(chance.below(4) + 97).unwrap_or(0)).collect()
}

/// About now, seldom long ago or far ahead.
pub(crate) fn timestamp_ms(world: &World, chance: &Chance) -> i64 {
    let now_ms = world.clock.now_ms();
    match chance.below(12) {
        0 => 0,
        1 => now_ms - 3_600_000,
        2 => now_ms + 60_000,
        _ => now_ms - i64::try_from(chance.below(2_000)).unwrap_or(0),
    }
}

/// One to six records of a batch; all have keys where the topic asks for them.
pub(crate) fn records(world: &World, chance: &Chance, attempt: u64, batch: usize, topic: TopicId) -> Vec<Record> {
    let keyed = world.model.borrow().kept(topic).compacts;
    let count = 1 + chance.index(6);
    let appended = chance.once_in(5);
    let batch_ms = timestamp_ms(world, chance);
    let record = |index: usize| {
        let id = RecordId { attempt, batch, index };
        let mut headers = vec![(NAME.to_vec(), Some(id.to_bytes()))];
        for _ in 0..chance.below(3).saturating_sub(1) {
            let name = chance.pick(&[NAME, b"h", b""]).copied().unwrap_or_default().to_vec();
            headers.push((name, (!chance.once_in(4)).then(|| bytes(chance, 6))));
        }
        let key = match chance.below(6) {
            0 if keyed => Some(format!("rare-{}", chance.below(24)).into_bytes()),
            0 => None,
            1 => Some(Vec::new()),
            _ => Some(format!("key-{}", chance.below(5)).into_bytes()),
        };
        // One long value at the most, so that a batch fits the smallest limit.
        let length_max = if index == 0 && chance.once_in(4) { 3_000 } else { 60 };
        let value = (!chance.once_in(if keyed { 3 } else { 6 })).then(|| bytes(chance, length_max));
        Record {
            key,
            value,
            headers,
            timestamp_ms: if appended { batch_ms } else { timestamp_ms(world, chance) },
            timestamp_type: i8::from(appended),
        }
    };
    (0..count).map(record).collect()
}

/// The batch as a part of a producer's transaction.
pub(crate) fn transactional(batch: &CheckedBatch, producer: ProducerIdentity, sequence: i32) -> CheckedBatch {
    batch.in_transaction(producer, sequence)
}

/// The batch of some records, numbered for a producer if there is one.
///
/// # Panics
/// Without records.
pub(crate) fn batch_of(records: &[Record], chance: &Chance, producer: Option<(i64, i16, i32)>) -> CheckedBatch {
    let appended = records.first().is_some_and(|record| record.timestamp_type == 1);
    let kind = if appended { TimestampType::LogAppendTime } else { TimestampType::CreateTime };
    let mut builder = BatchBuilder::new(0, kind);
    if let Some((id, epoch, sequence)) = producer {
        builder = builder.with_producer(id, epoch, sequence);
    }
    for record in records {
        let headers: Vec<(&[u8], Option<&[u8]>)> =
            record.headers.iter().map(|(key, value)| (key.as_slice(), value.as_deref())).collect();
        builder.push(record.timestamp_ms, record.key.as_deref(), record.value.as_deref(), &headers);
    }
    let codecs = [Compression::None, Compression::None, Compression::Lz4, Compression::Zstd, Compression::Gzip];
    builder.build(chance.pick(&codecs).copied().unwrap_or(Compression::None)).expect("a batch of some records")
}
