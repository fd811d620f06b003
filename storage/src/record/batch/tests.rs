//! Round trips, refusals and damage of batches.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;

const LIMITS: BatchLimits = BatchLimits { decompressed_bytes_max: 1 << 20 };

#[derive(Clone, Debug)]
struct OwnedRecord {
    timestamp_ms: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl OwnedRecord {
    fn header_views(&self) -> Vec<(&[u8], Option<&[u8]>)> {
        self.headers.iter().map(|(key, value)| (&key[..], value.as_deref())).collect()
    }
}

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..max)
}

fn record() -> impl Strategy<Value = OwnedRecord> {
    let timestamp = prop_oneof![0..2_000_000_000_000i64, any::<i64>()];
    (timestamp, option::of(bytes(20)), option::of(bytes(200)), vec((bytes(5), option::of(bytes(9))), 0..4))
        .prop_map(|(timestamp_ms, key, value, headers)| OwnedRecord { timestamp_ms, key, value, headers })
}

fn codec() -> impl Strategy<Value = Compression> {
    (0..5usize).prop_map(|number| Compression::ALL[number])
}

fn build(records: &[OwnedRecord], codec: Compression) -> CheckedBatch {
    let mut builder = BatchBuilder::new(0, TimestampType::CreateTime);
    for record in records {
        builder.push(record.timestamp_ms, record.key.as_deref(), record.value.as_deref(), &record.header_views());
    }
    assert_eq!(builder.len(), records.len());
    builder.build(codec).unwrap()
}

fn one_record() -> CheckedBatch {
    let mut builder = BatchBuilder::new(0, TimestampType::CreateTime);
    builder.push(1_700_000_000_000, Some(b"key"), Some(b"value"), &[(b"h", None)]);
    builder.build(Compression::None).unwrap()
}

