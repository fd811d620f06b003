//! From a request's key to its handler: decoded once, answered in the version it was asked in.

use std::net::SocketAddr;

use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, CreateTopicsRequest, DeleteTopicsRequest, DescribeClusterRequest,
    DescribeConfigsRequest, FindCoordinatorRequest, InitProducerIdRequest, ListOffsetsRequest, MetadataRequest,
};

use super::api::{Api, Request, RequestHeader};
use super::broker::Broker;
use super::frame::Response;
use super::wire::Malformed;
use super::{configs, fetch, metadata, offsets, producer, topics};

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller<'a> {
    pub(crate) broker: &'a Broker,
    pub(crate) peer: SocketAddr,
}

/// Answers every request but Produce, which the connection submits itself.
///
/// # Errors
/// A body that is none, which closes the connection.
pub(crate) async fn answer(caller: Caller<'_>, request: &Request) -> Result<Response, Malformed> {
    let (broker, version) = (caller.broker, request.header.version);
    let header = &request.header;
    match header.api.key {
        ApiKey::Fetch => fetch::answer(broker, request).await,
        ApiKey::ApiVersions => {
            request.decode::<ApiVersionsRequest>()?;
            Response::message(header, &metadata::api_versions())
        }
        ApiKey::Metadata => {
            let asked: MetadataRequest = request.decode()?;
            Response::message(header, &metadata::metadata(broker, asked, version).await)
        }
        ApiKey::ListOffsets => {
            let asked: ListOffsetsRequest = request.decode()?;
            Response::message(header, &offsets::list(broker, asked, version).await)
        }
        ApiKey::CreateTopics => {
            let asked: CreateTopicsRequest = request.decode()?;
            Response::message(header, &topics::create(broker, asked, version).await)
        }
        ApiKey::DeleteTopics => {
            let asked: DeleteTopicsRequest = request.decode()?;
            Response::message(header, &topics::delete(broker, asked, version).await)
        }
        ApiKey::InitProducerId => {
            let asked: InitProducerIdRequest = request.decode()?;
            Response::message(header, &producer::init(broker, &asked).await)
        }
        ApiKey::FindCoordinator => {
            let asked: FindCoordinatorRequest = request.decode()?;
            Response::message(header, &metadata::find_coordinator(broker, asked, version))
        }
        ApiKey::DescribeCluster => {
            let asked: DescribeClusterRequest = request.decode()?;
            Response::message(header, &metadata::describe_cluster(broker, &asked))
        }
        ApiKey::DescribeConfigs => {
            let asked: DescribeConfigsRequest = request.decode()?;
            Response::message(header, &configs::describe(broker, &asked))
        }
        other => Err(Malformed::new(format!("{other:?} has no handler"))),
    }
}

/// For an ApiVersions from the future: version 0 with error 35.
pub(crate) fn unknown_api_versions(api: &'static Api, correlation_id: i32) -> Result<Response, Malformed> {
    let header = RequestHeader { api, version: 0, correlation_id, client_id: None };
    Response::message(&header, &metadata::unknown_api_versions(api))
}
