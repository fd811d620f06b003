//! `Coordinator`: the groups of this node, with a clock and with requests that wait.
//!
//! The rules are in `group`; here are one lock, the tickets' other ends, and one task that wakes for the next deadline.
//! Membership lives in memory: after a restart members are told that they are unknown and join again, and a late one
//! cannot commit, because member ids are never given twice. Offsets are in the log.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aquifer_storage::clock::Random;
use kafka_protocol::ResponseError;
use metrics::Gauge;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::group::{Answer, Group, Join, Sync, Ticket, Who};

/// Groups remembered that have lost their last member, at the most.
const ABSENT_MAX: usize = 100_000;
/// Groups with members, at the most.
const GROUPS_MAX: usize = 10_000;

/// Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Coordinator {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    rooms: Mutex<Rooms>,
    /// Deadlines count from here.
    started: Instant,
    /// A deadline is nearer than the one waited for.
    nearer: Notify,
    random: Arc<dyn Random>,
    /// How many groups have members.
    groups: Gauge,
}

#[derive(Debug, Default)]
struct Rooms {
    groups: HashMap<String, Group>,
    waiting: HashMap<Ticket, oneshot::Sender<Answer>>,
    last_ticket: Ticket,
    /// When groups lost their last member.
    absent_since_ms: HashMap<String, u64>,
    /// The same for groups of which nobody knows.
    unknown_since_ms: u64,
    /// What the timer waits for.
    next_deadline_ms: Option<u64>,
}

impl Rooms {
    fn note_absent(&mut self, group: &str, now_ms: u64) {
        if self.absent_since_ms.len() >= ABSENT_MAX {
            // All of them left now, as far as anybody knows: later than they did.
            self.absent_since_ms.clear();
            self.unknown_since_ms = now_ms;
        }
        self.absent_since_ms.insert(group.to_owned(), now_ms);
    }
}

impl Coordinator {
    pub(crate) fn new(random: Arc<dyn Random>) -> Self {
        let (rooms, nearer) = (Mutex::default(), Notify::new());
        let groups = metrics::gauge!("aquifer_kafka_groups");
        Self { inner: Arc::new(Inner { rooms, started: Instant::now(), nearer, random, groups }) }
    }

    /// An id for a member, never given twice.
    pub(crate) fn fresh_member_id(&self, client_id: &str) -> String {
        format!("{client_id}-{}", self.inner.random.uuid())
    }

    /// Joins and waits for the generation. `join` makes the event from its ticket.
    pub(crate) async fn join(&self, group: &str, join: impl FnOnce(Ticket) -> Join) -> Answer {
        let refused = || Answer::JoinRefused(ResponseError::CoordinatorNotAvailable, String::new());
        let make = |group: &mut Group, now_ms, ticket| group.join(now_ms, join(ticket));
        self.wait(group, true, make).await.unwrap_or_else(refused)
    }

    /// Waits for the assignment.
    pub(crate) async fn sync(&self, group: &str, sync: impl FnOnce(Ticket) -> Sync) -> Answer {
        let refused = || Answer::SyncRefused(ResponseError::UnknownMemberId);
        let make = |group: &mut Group, now_ms, ticket| group.sync(now_ms, sync(ticket));
        self.wait(group, false, make).await.unwrap_or_else(refused)
    }

    /// Hands a ticketed event to a group and waits for the ticket's answer.
    async fn wait(&self, id: &str, make: bool, event: impl FnOnce(&mut Group, u64, Ticket)) -> Option<Answer> {
        let answer = {
            let mut rooms = self.inner.rooms.lock();
            if !rooms.groups.contains_key(id) {
                if !make {
                    return None;
                }
                if rooms.groups.len() >= GROUPS_MAX {
                    tracing::warn!(group = id, "refused a group: {GROUPS_MAX} have members already");
                    return None;
                }
                rooms.groups.insert(id.to_owned(), Group::default());
                self.inner.groups.set(rooms.groups.len() as f64);
            }
            rooms.last_ticket += 1;
            let ticket = rooms.last_ticket;
            let (sender, answer) = oneshot::channel();
            rooms.waiting.insert(ticket, sender);
            self.with(&mut rooms, id, |group, now_ms| event(group, now_ms, ticket));
            answer
        };
        answer.await.ok()
    }

    pub(crate) fn heartbeat(&self, group: &str, who: &Who, generation: i32) -> Result<(), ResponseError> {
        let mut rooms = self.inner.rooms.lock();
        let checked = self.with(&mut rooms, group, |group, now_ms| group.heartbeat(now_ms, who, generation));
        checked.unwrap_or(Err(ResponseError::UnknownMemberId))
    }

