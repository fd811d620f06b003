//! From a request's key to its handler: decoded once, answered in the version it was asked in.

use std::net::SocketAddr;

use kafka_protocol::messages::{
    AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, AlterConfigsRequest, ApiKey, ApiVersionsRequest,
    CreatePartitionsRequest, CreateTopicsRequest, DeleteGroupsRequest, DeleteRecordsRequest, DeleteTopicsRequest,
    DescribeClusterRequest, DescribeConfigsRequest, DescribeGroupsRequest, DescribeLogDirsRequest,
    DescribeProducersRequest, DescribeTransactionsRequest, EndTxnRequest, FindCoordinatorRequest, HeartbeatRequest,
    IncrementalAlterConfigsRequest, InitProducerIdRequest, JoinGroupRequest, LeaveGroupRequest, ListGroupsRequest,
    ListOffsetsRequest, ListTransactionsRequest, MetadataRequest, OffsetCommitRequest, OffsetFetchRequest,
    OffsetForLeaderEpochRequest, SyncGroupRequest, TxnOffsetCommitRequest,
};

use super::api::{Api, Request, RequestHeader};
use super::broker::Broker;
use super::frame::Response;
use super::turns::Turns;
use super::wire::Malformed;
use super::{
    commits, configs, fetch, groups, metadata, offsets, partitions, producer, topics, transaction_views, transactions,
};

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller<'a> {
    pub(crate) broker: &'a Broker,
    pub(crate) peer: SocketAddr,
    /// What its fetches were answered with.
    pub(crate) turns: &'a Turns,
}

/// Answers every request but Produce, which the connection submits itself.
///
/// # Errors
/// A body that is none, which closes the connection.
pub(crate) async fn answer(caller: Caller<'_>, request: &Request) -> Result<Response, Malformed> {
    let (broker, version) = (caller.broker, request.header.version);
    let header = &request.header;
    match header.api.key {
        ApiKey::Fetch => fetch::answer(broker, request, caller.turns).await,
        ApiKey::ApiVersions => {
            request.decode::<ApiVersionsRequest>()?;
            Response::message(header, &metadata::api_versions())
        }
        ApiKey::Metadata => {
            let asked: MetadataRequest = request.decode()?;
            let mut share = broker.answer_room.share();
            let told = metadata::metadata(broker, asked, version, &mut share).await?;
            share.framed(header, &told)
        }
        ApiKey::ListOffsets => {
            let asked: ListOffsetsRequest = request.decode()?;
            Response::message(header, &offsets::list(broker, asked, version).await)
        }
        ApiKey::CreateTopics => {
            let asked: CreateTopicsRequest = request.decode()?;
            let mut share = broker.answer_room.share();
            let told = topics::create(broker, asked, version, &mut share).await?;
            share.framed(header, &told)
        }
        ApiKey::DeleteTopics => {
            let asked: DeleteTopicsRequest = request.decode()?;
            Response::message(header, &topics::delete(broker, asked, version).await)
        }
        ApiKey::FindCoordinator => {
            let asked: FindCoordinatorRequest = request.decode()?;
            Response::message(header, &metadata::find_coordinator(broker, asked, version))
        }
        ApiKey::OffsetCommit => {
            let asked: OffsetCommitRequest = request.decode()?;
            Response::message(header, &commits::commit(broker, asked).await)
        }
        ApiKey::OffsetFetch => {
            let asked: OffsetFetchRequest = request.decode()?;
            let mut share = broker.answer_room.share();
            let told = commits::fetch(broker, asked, version, &mut share).await?;
            share.framed(header, &told)
        }
        _ => answer_group(caller, request).await,
    }
}

/// What tools ask about topics that are there.
async fn answer_admin(broker: &Broker, request: &Request) -> Result<Response, Malformed> {
    let header = &request.header;
    match header.api.key {
        ApiKey::DescribeConfigs => {
            let asked: DescribeConfigsRequest = request.decode()?;
            let mut share = broker.answer_room.share();
            let told = configs::describe(broker, &asked, header.version, &mut share).await?;
            share.framed(header, &told)
        }
        ApiKey::AlterConfigs => {
            let asked: AlterConfigsRequest = request.decode()?;
            Response::message(header, &configs::alter(broker, asked).await)
        }
        ApiKey::IncrementalAlterConfigs => {
            let asked: IncrementalAlterConfigsRequest = request.decode()?;
            Response::message(header, &configs::alter_incrementally(broker, asked).await)
        }
        ApiKey::CreatePartitions => {
            let asked: CreatePartitionsRequest = request.decode()?;
            Response::message(header, &partitions::create(broker, asked).await)
        }
        ApiKey::DeleteRecords => {
            let asked: DeleteRecordsRequest = request.decode()?;
            Response::message(header, &partitions::delete_records(broker, asked).await)
        }
        ApiKey::OffsetForLeaderEpoch => {
            let asked: OffsetForLeaderEpochRequest = request.decode()?;
            Response::message(header, &partitions::epoch_ends(broker, asked))
        }
        ApiKey::DescribeLogDirs => {
            let asked: DescribeLogDirsRequest = request.decode()?;
            let mut share = broker.answer_room.share();
            let told = partitions::log_dirs(broker, asked, &mut share).await?;
            share.framed(header, &told)
        }
        other => Err(Malformed::new(format!("{other:?} has no handler"))),
    }
}