/// Changes bytes of a batch and makes its checksum right again: damage that only the structure can show.
fn resealed(batch: &CheckedBatch, change: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut changed = batch.bytes().to_vec();
    change(&mut changed);
    let length = i32::try_from(changed.len() - LENGTH_PREFIX_BYTES).unwrap();
    changed[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = crc_fast::crc32_iscsi(&changed[ATTRIBUTES_AT..]);
    changed[CRC_AT..ATTRIBUTES_AT].copy_from_slice(&crc.to_be_bytes());
    Bytes::from(changed)
}

fn refusal(bytes: Bytes) -> Error {
    CheckedBatch::parse_produced(bytes, LIMITS).unwrap_err()
}

proptest! {
    #[test]
    fn what_is_built_parses_and_shows_the_same_records(
        batches in vec((vec(record(), 1..20), codec()), 1..4),
        base_offset in 0..i64::MAX / 2,
    ) {
        let mut body = BytesMut::new();
        for (records, codec) in &batches {
            body.extend_from_slice(build(records, *codec).bytes());
        }
        let parsed = CheckedBatch::parse_produced(body.freeze(), LIMITS).unwrap();
        prop_assert_eq!(parsed.len(), batches.len());
        for (batch, (records, codec)) in parsed.iter().zip(&batches) {
            prop_assert_eq!(batch.compression(), *codec);
            let max = records.iter().map(|record| record.timestamp_ms).max().unwrap();
            prop_assert_eq!(batch.header().max_timestamp_ms, max);
            let mut placed = batch.bytes().to_vec();
            patch_base_offset(&mut placed, base_offset, 7);
            let placed = CheckedBatch::parse_stored(Bytes::from(placed)).unwrap();
            prop_assert_eq!(placed.header().partition_leader_epoch, 7);
            prop_assert_eq!(placed.header().last_offset(), base_offset + records.len() as i64 - 1);
            let viewed = placed.records(LIMITS).unwrap();
            for ((index, view), record) in viewed.iter().enumerate().zip(records) {
                let expected = RecordView {
                    offset: base_offset + index as i64,
                    timestamp_ms: record.timestamp_ms,
                    key: record.key.as_deref(),
                    value: record.value.as_deref(),
                    headers: record.header_views(),
                };
                prop_assert_eq!(view.unwrap(), expected);
            }
            prop_assert_eq!(viewed.iter().count(), records.len());
        }
    }

    #[test]
    fn random_bytes_are_refused_without_a_panic(mut noise in bytes(300), magic in any::<bool>()) {
        if magic && noise.len() > MAGIC_AT {
            noise[MAGIC_AT] = MAGIC;
        }
        prop_assert!(CheckedBatch::parse_produced(Bytes::from(noise), LIMITS).is_err());
    }

    #[test]
    fn a_damaged_batch_is_refused_and_one_resealed_around_damage_never_panics(
        records in vec(record(), 1..10),
        codec in codec(),
        damage in vec((any::<prop::sample::Index>(), 1..=255u8), 1..4),
        cut in option::of(any::<prop::sample::Index>()),
    ) {
        let batch = build(&records, codec);
        let mut broken = batch.bytes().to_vec();
        let at = ATTRIBUTES_AT + damage[0].0.index(broken.len() - ATTRIBUTES_AT);
        broken[at] ^= damage[0].1;
        let noticed = matches!(refusal(Bytes::from(broken)), Error::CorruptBatch { .. });
        prop_assert!(noticed);

        let sealed = resealed(&batch, |bytes| {
            for (index, flip) in &damage {
                let at = ATTRIBUTES_AT + index.index(bytes.len() - ATTRIBUTES_AT);
                bytes[at] ^= flip;
            }
            if let Some(cut) = cut {
                bytes.truncate(HEADER_BYTES + cut.index(bytes.len() - HEADER_BYTES));
            }
        });
        if let Ok(stored) = CheckedBatch::parse_stored(sealed.clone())
            && let Ok(viewed) = stored.records(LIMITS)
        {
            let views = viewed.iter().filter_map(Result::ok).count();
            prop_assert!(views <= LIMITS.decompressed_bytes_max);
        }
        if let Ok(parsed) = CheckedBatch::parse_produced(sealed, LIMITS) {
            for batch in parsed {
                prop_assert!(batch.records(LIMITS).unwrap().iter().all(|view| view.is_ok()));
            }
        }
    }
}

#[test]
fn a_batch_of_a_java_producer_is_read() {
    // One record {key: "k", value: "v", headers: [h: "x"]} as kafka-clients lays it out.
    let record = b"\x18\x00\x00\x00\x02k\x02v\x02\x02h\x02x";
    let mut bytes = vec![0; HEADER_BYTES];
    bytes[MAGIC_AT] = MAGIC;
    bytes[43..57].fill(0xff);
    bytes[57..61].copy_from_slice(&1i32.to_be_bytes());
    bytes.extend(record);
    let length = i32::try_from(bytes.len() - LENGTH_PREFIX_BYTES).unwrap();
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = crc_fast::crc32_iscsi(&bytes[ATTRIBUTES_AT..]);
    bytes[CRC_AT..ATTRIBUTES_AT].copy_from_slice(&crc.to_be_bytes());
    let mut builder = BatchBuilder::new(0, TimestampType::CreateTime);
    builder.push(0, Some(b"k"), Some(b"v"), &[(b"h", Some(b"x"))]);
    let built = builder.build(Compression::None).unwrap();
    assert_eq!(built.bytes()[HEADER_BYTES..], bytes[HEADER_BYTES..]);
    let parsed = CheckedBatch::parse_produced(Bytes::from(bytes), LIMITS).unwrap();
    let records = parsed[0].records(LIMITS).unwrap();
    let view = records.iter().next().unwrap().unwrap();
    assert_eq!((view.key, view.value), (Some(&b"k"[..]), Some(&b"v"[..])));
    assert_eq!(view.headers, vec![(&b"h"[..], Some(&b"x"[..]))]);
}

#[test]
fn null_and_empty_stay_apart_and_headers_keep_order_and_duplicates() {
    let mut builder = BatchBuilder::new(5, TimestampType::CreateTime);
    let headers: [(&[u8], Option<&[u8]>); 4] = [(b"b", Some(b"1")), (b"a", None), (b"b", Some(b"")), (b"", None)];
    builder.push(1, None, Some(b""), &headers);
    builder.push(2, Some(b""), None, &[]);
    let batch = builder.build(Compression::Zstd).unwrap();
    let records = batch.records(LIMITS).unwrap();
    let views: Vec<_> = records.iter().map(Result::unwrap).collect();
    assert_eq!((views[0].key, views[0].value), (None, Some(&b""[..])));
    assert_eq!((views[1].key, views[1].value), (Some(&b""[..]), None));
    assert_eq!(views[0].headers, headers);
    assert_eq!(views[1].offset, 6);
}

#[test]
fn gaps_are_kept_and_offsets_that_do_not_fit_are_refused() {
    let mut builder = BatchBuilder::new(100, TimestampType::CreateTime);
    assert!(builder.push_at(100, 1, None, Some(b"a"), &[]));
    assert!(builder.push_at(107, 1, None, Some(b"b"), &[]));
    assert!(!builder.push_at(107, 1, None, Some(b"again"), &[]));
    assert!(!builder.push_at(100 + (1 << 31), 1, None, Some(b"far"), &[]));
    let batch = builder.build(Compression::None).unwrap();
    let records = batch.records(LIMITS).unwrap();
    let offsets: Vec<_> = records.iter().map(|view| view.unwrap().offset).collect();
    assert_eq!(offsets, [100, 107]);
    assert_eq!((batch.header().last_offset(), batch.header().record_count), (107, 2));
    assert!(matches!(refusal(batch.bytes().clone()), Error::InvalidBatch { .. }));
    assert!(BatchBuilder::new(0, TimestampType::CreateTime).build(Compression::None).is_none());
}

#[test]
fn log_append_time_gives_the_batch_timestamp_to_every_record_and_is_refused_of_clients() {
    let mut builder = BatchBuilder::new(0, TimestampType::LogAppendTime).with_producer(9, 1, 40);
    builder.push(10, None, Some(b"a"), &[]);
    builder.push(30, None, Some(b"b"), &[]);
    builder.push(20, None, Some(b"c"), &[]);
    let batch = builder.build(Compression::Lz4).unwrap();
    let header = *batch.header();
    assert_eq!(header.timestamp_type(), TimestampType::LogAppendTime);
    assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (9, 1, 40));
    let records = batch.records(LIMITS).unwrap();
    assert!(records.iter().all(|view| view.unwrap().timestamp_ms == 30));
    assert!(matches!(refusal(batch.bytes().clone()), Error::InvalidBatch { .. }));
}

