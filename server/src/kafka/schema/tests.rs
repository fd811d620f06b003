//! The table against the message crate, and both against hostile bytes.
//!
//! Requests are generated from the table; that the crate decodes each of them to its last byte shows that the two agree
//! on every field of every version we advertise. Then bytes are flipped, cut and inflated: whatever the walk lets
//! through, the crate must take without a panic; a count it trusted would abort this test.

use kafka_protocol::messages::*;
use kafka_protocol::protocol::Decodable;
use proptest::prelude::*;

use super::super::api::{APIS, Incoming, Request};
use super::super::{fetch, produce};
use super::generate::generate;
use super::*;

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
        ApiKey::AlterConfigs => one::<AlterConfigsRequest>(request, whole),
        ApiKey::IncrementalAlterConfigs => one::<IncrementalAlterConfigsRequest>(request, whole),
        ApiKey::CreatePartitions => one::<CreatePartitionsRequest>(request, whole),
        ApiKey::DeleteRecords => one::<DeleteRecordsRequest>(request, whole),
        ApiKey::OffsetForLeaderEpoch => one::<OffsetForLeaderEpochRequest>(request, whole),
        ApiKey::DescribeLogDirs => one::<DescribeLogDirsRequest>(request, whole),
        ApiKey::DeleteGroups => one::<DeleteGroupsRequest>(request, whole),
        ApiKey::DescribeCluster => one::<DescribeClusterRequest>(request, whole),
        ApiKey::AddPartitionsToTxn => one::<AddPartitionsToTxnRequest>(request, whole),
        ApiKey::AddOffsetsToTxn => one::<AddOffsetsToTxnRequest>(request, whole),
        ApiKey::EndTxn => one::<EndTxnRequest>(request, whole),
        ApiKey::TxnOffsetCommit => one::<TxnOffsetCommitRequest>(request, whole),
        ApiKey::DescribeProducers => one::<DescribeProducersRequest>(request, whole),
        ApiKey::DescribeTransactions => one::<DescribeTransactionsRequest>(request, whole),
        ApiKey::ListTransactions => one::<ListTransactionsRequest>(request, whole),
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
    for api in APIS {
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
