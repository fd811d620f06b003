//! The group requests on the wire: JoinGroup, SyncGroup, Heartbeat, LeaveGroup, and those of administration.
//!
//! Translates messages into the events of `group` and back. Members' bytes are copied out of their frames, so that a
//! member of a hundred bytes does not keep a frame of a megabyte alive.

use std::collections::{BTreeSet, HashSet};

use aquifer_storage::{Commit, GroupOffsetChange};
use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::{
    DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse, GroupId,
    HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse,
    ListGroupsRequest, ListGroupsResponse, SyncGroupRequest, SyncGroupResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::answers::AnswerShare;
use super::broker::{Broker, text};
use super::dispatch::Caller;
use super::errors::Refusal;
use super::group::{Answer, Group, Join, Joined, State, Sync, Who};
use super::wire::Malformed;

/// Session timeouts taken, as Kafka's defaults have it (`group.min.session.timeout.ms`, `group.max…`).
const SESSION_TIMEOUT_MS: std::ops::RangeInclusive<i32> = 6_000..=1_800_000;
/// The type of groups whose members are consumers; its members' metadata is known to tools.
const CONSUMER: &str = "consumer";
/// What a member takes in an answer until it is written beside its texts, about.
const MEMBER_BYTES: usize = 384;
/// A state that only describing shows: no members, no offsets.
const DEAD: &str = "Dead";

fn optional(text: Option<&StrBytes>) -> Option<String> {
    text.map(|text| text.as_str().to_owned())
}

fn who(member_id: &StrBytes, instance_id: Option<&StrBytes>) -> Who {
    Who { member_id: member_id.as_str().to_owned(), instance_id: optional(instance_id) }
}

fn millis(ms: i32) -> u64 {
    u64::try_from(ms).unwrap_or(0)
}

/// Answers JoinGroup when the generation begins.
pub(crate) async fn join(
    caller: Caller<'_>,
    client_id: &str,
    request: JoinGroupRequest,
    version: i16,
) -> JoinGroupResponse {
    if request.group_id.is_empty() {
        return join_refused(ResponseError::InvalidGroupId, &request.member_id, version);
    }
    if !SESSION_TIMEOUT_MS.contains(&request.session_timeout_ms) {
        return join_refused(ResponseError::InvalidSessionTimeout, &request.member_id, version);
    }
    let coordinator = &caller.broker.coordinator;
    let rebalance_timeout = if version >= 1 { request.rebalance_timeout_ms } else { request.session_timeout_ms };
    let protocols = request.protocols.iter();
    let protocols =
        protocols.map(|protocol| (protocol.name.as_str().to_owned(), Bytes::copy_from_slice(&protocol.metadata)));
    let protocols = protocols.collect();
    let answer = coordinator.join(&request.group_id, |ticket| Join {
        ticket,
        member_id: request.member_id.as_str().to_owned(),
        instance_id: optional(request.group_instance_id.as_ref()),
        fresh_member_id: coordinator.fresh_member_id(client_id),
        client_id: client_id.to_owned(),
        client_host: format!("/{}", caller.peer.ip()),
        session_timeout_ms: millis(request.session_timeout_ms),
        rebalance_timeout_ms: millis(rebalance_timeout),
        protocol_type: request.protocol_type.as_str().to_owned(),
        protocols,
        requires_member_id: version >= 4,
        knows_skip_assignment: version >= 9,
    });
    match answer.await {
        Answer::Joined(joined) => join_answered(joined, version),
        Answer::JoinRefused(error, member_id) => join_refused(error, &text(&member_id), version),
        Answer::Synced(_) | Answer::SyncRefused(_) => {
            join_refused(ResponseError::UnknownServerError, &request.member_id, version)
        }
    }
}

fn join_answered(joined: Joined, version: i16) -> JoinGroupResponse {
    let members = joined.members.into_iter().map(|(id, instance, metadata)| {
        JoinGroupResponseMember::default()
            .with_member_id(StrBytes::from_string(id))
            .with_group_instance_id(instance.map(StrBytes::from_string).filter(|_| version >= 5))
            .with_metadata(metadata)
    });
    JoinGroupResponse::default()
        .with_generation_id(joined.generation)
        .with_protocol_type(Some(StrBytes::from_string(joined.protocol_type)))
        .with_protocol_name(Some(StrBytes::from_string(joined.protocol)))
        .with_leader(StrBytes::from_string(joined.leader))
        .with_member_id(StrBytes::from_string(joined.member_id))
        .with_members(members.collect())
        .with_skip_assignment(joined.skip_assignment)
}

fn join_refused(error: ResponseError, member_id: &StrBytes, version: i16) -> JoinGroupResponse {
    // Only from version 7 on may the protocol be null.
    let protocol = if version >= 7 { None } else { Some(StrBytes::new()) };
    JoinGroupResponse::default()
        .with_error_code(error.code())
        .with_generation_id(-1)
        .with_protocol_name(protocol)
        .with_member_id(member_id.clone())
}

/// Answers SyncGroup when the leader has assigned.
pub(crate) async fn sync(broker: &Broker, request: SyncGroupRequest) -> SyncGroupResponse {
    let assignments = request.assignments.iter();
    let assignments =
        assignments.map(|one| (one.member_id.as_str().to_owned(), Bytes::copy_from_slice(&one.assignment)));
    let assignments = assignments.collect();
    let answer = broker.coordinator.sync(&request.group_id, |ticket| Sync {
        ticket,
        who: who(&request.member_id, request.group_instance_id.as_ref()),
        generation: request.generation_id,
        protocol_type: optional(request.protocol_type.as_ref()),
        protocol: optional(request.protocol_name.as_ref()),
        assignments,
    });
    let response = SyncGroupResponse::default();
    match answer.await {
        Answer::Synced(synced) => response
            .with_protocol_type(Some(StrBytes::from_string(synced.protocol_type)))
            .with_protocol_name(Some(StrBytes::from_string(synced.protocol)))
            .with_assignment(synced.assignment),
        Answer::SyncRefused(error) | Answer::JoinRefused(error, _) => response.with_error_code(error.code()),
        Answer::Joined(_) => response.with_error_code(ResponseError::UnknownServerError.code()),
    }
}

/// Answers Heartbeat.
pub(crate) fn heartbeat(broker: &Broker, request: &HeartbeatRequest) -> HeartbeatResponse {
    let who = who(&request.member_id, request.group_instance_id.as_ref());
    let checked = broker.coordinator.heartbeat(&request.group_id, &who, request.generation_id);
    HeartbeatResponse::default().with_error_code(code(checked))
}

fn code(result: Result<(), ResponseError>) -> i16 {
    result.err().map_or(0, |error| error.code())
}

/// Answers LeaveGroup: one member before version 3, several from then on.
pub(crate) fn leave(broker: &Broker, request: LeaveGroupRequest, version: i16) -> LeaveGroupResponse {
    let leave = |member: &MemberIdentity| {
        broker.coordinator.leave(&request.group_id, &who(&member.member_id, member.group_instance_id.as_ref()))
    };
    if version < 3 {
        let left = leave(&MemberIdentity::default().with_member_id(request.member_id.clone()));
        return LeaveGroupResponse::default().with_error_code(code(left));
    }
    let members = request.members.iter().map(|member| {
        MemberResponse::default()
            .with_error_code(code(leave(member)))
            .with_member_id(member.member_id.clone())
            .with_group_instance_id(member.group_instance_id.clone())
    });
    LeaveGroupResponse::default().with_members(members.collect())
}

/// Groups that have committed offsets, with members or without.
fn groups_with_offsets(broker: &Broker) -> BTreeSet<String> {
    broker.storage.groups_with_offsets()
}

/// Answers ListGroups.
pub(crate) fn list(broker: &Broker, request: &ListGroupsRequest) -> ListGroupsResponse {
    let listed = |id: &str, state: State, protocol_type: &str| {
        ListedGroup::default()
            .with_group_id(GroupId(text(id)))
            .with_protocol_type(text(protocol_type))
            .with_group_state(StrBytes::from_static_str(state.name()))
    };
    let mut groups = broker.coordinator.read_all(|id, group| listed(id, group.state, &group.protocol_type));
    let with_members: BTreeSet<String> = groups.iter().map(|group| group.group_id.as_str().to_owned()).collect();
    let without = groups_with_offsets(broker);
    groups.extend(without.difference(&with_members).map(|id| listed(id, State::Empty, CONSUMER)));
    groups.sort_by(|left, right| left.group_id.0.cmp(&right.group_id.0));
    if !request.states_filter.is_empty() {
        let wanted = |state: &str| request.states_filter.iter().any(|wanted| wanted.eq_ignore_ascii_case(state));
        groups.retain(|group| wanted(&group.group_state));
    }
    ListGroupsResponse::default().with_groups(groups)
}

/// Answers DescribeGroups, each group once however often it is named.
pub(crate) async fn describe(
    broker: &Broker,
    request: &DescribeGroupsRequest,
    version: i16,
    share: &mut AnswerShare,
) -> Result<DescribeGroupsResponse, Malformed> {
    let mut seen = HashSet::new();
    let mut groups = Vec::new();
    for id in request.groups.iter().filter(|id| seen.insert(*id)) {
        // Members that join in between are bounded by the group's own limit.
        share.take(broker.coordinator.read(id, described_bytes).unwrap_or(0)).await?;
        let described = broker.coordinator.read(id, |group| describe_one(group, version)).unwrap_or_else(|| {
            let known = broker.storage.has_group_offsets(id);
            let (state, protocol_type) = if known { (State::Empty.name(), CONSUMER) } else { (DEAD, "") };
            DescribedGroup::default()
                .with_group_state(StrBytes::from_static_str(state))
                .with_protocol_type(text(protocol_type))
        });
        groups.push(described.with_group_id(id.clone()));
    }
    Ok(DescribeGroupsResponse::default().with_groups(groups))
}

/// What a group takes in an answer until it is written, about. Members' bytes are shared until they are encoded.
fn described_bytes(group: &Group) -> usize {
    let members = group.members.iter().map(|(id, member)| {
        let texts = id.len() + member.client_id.len() + member.client_host.len();
        MEMBER_BYTES + 2 * texts + member.metadata(&group.protocol).len() + member.assignment.len()
    });
    members.sum()
}

fn describe_one(group: &Group, version: i16) -> DescribedGroup {
    let members = group.members.iter().map(|(id, member)| {
        let instance = member.instance_id.as_deref().map(text).filter(|_| version >= 4);
        DescribedGroupMember::default()
            .with_member_id(text(id))
            .with_group_instance_id(instance)
            .with_client_id(text(&member.client_id))
            .with_client_host(text(&member.client_host))
            .with_member_metadata(member.metadata(&group.protocol))
            .with_member_assignment(member.assignment.clone())
    });
    DescribedGroup::default()
        .with_group_state(StrBytes::from_static_str(group.state.name()))
        .with_protocol_type(text(&group.protocol_type))
        .with_protocol_data(text(&group.protocol))
        .with_members(members.collect())
}

/// Answers DeleteGroups: forgets the offsets of groups without members.
pub(crate) async fn delete(broker: &Broker, request: DeleteGroupsRequest) -> DeleteGroupsResponse {
    let mut results = Vec::with_capacity(request.groups_names.len());
    for id in request.groups_names {
        let code = match delete_one(broker, &id).await {
            Ok(()) => 0,
            Err(refusal) => {
                tracing::debug!(group = id.as_str(), error = %refusal.message, "a group was not deleted");
                refusal.code()
            }
        };
        results.push(DeletableGroupResult::default().with_group_id(id).with_error_code(code));
    }
    DeleteGroupsResponse::default().with_results(results)
}

async fn delete_one(broker: &Broker, id: &str) -> Result<(), Refusal> {
    if broker.coordinator.read(id, |group| !group.members.is_empty()).unwrap_or(false) {
        return Err(Refusal::new(ResponseError::NonEmptyGroup, format!("group {id} has members")));
    }
    let offsets = broker.storage.group_offsets(Some(id));
    if offsets.is_empty() {
        return Err(Refusal::new(ResponseError::GroupIdNotFound, format!("there is no group {id}")));
    }
    let group_offsets =
        offsets.into_iter().map(|(group, partition, _)| GroupOffsetChange { group, partition, offset: None });
    broker.storage.commit(Commit { group_offsets: group_offsets.collect(), ..Commit::default() }).await?;
    Ok(())
}
