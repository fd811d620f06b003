//! The requests we answer and their versions: one table, from which ApiVersions, the dispatch and the checks are made.
//!
//! Produce is advertised from version 0 although 0 to 2 are not served: librdkafka before 2.15 turns compression off
//! otherwise, and Kafka does the same. Fetch and Produce stop where topic ids replace names.

use bytes::Bytes;
use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::{Decodable, StrBytes};

use super::schema::{self, Field};
use super::wire::{Malformed, Reader};

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) key: ApiKey,
    /// Lowest version that ApiVersions tells.
    pub(crate) advertised_min: i16,
    /// Lowest version that is answered.
    pub(crate) min: i16,
    /// Highest version.
    pub(crate) max: i16,
    /// First version with compact lengths and tagged fields.
    pub(crate) flexible_since: i16,
    /// Its fields; `None` for those read by hand.
    pub(crate) schema: Option<&'static [Field]>,
}

const fn api(key: ApiKey, min: i16, max: i16, flexible_since: i16, schema: &'static [Field]) -> Api {
    Api { key, advertised_min: min, min, max, flexible_since, schema: Some(schema) }
}

/// Everything we answer.
pub(crate) static APIS: &[Api] = &[
    Api { key: ApiKey::Produce, advertised_min: 0, min: 3, max: 12, flexible_since: 9, schema: None },
    Api { key: ApiKey::Fetch, advertised_min: 4, min: 4, max: 12, flexible_since: 12, schema: None },
    api(ApiKey::ListOffsets, 1, 9, 6, schema::LIST_OFFSETS),
    api(ApiKey::Metadata, 0, 12, 9, schema::METADATA),
    api(ApiKey::OffsetCommit, 2, 8, 8, schema::OFFSET_COMMIT),
    api(ApiKey::OffsetFetch, 1, 8, 6, schema::OFFSET_FETCH),
    api(ApiKey::FindCoordinator, 0, 4, 3, schema::FIND_COORDINATOR),
    api(ApiKey::JoinGroup, 0, 9, 6, schema::JOIN_GROUP),
    api(ApiKey::Heartbeat, 0, 4, 4, schema::HEARTBEAT),
    api(ApiKey::LeaveGroup, 0, 5, 4, schema::LEAVE_GROUP),
    api(ApiKey::SyncGroup, 0, 5, 4, schema::SYNC_GROUP),
    api(ApiKey::DescribeGroups, 0, 5, 5, schema::DESCRIBE_GROUPS),
    api(ApiKey::ListGroups, 0, 4, 3, schema::LIST_GROUPS),
    api(ApiKey::ApiVersions, 0, 4, 3, schema::API_VERSIONS),
    api(ApiKey::CreateTopics, 2, 7, 5, schema::CREATE_TOPICS),
    api(ApiKey::DeleteTopics, 1, 6, 4, schema::DELETE_TOPICS),
    api(ApiKey::InitProducerId, 0, 4, 2, schema::INIT_PRODUCER_ID),
    // librdkafka speaks version 0 of the next two alone, and 0 or 1 of EndTxn.
    api(ApiKey::AddPartitionsToTxn, 0, 3, 3, schema::ADD_PARTITIONS_TO_TXN),
    api(ApiKey::AddOffsetsToTxn, 0, 3, 3, schema::ADD_OFFSETS_TO_TXN),
    api(ApiKey::EndTxn, 0, 3, 3, schema::END_TXN),
    api(ApiKey::TxnOffsetCommit, 0, 3, 3, schema::TXN_OFFSET_COMMIT),
    api(ApiKey::DeleteRecords, 0, 2, 2, schema::DELETE_RECORDS),
    api(ApiKey::OffsetForLeaderEpoch, 2, 4, 4, schema::OFFSET_FOR_LEADER_EPOCH),
    api(ApiKey::DescribeConfigs, 1, 4, 4, schema::DESCRIBE_CONFIGS),
    api(ApiKey::AlterConfigs, 0, 2, 2, schema::ALTER_CONFIGS),
    api(ApiKey::DescribeLogDirs, 1, 4, 2, schema::DESCRIBE_LOG_DIRS),
    api(ApiKey::CreatePartitions, 0, 3, 2, schema::CREATE_PARTITIONS),
    api(ApiKey::IncrementalAlterConfigs, 0, 1, 1, schema::INCREMENTAL_ALTER_CONFIGS),
    api(ApiKey::DeleteGroups, 0, 2, 2, schema::DELETE_GROUPS),
    api(ApiKey::DescribeCluster, 0, 1, 0, schema::DESCRIBE_CLUSTER),
    api(ApiKey::DescribeProducers, 0, 0, 0, schema::DESCRIBE_PRODUCERS),
    api(ApiKey::DescribeTransactions, 0, 0, 0, schema::DESCRIBE_TRANSACTIONS),
    api(ApiKey::ListTransactions, 0, 1, 0, schema::LIST_TRANSACTIONS),
];

/// The line for a key, if we answer it in some version.
pub(crate) fn find(key: i16) -> Option<&'static Api> {
    APIS.iter().find(|api| api.key as i16 == key)
}

/// What stands in front of every request.
#[derive(Clone, Debug)]
pub(crate) struct RequestHeader {
    pub(crate) api: &'static Api,
    pub(crate) version: i16,
    pub(crate) correlation_id: i32,
    pub(crate) client_id: Option<StrBytes>,
}

impl RequestHeader {
    /// Whether lengths are varints and tagged fields follow.
    pub(crate) fn flexible(&self) -> bool {
        self.version >= self.api.flexible_since
    }
}

/// One request: its header, and its body not yet decoded.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) header: RequestHeader,
    pub(crate) body: Bytes,
}

/// A frame, told apart.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// To be answered.
    Request(Request),
    /// ApiVersions in a version from the future: answered in version 0 with error 35, and the client tries again.
    UnknownApiVersions { correlation_id: i32 },
}

impl Incoming {
    /// Reads the header.
    ///
    /// # Errors
    /// Bytes that are no header, and requests or versions that are not answered: Kafka closes the connection then.
    pub(crate) fn parse(frame: Bytes) -> Result<Self, Malformed> {
        let mut reader = Reader::new(frame);
        let (key, version, correlation_id) = (reader.int16()?, reader.int16()?, reader.int32()?);
        let unsupported = || Malformed::new(format!("request {key} in version {version} is not supported"));
        let api = find(key).ok_or_else(unsupported)?;
        if !(api.min..=api.max).contains(&version) {
            return match api.key {
                ApiKey::ApiVersions => Ok(Self::UnknownApiVersions { correlation_id }),
                _ => Err(unsupported()),
            };
        }
        // The client id keeps its old encoding in flexible versions too.
        let client_id = reader.nullable_string(false)?;
        let header = RequestHeader { api, version, correlation_id, client_id };
        if header.flexible() {
            reader.skip_tagged_fields()?;
        }
        Ok(Self::Request(Request { header, body: reader.rest() }))
    }
}

impl Request {
    /// Checks the body's shape, then lets the message crate decode it.
    ///
    /// # Errors
    /// Whatever is wrong with it.
    pub(crate) fn decode<T: Decodable>(&self) -> Result<T, Malformed> {
        let schema = self.header.api.schema.ok_or_else(|| Malformed::new("no schema for this request"))?;
        schema::check(schema, &self.body, self.header.version, self.header.flexible())?;
        let mut body = self.body.clone();
        T::decode(&mut body, self.header.version).map_err(|error| Malformed::new(error.to_string()))
    }
}