/// The requests of consumer groups, and what is asked of the cluster.
async fn answer_group(caller: Caller<'_>, request: &Request) -> Result<Response, Malformed> {
    let (broker, version) = (caller.broker, request.header.version);
    let header = &request.header;
    match header.api.key {
        ApiKey::JoinGroup => {
            let client_id = header.client_id.as_deref().unwrap_or_default();
            let asked: JoinGroupRequest = request.decode()?;
            Response::message(header, &groups::join(caller, client_id, asked, version).await)
        }
        ApiKey::SyncGroup => {
            let asked: SyncGroupRequest = request.decode()?;
            Response::message(header, &groups::sync(broker, asked).await)
        }
        ApiKey::Heartbeat => {
            let asked: HeartbeatRequest = request.decode()?;
            Response::message(header, &groups::heartbeat(broker, &asked))
        }
        ApiKey::LeaveGroup => {
            let asked: LeaveGroupRequest = request.decode()?;
            Response::message(header, &groups::leave(broker, asked, version))
        }
        ApiKey::ListGroups => {
            let asked: ListGroupsRequest = request.decode()?;
            Response::message(header, &groups::list(broker, &asked))
        }
        ApiKey::DescribeGroups => {
            let asked: DescribeGroupsRequest = request.decode()?;
            let mut share = broker.answer_room.share();
            let told = groups::describe(broker, &asked, version, &mut share).await?;
            share.framed(header, &told)
        }
        ApiKey::DeleteGroups => {
            let asked: DeleteGroupsRequest = request.decode()?;
            Response::message(header, &groups::delete(broker, asked).await)
        }
        ApiKey::DescribeCluster => {
            let asked: DescribeClusterRequest = request.decode()?;
            Response::message(header, &metadata::describe_cluster(broker, &asked))
        }
        _ => answer_transaction(broker, request).await,
    }
}

/// The requests of transactional producers, and what is asked about them.
async fn answer_transaction(broker: &Broker, request: &Request) -> Result<Response, Malformed> {
    let (header, version) = (&request.header, request.header.version);
    match header.api.key {
        ApiKey::InitProducerId => {
            let asked: InitProducerIdRequest = request.decode()?;
            Response::message(header, &producer::init(broker, &asked, version).await)
        }
        ApiKey::AddPartitionsToTxn => {
            let asked: AddPartitionsToTxnRequest = request.decode()?;
            Response::message(header, &transactions::add_partitions(broker, asked, version).await)
        }
        ApiKey::AddOffsetsToTxn => {
            let asked: AddOffsetsToTxnRequest = request.decode()?;
            Response::message(header, &transactions::add_offsets(broker, &asked, version).await)
        }
        ApiKey::TxnOffsetCommit => {
            let asked: TxnOffsetCommitRequest = request.decode()?;
            Response::message(header, &transactions::commit_offsets(broker, asked).await)
        }
        ApiKey::EndTxn => {
            let asked: EndTxnRequest = request.decode()?;
            Response::message(header, &transactions::end(broker, &asked, version).await)
        }
        ApiKey::DescribeProducers => {
            let asked: DescribeProducersRequest = request.decode()?;
            let mut share = broker.answer_room.share();
            let told = transaction_views::producers(broker, asked, &mut share).await?;
            share.framed(header, &told)
        }
        ApiKey::DescribeTransactions => {
            let asked: DescribeTransactionsRequest = request.decode()?;
            let mut share = broker.answer_room.share();
            let told = transaction_views::describe(broker, asked, &mut share).await?;
            share.framed(header, &told)
        }
        ApiKey::ListTransactions => {
            let asked: ListTransactionsRequest = request.decode()?;
            Response::message(header, &transaction_views::list(broker, &asked))
        }
        _ => answer_admin(broker, request).await,
    }
}

/// For an ApiVersions from the future: version 0 with error 35.
pub(crate) fn unknown_api_versions(api: &'static Api, correlation_id: i32) -> Result<Response, Malformed> {
    let header = RequestHeader { api, version: 0, correlation_id, client_id: None };
    Response::message(&header, &metadata::unknown_api_versions(api))
}

#[cfg(test)]
mod tests;
