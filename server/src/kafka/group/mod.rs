//! `Group`: the classic consumer group protocol as a pure state machine. Events and the time go in, answers come out.
//!
//! A group is in one of four states. *Empty*: no members. *PreparingRebalance*: members are asked to join again; ends
//! when all have, or when the longest rebalance timeout is over. *CompletingRebalance*: everybody has the new generation
//! and the leader computes who reads what. *Stable*: everybody has its assignment. Requests that must wait leave a ticket;
//! the shell (`coordinator`) holds what the ticket stands for. Rules as in Kafka's GroupCoordinator, with KIP-345 (static
//! members) and KIP-394 (a member id is given before the first join counts), without its initial delay.

mod join;
mod membership;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use kafka_protocol::ResponseError;

/// Members of one group, those who only have an id included.
pub(crate) const MEMBERS_MAX: usize = 1_000;
/// Longest a new member may wait for its first generation.
const NEW_MEMBER_WAIT_MAX_MS: u64 = 300_000;

/// A request that waits for its answer.
pub(crate) type Ticket = u64;

/// A member asks to join.
#[derive(Clone, Debug)]
pub(crate) struct Join {
    pub(crate) ticket: Ticket,
    /// Empty at first.
    pub(crate) member_id: String,
    /// Of a static member.
    pub(crate) instance_id: Option<String>,
    /// The id it gets if it has none.
    pub(crate) fresh_member_id: String,
    pub(crate) client_id: String,
    pub(crate) client_host: String,
    pub(crate) session_timeout_ms: u64,
    pub(crate) rebalance_timeout_ms: u64,
    pub(crate) protocol_type: String,
    /// In order of preference, with the metadata for the leader.
    pub(crate) protocols: Vec<(String, Bytes)>,
    /// From version 4: a first join is answered with an id and counts only when repeated with it.
    pub(crate) requires_member_id: bool,
    /// From version 9: a leader can be told not to assign.
    pub(crate) knows_skip_assignment: bool,
}

/// A member asks for its assignment; the leader brings everybody's.
#[derive(Clone, Debug)]
pub(crate) struct Sync {
    pub(crate) ticket: Ticket,
    pub(crate) who: Who,
    pub(crate) generation: i32,
    /// From version 5, checked if given.
    pub(crate) protocol_type: Option<String>,
    /// From version 5, checked if given.
    pub(crate) protocol: Option<String>,
    pub(crate) assignments: HashMap<String, Bytes>,
}

/// Who speaks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Who {
    pub(crate) member_id: String,
    pub(crate) instance_id: Option<String>,
}

/// What a join gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Joined {
    pub(crate) generation: i32,
    pub(crate) protocol_type: String,
    pub(crate) protocol: String,
    pub(crate) leader: String,
    pub(crate) member_id: String,
    /// Everybody's (member id, instance id, metadata), for the leader only.
    pub(crate) members: Vec<(String, Option<String>, Bytes)>,
    pub(crate) skip_assignment: bool,
}

/// What a sync gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Synced {
    pub(crate) protocol_type: String,
    pub(crate) protocol: String,
    pub(crate) assignment: Bytes,
}

/// An answer to a ticket. A refused join carries the member id it should use from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Joined(Joined),
    JoinRefused(ResponseError, String),
    Synced(Synced),
    SyncRefused(ResponseError),
}

/// Where a group stands; the names are Kafka's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Empty,
    PreparingRebalance,
    CompletingRebalance,
    Stable,
}

impl State {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
        }
    }
}

/// One member.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) instance_id: Option<String>,
    pub(crate) client_id: String,
    pub(crate) client_host: String,
    session_timeout_ms: u64,
    rebalance_timeout_ms: u64,
    protocols: Vec<(String, Bytes)>,
    pub(crate) assignment: Bytes,
    /// Waits for the next generation.
    join: Option<Ticket>,
    /// Waits for its assignment.
    sync: Option<Ticket>,
    /// When it counts as gone.
    deadline_ms: u64,
    /// Has never had a generation.
    new: bool,
}

impl Member {
    /// Whoever waits for us need not send heartbeats; but a new member's first wait is limited.
    fn watched(&self) -> bool {
        self.new || (self.join.is_none() && self.sync.is_none())
    }

    /// What it said about a protocol.
    pub(crate) fn metadata(&self, protocol: &str) -> Bytes {
        let found = self.protocols.iter().find(|(name, _)| name == protocol);
        found.map(|(_, metadata)| metadata.clone()).unwrap_or_default()
    }
}

/// One group. Iteration is in order of member ids, so that the same events give the same answers.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) state: State,
    pub(crate) generation: i32,
    pub(crate) protocol_type: String,
    pub(crate) protocol: String,
    leader: Option<String>,
    pub(crate) members: BTreeMap<String, Member>,
    /// Instance id to member id.
    statics: HashMap<String, String>,
    /// Ids given but not yet used, and when they lapse.
    pending: BTreeMap<String, u64>,
    /// When a rebalance stops waiting: for joins while preparing, for syncs while completing.
    rebalance_deadline_ms: Option<u64>,
    answers: Vec<(Ticket, Answer)>,
}

impl Default for Group {
    fn default() -> Self {
        Self {
            state: State::Empty,
            generation: 0,
            protocol_type: String::new(),
            protocol: String::new(),
            leader: None,
            members: BTreeMap::new(),
            statics: HashMap::new(),
            pending: BTreeMap::new(),
            rebalance_deadline_ms: None,
            answers: Vec::new(),
        }
    }
}

impl Group {
    /// Answers that have become due since the last call.
    pub(crate) fn take_answers(&mut self) -> Vec<(Ticket, Answer)> {
        std::mem::take(&mut self.answers)
    }

    /// Nothing of it is worth remembering.
    pub(crate) fn is_forgettable(&self) -> bool {
        self.members.is_empty() && self.pending.is_empty() && self.answers.is_empty()
    }

    /// When [`Group::expire`] has something to do next.
    pub(crate) fn next_deadline_ms(&self) -> Option<u64> {
        let members = self.members.values().filter(|member| member.watched()).map(|member| member.deadline_ms);
        members.chain(self.pending.values().copied()).chain(self.rebalance_deadline_ms).min()
    }

    /// Lets go who has been silent for too long, and stops waiting where a rebalance has waited enough.
    pub(crate) fn expire(&mut self, now_ms: u64) {
        let pending_before = self.pending.len();
        self.pending.retain(|_, deadline_ms| *deadline_ms > now_ms);
        if self.pending.len() < pending_before {
            self.complete_if_all_joined(now_ms);
        }
        let silent = self.members.iter().filter(|(_, member)| member.watched() && member.deadline_ms <= now_ms);
        for id in silent.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            self.remove(now_ms, &id);
        }
        if self.rebalance_deadline_ms.is_none_or(|deadline_ms| deadline_ms > now_ms) {
            return;
        }
        match self.state {
            State::PreparingRebalance => self.complete_join(now_ms),
            State::CompletingRebalance => {
                let late = self.members.iter().filter(|(_, member)| member.sync.is_none());
                for id in late.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
                    self.remove(now_ms, &id);
                }
            }
            State::Empty | State::Stable => self.rebalance_deadline_ms = None,
        }
    }
}