#[test]
fn a_wrong_largest_timestamp_is_mended() {
    let bytes = resealed(&one_record(), |bytes| bytes[MAX_TIMESTAMP_AT..MAX_TIMESTAMP_AT + 8].fill(0xff));
    let parsed = CheckedBatch::parse_produced(bytes, LIMITS).unwrap();
    assert_eq!(parsed[0].header().max_timestamp_ms, 1_700_000_000_000);
    assert_eq!(CheckedBatch::parse_stored(parsed[0].bytes().clone()).unwrap().header(), parsed[0].header());
}

#[test]
fn what_a_client_may_not_send_is_refused_by_name() {
    let batch = one_record();
    let attribute = |bits: u8| resealed(&batch, |bytes| bytes[ATTRIBUTES_AT + 1] |= bits);
    for (bytes, word) in [
        (attribute(0b111), "codec 7"),
        (attribute(1 << 5), "control"),
        (attribute(1 << 6), "attributes"),
        (resealed(&batch, |bytes| bytes[60] = 2), "2 records"),
        (resealed(&batch, |bytes| bytes[57..61].fill(0)), "0 records"),
        (resealed(&batch, |bytes| bytes[MAGIC_AT] = 1), "too old"),
        (Bytes::new(), "no batch"),
    ] {
        let error = refusal(bytes);
        assert!(matches!(&error, Error::InvalidBatch { reason } if reason.contains(word)), "{word}: {error}");
    }
    assert!(CheckedBatch::parse_produced(attribute(1 << 4), LIMITS).unwrap()[0].header().is_transactional());
}

#[test]
fn a_record_of_headers_alone_is_refused_beyond_the_limit() {
    let with_headers = |count: usize| {
        let mut builder = BatchBuilder::new(0, TimestampType::CreateTime);
        builder.push(0, None, None, &vec![(&b""[..], None); count]);
        CheckedBatch::parse_produced(builder.build(Compression::None).unwrap().bytes().clone(), LIMITS)
    };
    assert!(with_headers(64 << 10).is_ok());
    assert!(matches!(with_headers((64 << 10) + 1), Err(Error::InvalidBatch { .. })));
}

#[test]
fn claims_beyond_the_bytes_are_corrupt() {
    let batch = one_record();
    let whole = batch.bytes().clone();
    let with_record = |record: &[u8]| {
        resealed(&batch, |bytes| {
            bytes.truncate(HEADER_BYTES);
            bytes.extend(record);
        })
    };
    for (bytes, word) in [
        (whole.slice(..whole.len() - 1), "are left"),
        (whole.slice(..30), "too few"),
        (whole.slice(..10), "too few"),
        (Bytes::from([&whole[..], &whole[..20]].concat()), "too few"),
        (resealed(&batch, |bytes| bytes.push(0)), "after the last record"),
        (with_record(b""), "varint"),
        (with_record(b"\xfe\xff\xff\xff\x0f"), "longer than"),
        (with_record(b"\x10\x00\x00\x00\x01\x01\xc0\x84\x3d"), "headers in"),
        (with_record(b"\x0c\x00\x00\x00\x7e\x01\x00"), "where"),
        (with_record(b"\x0a\x00\x00\x00\x7e\x01"), "where"),
        (with_record(b"\x0c\x00\x00\x00\x03\x01\x00"), "impossible"),
        (with_record(b"\x16\x00\x00\x00\x01\x01\x02\x01\x01\x00\x00\x00"), "no key"),
    ] {
        let error = refusal(bytes);
        assert!(matches!(&error, Error::CorruptBatch { reason } if reason.contains(word)), "{word}: {error}");
    }
    let mut short = whole.to_vec();
    short[8..12].copy_from_slice(&48i32.to_be_bytes());
    assert!(refusal(Bytes::from(short)).to_string().contains("shorter than a header"));
    let mut negative = whole.to_vec();
    negative[8..12].copy_from_slice(&(-1i32).to_be_bytes());
    assert!(refusal(Bytes::from(negative)).to_string().contains("shorter than a header"));
}
