//! Joining and rebalancing: how a generation begins.

use std::collections::BTreeMap;

use bytes::Bytes;
use kafka_protocol::ResponseError;

use super::{Answer, Group, Join, Joined, MEMBERS_MAX, Member, NEW_MEMBER_WAIT_MAX_MS, State, Ticket, Who};

impl Group {
    /// A member joins, for the first time or again.
    pub(crate) fn join(&mut self, now_ms: u64, join: Join) {
        if let Err(error) = self.check_protocols(&join) {
            return self.refuse_join(join.ticket, error, join.member_id);
        }
        if !join.member_id.is_empty() {
            return self.join_by_id(now_ms, join);
        }
        let known = join.instance_id.as_ref().and_then(|instance| self.statics.get(instance)).cloned();
        if let Some(old_id) = known {
            return self.replace_static(now_ms, join, &old_id);
        }
        if self.members.len() + self.pending.len() >= MEMBERS_MAX {
            return self.refuse_join(join.ticket, ResponseError::GroupMaxSizeReached, String::new());
        }
        let id = join.fresh_member_id.clone();
        if join.instance_id.is_none() && join.requires_member_id {
            self.pending.insert(id.clone(), now_ms.saturating_add(join.session_timeout_ms));
            return self.refuse_join(join.ticket, ResponseError::MemberIdRequired, id);
        }
        self.add(now_ms, id, join);
    }

    /// The types must be the same for all, and one protocol must be known to all.
    fn check_protocols(&self, join: &Join) -> Result<(), ResponseError> {
        let fits = if self.members.is_empty() {
            !join.protocol_type.is_empty() && !join.protocols.is_empty()
        } else {
            let known_to_all = |name: &str| self.members.values().all(|member| supports(member, name));
            join.protocol_type == self.protocol_type && join.protocols.iter().any(|(name, _)| known_to_all(name))
        };
        if fits { Ok(()) } else { Err(ResponseError::InconsistentGroupProtocol) }
    }

    fn join_by_id(&mut self, now_ms: u64, join: Join) {
        if self.pending.remove(&join.member_id).is_some() {
            return self.add(now_ms, join.member_id.clone(), join);
        }
        let who = Who { member_id: join.member_id.clone(), instance_id: join.instance_id.clone() };
        if let Err(error) = self.identify(&who) {
            return self.refuse_join(join.ticket, error, join.member_id);
        }
        let id = join.member_id.clone();
        let leads = self.leader.as_ref() == Some(&id);
        let same = self.members.get(&id).is_some_and(|member| member.protocols == join.protocols);
        match self.state {
            // It did not get our answer, or it only checks that nothing has changed.
            State::CompletingRebalance if same => self.answer_current(now_ms, join.ticket, &id),
            State::Stable if same && !leads => self.answer_current(now_ms, join.ticket, &id),
            State::Empty => self.refuse_join(join.ticket, ResponseError::UnknownMemberId, id),
            State::PreparingRebalance => {
                self.update(&id, join);
                self.complete_if_all_joined(now_ms);
            }
            // A leader that joins again has seen the topics change.
            State::CompletingRebalance | State::Stable => {
                self.update(&id, join);
                self.prepare_rebalance(now_ms);
            }
        }
    }

    fn add(&mut self, now_ms: u64, id: String, join: Join) {
        if self.members.is_empty() {
            self.protocol_type.clone_from(&join.protocol_type);
        }
        if let Some(instance) = &join.instance_id {
            self.statics.insert(instance.clone(), id.clone());
        }
        self.leader.get_or_insert_with(|| id.clone());
        let member = Member {
            instance_id: join.instance_id,
            client_id: join.client_id,
            client_host: join.client_host,
            session_timeout_ms: join.session_timeout_ms,
            rebalance_timeout_ms: join.rebalance_timeout_ms,
            protocols: join.protocols,
            assignment: Bytes::new(),
            join: Some(join.ticket),
            sync: None,
            deadline_ms: now_ms.saturating_add(NEW_MEMBER_WAIT_MAX_MS),
            new: true,
        };
        self.members.insert(id, member);
        match self.state {
            State::PreparingRebalance => self.complete_if_all_joined(now_ms),
            State::Empty | State::CompletingRebalance | State::Stable => self.prepare_rebalance(now_ms),
        }
    }

    /// Takes over what a join says and lets it wait. A join that waited already is answered, so that no ticket is lost.
    fn update(&mut self, id: &str, join: Join) {
        let Some(member) = self.members.get_mut(id) else { return };
        member.client_id = join.client_id;
        member.client_host = join.client_host;
        member.session_timeout_ms = join.session_timeout_ms;
        member.rebalance_timeout_ms = join.rebalance_timeout_ms;
        member.protocols = join.protocols;
        if let Some(earlier) = member.join.replace(join.ticket) {
            self.refuse_join(earlier, ResponseError::RebalanceInProgress, id.to_owned());
        }
    }