    pub(crate) fn leave(&self, group: &str, who: &Who) -> Result<(), ResponseError> {
        let mut rooms = self.inner.rooms.lock();
        let left = self.with(&mut rooms, group, |group, now_ms| group.leave(now_ms, who));
        left.unwrap_or(Err(ResponseError::UnknownMemberId))
    }

    pub(crate) fn check_commit(&self, group: &str, who: &Who, generation: i32) -> Result<(), ResponseError> {
        let mut rooms = self.inner.rooms.lock();
        let checked = self.with(&mut rooms, group, |group, now_ms| group.check_commit(now_ms, who, generation));
        checked.unwrap_or(if generation < 0 { Ok(()) } else { Err(ResponseError::IllegalGeneration) })
    }

    /// The same for offsets that are part of a transaction.
    pub(crate) fn check_transactional_commit(
        &self,
        group: &str,
        who: &Who,
        generation: i32,
    ) -> Result<(), ResponseError> {
        let checked = self.read(group, |group| group.check_transactional_commit(who, generation));
        checked.unwrap_or(if generation < 0 { Ok(()) } else { Err(ResponseError::IllegalGeneration) })
    }

    /// Reads a group that has members.
    pub(crate) fn read<T>(&self, group: &str, read: impl FnOnce(&Group) -> T) -> Option<T> {
        self.inner.rooms.lock().groups.get(group).map(read)
    }

    /// Reads all groups that have members.
    pub(crate) fn read_all<T>(&self, mut read: impl FnMut(&str, &Group) -> T) -> Vec<T> {
        self.inner.rooms.lock().groups.iter().map(|(id, group)| read(id, group)).collect()
    }

    /// Runs an event, gives out what it answers, forgets a group that is over, and looks at the clock.
    fn with<T>(&self, rooms: &mut Rooms, id: &str, event: impl FnOnce(&mut Group, u64) -> T) -> Option<T> {
        let group = rooms.groups.get_mut(id)?;
        let result = event(group, self.now_ms());
        for (ticket, answer) in group.take_answers() {
            if let Some(waits) = rooms.waiting.remove(&ticket) {
                // Nobody may be there any more: the client has gone away.
                let _gone = waits.send(answer);
            }
        }
        match group.next_deadline_ms() {
            None if group.is_forgettable() => {
                rooms.groups.remove(id);
                rooms.note_absent(id, self.now_ms());
                self.inner.groups.set(rooms.groups.len() as f64);
            }
            Some(deadline_ms) if rooms.next_deadline_ms.is_none_or(|next| deadline_ms < next) => {
                rooms.next_deadline_ms = Some(deadline_ms);
                self.inner.nearer.notify_one();
            }
            _ => {}
        }
        Some(result)
    }

    /// For how long a group has had no members, or the process has run; `None` while it has some.
    pub(crate) fn absent_ms(&self, group: &str) -> Option<u64> {
        let rooms = self.inner.rooms.lock();
        if rooms.groups.contains_key(group) {
            return None;
        }
        let since_ms = rooms.absent_since_ms.get(group).copied().unwrap_or(rooms.unknown_since_ms);
        Some(self.now_ms().saturating_sub(since_ms))
    }

    /// Forgets when those groups lost their members for which that was so long ago.
    pub(crate) fn forget_absent(&self, for_ms: u64) {
        let now_ms = self.now_ms();
        self.inner.rooms.lock().absent_since_ms.retain(|_, since_ms| now_ms.saturating_sub(*since_ms) < for_ms);
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.inner.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Keeps the groups' deadlines until `shutdown`.
    pub(crate) async fn keep_time(&self, shutdown: CancellationToken) {
        loop {
            let next = {
                let mut rooms = self.inner.rooms.lock();
                let next = rooms.groups.values().filter_map(Group::next_deadline_ms).min();
                rooms.next_deadline_ms = next;
                next.and_then(|ms| self.inner.started.checked_add(Duration::from_millis(ms)))
            };
            let due = async {
                match next {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => self.expire(),
                () = self.inner.nearer.notified() => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    fn expire(&self) {
        let mut rooms = self.inner.rooms.lock();
        let now_ms = self.now_ms();
        let due = rooms.groups.iter().filter(|(_, group)| group.next_deadline_ms().is_some_and(|ms| ms <= now_ms));
        for id in due.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            self.with(&mut rooms, &id, Group::expire);
        }
    }
}
