//! The table against the message crate, and both against hostile bytes.
//!
//! Requests are generated from the table; that the crate decodes each of them to its last byte shows that the two agree
//! on every field of every version we advertise. Then bytes are flipped, cut and inflated: whatever the walk lets
//! through, the crate must take without a panic; a count it trusted would abort this test.

use kafka_protocol::messages::*;
use kafka_protocol::protocol::Decodable;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::api::{APIS, Api, Incoming, Request};
use super::super::wire::Writer;
use super::super::{fetch, produce};
use super::*;

/// transactional_id, acks, timeout_ms, topics [name, partitions [index, records]]
const PRODUCE: &[Field] = &[
    always(STRING),
    always(INT16),
    always(INT32),
    always(Kind::Array(&Kind::Struct(&[
        always(STRING),
        always(Kind::Array(&Kind::Struct(&[always(INT32), always(Kind::Bytes)]))),
    ]))),
];

/// replica_id, max_wait_ms, min_bytes, max_bytes, isolation_level, session_id, session_epoch, topics [name, partitions
/// [partition, current_leader_epoch, fetch_offset, last_fetched_epoch, log_start_offset, partition_max_bytes]],
/// forgotten_topics_data [name, partitions], rack_id
const FETCH: &[Field] = &[
    always(INT32),
    always(INT32),
    always(INT32),
    always(INT32),
    always(INT8),
    since(7, INT32),
    since(7, INT32),
    always(Kind::Array(&Kind::Struct(&[
        always(STRING),
        always(Kind::Array(&Kind::Struct(&[
            always(INT32),
            since(9, INT32),
            always(INT64),
            since(12, INT32),
            since(5, INT64),
            always(INT32),
        ]))),
    ]))),
    since(7, Kind::Array(&Kind::Struct(&[always(STRING), always(INT32S)]))),
    since(11, STRING),
];

fn fields(api: &Api) -> &'static [Field] {
    match api.key {
        ApiKey::Produce => PRODUCE,
        ApiKey::Fetch => FETCH,
        _ => api.schema.unwrap(),
    }
}

/// Writes random valid messages.
struct Generator {
    random: StdRng,
    writer: Writer,
    version: i16,
    flexible: bool,
}

impl Generator {
    fn fields(&mut self, fields: &'static [Field]) {
        let version = self.version;
        for field in fields.iter().filter(|field| (field.since..=field.until).contains(&version)) {
            self.kind(&field.kind);
        }
        if self.flexible {
            let tags = self.random.random_range(0..3_u32);
            self.writer.uvarint(tags);
            for tag in 0..tags {
                self.writer.uvarint(1_000 + tag);
                self.writer.uvarint(2);
                self.writer.bytes.extend_from_slice(&[1, 2]);
            }
        }
    }

    fn kind(&mut self, kind: &'static Kind) {
        match kind {
            Kind::Fixed(bytes) => {
                let random: Vec<u8> = (0..*bytes).map(|_| self.random.random()).collect();
                self.writer.bytes.extend_from_slice(&random);
            }
            Kind::String => {
                let text = "é".repeat(self.random.random_range(0..5));
                self.writer.string(&text, self.flexible);
            }
            Kind::Bytes => {
                let bytes: Vec<u8> = (0..self.random.random_range(0..20)).map(|_| self.random.random()).collect();
                self.writer.length(bytes.len(), self.flexible);
                self.writer.bytes.extend_from_slice(&bytes);
            }
            Kind::Array(element) => {
                let count = self.random.random_range(0..4);
                self.writer.length(count, self.flexible);
                (0..count).for_each(|_| self.kind(element));
            }
            Kind::Struct(fields) => self.fields(fields),
        }
    }
}

/// A whole frame: header and message.
fn generate(api: &Api, version: i16, seed: u64) -> Vec<u8> {
    let flexible = version >= api.flexible_since;
    let mut generator = Generator { random: StdRng::seed_from_u64(seed), writer: Writer::default(), version, flexible };
    generator.writer.bytes.extend_from_slice(&(api.key as i16).to_be_bytes());
    generator.writer.bytes.extend_from_slice(&version.to_be_bytes());
    generator.writer.bytes.extend_from_slice(&7_i32.to_be_bytes());
    generator.writer.string("client", false);
    generator.writer.no_tagged_fields(flexible);
    generator.fields(fields(api));
    generator.writer.bytes.to_vec()
}

/// Decodes with the crate alone and answers how many bytes it left.
fn left_by_crate(request: &Request) -> usize {
    fn left<T: Decodable>(request: &Request) -> usize {
        let mut body = request.body.clone();
        T::decode(&mut body, request.header.version).unwrap();
        body.len()
    }
    match request.header.api.key {
        ApiKey::Produce => left::<ProduceRequest>(request),
        ApiKey::Fetch => left::<FetchRequest>(request),
        _ => decode(request, true).map_or(usize::MAX, |()| 0),
    }
}