    /// A static member is back under a new id; whoever still uses the old one is fenced. If its protocols still give the
    /// same choice, nobody else notices.
    fn replace_static(&mut self, now_ms: u64, join: Join, old_id: &str) {
        let Some(mut member) = self.members.remove(old_id) else { return };
        let id = join.fresh_member_id.clone();
        if let Some(ticket) = member.join.take() {
            self.refuse_join(ticket, ResponseError::FencedInstanceId, old_id.to_owned());
        }
        if let Some(ticket) = member.sync.take() {
            self.answers.push((ticket, Answer::SyncRefused(ResponseError::FencedInstanceId)));
        }
        let old_leader = self.leader.clone().unwrap_or_default();
        if self.leader.as_deref() == Some(old_id) {
            self.leader = Some(id.clone());
        }
        if let Some(instance) = &member.instance_id {
            self.statics.insert(instance.clone(), id.clone());
        }
        member.deadline_ms = now_ms.saturating_add(join.session_timeout_ms);
        self.members.insert(id.clone(), member);
        let (ticket, knows_skip) = (join.ticket, join.knows_skip_assignment);
        self.update(&id, join);
        match self.state {
            State::PreparingRebalance => self.complete_if_all_joined(now_ms),
            State::Stable if self.select_protocol() == self.protocol => {
                if let Some(member) = self.members.get_mut(&id) {
                    member.join = None;
                }
                let mut joined = self.joined(&id);
                if knows_skip {
                    joined.skip_assignment = !joined.members.is_empty();
                } else {
                    // Told the old leader's id, it does not take itself for the leader and assigns nothing.
                    joined.members.clear();
                    joined.leader = old_leader;
                }
                self.answers.push((ticket, Answer::Joined(joined)));
            }
            State::Empty | State::CompletingRebalance | State::Stable => self.prepare_rebalance(now_ms),
        }
    }

    /// Asks everybody to join again.
    pub(super) fn prepare_rebalance(&mut self, now_ms: u64) {
        self.refuse_syncs(ResponseError::RebalanceInProgress);
        self.state = State::PreparingRebalance;
        self.rebalance_deadline_ms = Some(now_ms.saturating_add(self.rebalance_timeout_ms()));
        self.complete_if_all_joined(now_ms);
    }

    fn rebalance_timeout_ms(&self) -> u64 {
        self.members.values().map(|member| member.rebalance_timeout_ms).max().unwrap_or(0)
    }

    fn refuse_syncs(&mut self, error: ResponseError) {
        let waiting = self.members.values_mut().filter_map(|member| member.sync.take());
        self.answers.extend(waiting.map(|ticket| (ticket, Answer::SyncRefused(error))));
    }

    pub(super) fn complete_if_all_joined(&mut self, now_ms: u64) {
        let all = self.pending.is_empty() && self.members.values().all(|member| member.join.is_some());
        if self.state == State::PreparingRebalance && all {
            self.complete_join(now_ms);
        }
    }

    /// Begins a generation with whoever has joined. Static members that have not stay until their session ends.
    pub(super) fn complete_join(&mut self, now_ms: u64) {
        self.members.retain(|_, member| member.join.is_some() || member.instance_id.is_some());
        let joined: Vec<String> =
            self.members.iter().filter(|(_, member)| member.join.is_some()).map(|(id, _)| id.clone()).collect();
        if self.members.is_empty() {
            self.generation = next_generation(self.generation);
            self.state = State::Empty;
            self.protocol.clear();
            self.leader = None;
            self.rebalance_deadline_ms = None;
            return;
        }
        let deadline_ms = now_ms.saturating_add(self.rebalance_timeout_ms());
        self.rebalance_deadline_ms = Some(deadline_ms);
        let Some(first) = joined.first() else { return };
        if !self.leader.as_ref().is_some_and(|leader| joined.contains(leader)) {
            self.leader = Some(first.clone());
        }
        self.generation = next_generation(self.generation);
        self.protocol = self.select_protocol();
        self.state = State::CompletingRebalance;
        for member in self.members.values_mut() {
            member.assignment = Bytes::new();
        }
        for id in joined {
            let ticket = self.members.get_mut(&id).and_then(|member| {
                member.new = false;
                member.join.take()
            });
            if let Some(ticket) = ticket {
                self.answer_current(now_ms, ticket, &id);
            }
        }
    }

    /// Each votes for the first of its protocols that all know; most votes win, then the name.
    fn select_protocol(&self) -> String {
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            let known_to_all = |name: &str| self.members.values().all(|other| supports(other, name));
            if let Some((name, _)) = member.protocols.iter().find(|(name, _)| known_to_all(name)) {
                *votes.entry(name).or_default() += 1;
            }
        }
        votes.iter().rev().max_by_key(|(_, count)| **count).map(|(name, _)| (*name).to_owned()).unwrap_or_default()
    }

    fn answer_current(&mut self, now_ms: u64, ticket: Ticket, id: &str) {
        self.heard(now_ms, id);
        let joined = self.joined(id);
        self.answers.push((ticket, Answer::Joined(joined)));
    }

    fn joined(&self, id: &str) -> Joined {
        let leader = self.leader.clone().unwrap_or_default();
        let everybody = || {
            let members = self.members.iter();
            members
                .map(|(id, member)| (id.clone(), member.instance_id.clone(), member.metadata(&self.protocol)))
                .collect()
        };
        Joined {
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            members: if leader == id { everybody() } else { Vec::new() },
            leader,
            member_id: id.to_owned(),
            skip_assignment: false,
        }
    }

    pub(super) fn refuse_join(&mut self, ticket: Ticket, error: ResponseError, member_id: String) {
        self.answers.push((ticket, Answer::JoinRefused(error, member_id)));
    }
}

fn supports(member: &Member, protocol: &str) -> bool {
    member.protocols.iter().any(|(name, _)| name == protocol)
}

/// Generations are positive for ever.
fn next_generation(generation: i32) -> i32 {
    generation.checked_add(1).unwrap_or(1)
}
