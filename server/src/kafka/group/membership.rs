//! Being a member: assignments, heartbeats, leaving, and whose offsets are taken.

use kafka_protocol::ResponseError;

use super::{Answer, Group, State, Sync, Synced, Who};

impl Group {
    /// Checks that a member is one, under the id it has now.
    pub(super) fn identify(&self, who: &Who) -> Result<(), ResponseError> {
        match &who.instance_id {
            Some(instance) => match self.statics.get(instance) {
                Some(id) if *id == who.member_id => Ok(()),
                Some(_) => Err(ResponseError::FencedInstanceId),
                None => Err(ResponseError::UnknownMemberId),
            },
            None if self.members.contains_key(&who.member_id) => Ok(()),
            None => Err(ResponseError::UnknownMemberId),
        }
    }

    fn check(&self, who: &Who, generation: i32) -> Result<(), ResponseError> {
        self.identify(who)?;
        if generation == self.generation { Ok(()) } else { Err(ResponseError::IllegalGeneration) }
    }

    /// A sign of life.
    pub(super) fn heard(&mut self, now_ms: u64, id: &str) {
        if let Some(member) = self.members.get_mut(id) {
            member.deadline_ms = now_ms.saturating_add(member.session_timeout_ms);
        }
    }

    /// A member asks for its assignment. It is given when the leader has brought all of them.
    pub(crate) fn sync(&mut self, now_ms: u64, sync: Sync) {
        if let Err(error) = self.check_sync(&sync) {
            self.answers.push((sync.ticket, Answer::SyncRefused(error)));
            return;
        }
        let id = sync.who.member_id;
        self.heard(now_ms, &id);
        if self.state == State::Stable {
            return self.answer_sync(sync.ticket, &id);
        }
        if let Some(member) = self.members.get_mut(&id)
            && let Some(earlier) = member.sync.replace(sync.ticket)
        {
            self.answers.push((earlier, Answer::SyncRefused(ResponseError::RebalanceInProgress)));
        }
        if self.leader.as_ref() != Some(&id) {
            return;
        }
        for (id, member) in &mut self.members {
            member.assignment = sync.assignments.get(id).cloned().unwrap_or_default();
        }
        self.state = State::Stable;
        self.rebalance_deadline_ms = None;
        let waiting: Vec<_> =
            self.members.iter_mut().filter_map(|(id, member)| Some((id.clone(), member.sync.take()?))).collect();
        for (id, ticket) in waiting {
            self.heard(now_ms, &id);
            self.answer_sync(ticket, &id);
        }
    }

    fn check_sync(&self, sync: &Sync) -> Result<(), ResponseError> {
        self.check(&sync.who, sync.generation)?;
        let differs = |given: &Option<String>, ours: &str| given.as_deref().is_some_and(|given| given != ours);
        if differs(&sync.protocol_type, &self.protocol_type) || differs(&sync.protocol, &self.protocol) {
            return Err(ResponseError::InconsistentGroupProtocol);
        }
        match self.state {
            State::CompletingRebalance | State::Stable => Ok(()),
            State::PreparingRebalance => Err(ResponseError::RebalanceInProgress),
            State::Empty => Err(ResponseError::UnknownMemberId),
        }
    }

    fn answer_sync(&mut self, ticket: u64, id: &str) {
        let synced = Synced {
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            assignment: self.members.get(id).map(|member| member.assignment.clone()).unwrap_or_default(),
        };
        self.answers.push((ticket, Answer::Synced(synced)));
    }

    /// A member says that it lives and learns whether to join again.
    pub(crate) fn heartbeat(&mut self, now_ms: u64, who: &Who, generation: i32) -> Result<(), ResponseError> {
        self.check(who, generation)?;
        self.heard(now_ms, &who.member_id);
        match self.state {
            State::CompletingRebalance | State::Stable => Ok(()),
            State::PreparingRebalance => Err(ResponseError::RebalanceInProgress),
            State::Empty => Err(ResponseError::UnknownMemberId),
        }
    }

    /// A member leaves; a static one may be named by its instance alone.
    pub(crate) fn leave(&mut self, now_ms: u64, who: &Who) -> Result<(), ResponseError> {
        if who.instance_id.is_none() && self.pending.remove(&who.member_id).is_some() {
            self.complete_if_all_joined(now_ms);
            return Ok(());
        }
        let id = match &who.instance_id {
            Some(instance) if who.member_id.is_empty() => {
                self.statics.get(instance).cloned().ok_or(ResponseError::UnknownMemberId)?
            }
            _ => {
                self.identify(who)?;
                who.member_id.clone()
            }
        };
        self.remove(now_ms, &id);
        Ok(())
    }

    /// Takes a member out; what it waits for is answered, the others are asked to join again.
    pub(super) fn remove(&mut self, now_ms: u64, id: &str) {
        let Some(member) = self.members.remove(id) else { return };
        if let Some(instance) = &member.instance_id {
            self.statics.remove(instance);
        }
        if let Some(ticket) = member.join {
            self.refuse_join(ticket, ResponseError::UnknownMemberId, String::new());
        }
        if let Some(ticket) = member.sync {
            self.answers.push((ticket, Answer::SyncRefused(ResponseError::UnknownMemberId)));
        }
        if self.leader.as_deref() == Some(id) {
            self.leader = self.members.keys().next().cloned();
        }
        match self.state {
            State::PreparingRebalance => self.complete_if_all_joined(now_ms),
            State::CompletingRebalance | State::Stable => self.prepare_rebalance(now_ms),
            State::Empty => {}
        }
    }

    /// Whether an offset commit is taken: from a member of this generation, or, without members, from anybody who does
    /// not claim to be one.
    pub(crate) fn check_commit(&mut self, now_ms: u64, who: &Who, generation: i32) -> Result<(), ResponseError> {
        if generation < 0 && self.members.is_empty() {
            return Ok(());
        }
        self.check(who, generation)?;
        // The generation has begun, but who reads what in it is not known yet.
        if self.state == State::CompletingRebalance {
            return Err(ResponseError::RebalanceInProgress);
        }
        self.heard(now_ms, &who.member_id);
        Ok(())
    }

    /// Whether offsets are taken into a transaction. Its producer may know nothing of the group (before version 3 it
    /// cannot): then the transactional id's epoch is what fences it. Who names a member must be it, in this generation;
    /// a rebalance under way does not matter, because the generation it ends is still the newest that anybody has read in.
    pub(crate) fn check_transactional_commit(&self, who: &Who, generation: i32) -> Result<(), ResponseError> {
        if generation < 0 && who.member_id.is_empty() && who.instance_id.is_none() {
            return Ok(());
        }
        if generation < 0 && self.members.is_empty() {
            return Ok(());
        }
        self.check(who, generation)
    }
}