/// Decodes as the handlers do.
fn decode(request: &Request, whole: bool) -> Result<(), Malformed> {
    fn one<T: Decodable>(request: &Request, whole: bool) -> Result<(), Malformed> {
        request.decode::<T>()?;
        let mut body = request.body.clone();
        T::decode(&mut body, request.header.version).unwrap();
        assert!(!whole || body.is_empty(), "the crate left {} bytes", body.len());
        Ok(())
    }
    match request.header.api.key {
        ApiKey::Produce => produce::parse(request).map(drop),
        ApiKey::Fetch => fetch::parse(request, 0).map(drop),
        ApiKey::ListOffsets => one::<ListOffsetsRequest>(request, whole),
        ApiKey::Metadata => one::<MetadataRequest>(request, whole),
        ApiKey::OffsetCommit => one::<OffsetCommitRequest>(request, whole),
        ApiKey::OffsetFetch => one::<OffsetFetchRequest>(request, whole),
        ApiKey::FindCoordinator => one::<FindCoordinatorRequest>(request, whole),
        ApiKey::JoinGroup => one::<JoinGroupRequest>(request, whole),
        ApiKey::Heartbeat => one::<HeartbeatRequest>(request, whole),
        ApiKey::LeaveGroup => one::<LeaveGroupRequest>(request, whole),
        ApiKey::SyncGroup => one::<SyncGroupRequest>(request, whole),
        ApiKey::DescribeGroups => one::<DescribeGroupsRequest>(request, whole),
        ApiKey::ListGroups => one::<ListGroupsRequest>(request, whole),
        ApiKey::ApiVersions => one::<ApiVersionsRequest>(request, whole),
        ApiKey::CreateTopics => one::<CreateTopicsRequest>(request, whole),
        ApiKey::DeleteTopics => one::<DeleteTopicsRequest>(request, whole),
        ApiKey::InitProducerId => one::<InitProducerIdRequest>(request, whole),
        ApiKey::DescribeConfigs => one::<DescribeConfigsRequest>(request, whole),
        ApiKey::DeleteGroups => one::<DeleteGroupsRequest>(request, whole),
        ApiKey::DescribeCluster => one::<DescribeClusterRequest>(request, whole),
        other => panic!("{other:?} is advertised but not tested"),
    }
}

fn parse(frame: Vec<u8>) -> Result<Request, Malformed> {
    match Incoming::parse(frame.into())? {
        Incoming::Request(request) => Ok(request),
        Incoming::UnknownApiVersions { .. } => Err(Malformed::new("version")),
    }
}

#[test]
fn every_request_of_every_version_passes_the_walk_and_the_crate_reads_it_to_its_end() {
    for api in &APIS {
        for version in api.min..=api.max {
            for seed in 0..20 {
                let request = parse(generate(api, version, seed)).unwrap();
                decode(&request, true).unwrap_or_else(|error| panic!("{:?} {version}: {error}", api.key));
                assert_eq!(left_by_crate(&request), 0, "{:?} {version}", api.key);
            }
        }
    }
}

#[test]
fn the_frame_that_aborts_the_crate_is_refused() {
    let mut frame = vec![0, 3, 0, 1, 0, 0, 0, 7, 0xff, 0xff];
    frame.extend(i32::MAX.to_be_bytes());
    let request = parse(frame).unwrap();
    assert!(request.decode::<MetadataRequest>().is_err());
}

#[test]
fn more_elements_than_allowed_are_refused_though_they_fit_the_frame() {
    let count = ELEMENTS_MAX as usize + 1;
    let mut frame = vec![0, 3, 0, 1, 0, 0, 0, 7, 0xff, 0xff];
    frame.extend(i32::try_from(count).unwrap().to_be_bytes());
    frame.extend(std::iter::repeat_n(0, 2 * count));
    assert!(parse(frame).unwrap().decode::<MetadataRequest>().is_err());
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(request) = parse(bytes) {
            let _ = decode(&request, false);
        }
    }

    #[test]
    fn changed_requests_never_panic(
        which in 0..APIS.len(), version in any::<prop::sample::Index>(), seed in any::<u64>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in proptest::option::of(any::<prop::sample::Index>()),
        inflate in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let api = &APIS[which];
        let version = api.min + i16::try_from(version.index(usize::try_from(api.max - api.min).unwrap() + 1)).unwrap();
        let mut frame = generate(api, version, seed);
        for (at, value) in changes {
            let at = at.index(frame.len());
            frame[at] = value;
        }
        if let Some(at) = inflate {
            let at = at.index(frame.len());
            for byte in frame[at..].iter_mut().take(4) {
                *byte = 0x7f;
            }
        }
        if let Some(at) = cut {
            frame.truncate(at.index(frame.len()));
        }
        if let Ok(request) = parse(frame) {
            let _ = decode(&request, false);
        }
    }
}
