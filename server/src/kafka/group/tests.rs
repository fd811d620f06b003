//! The group as a table of events and answers; no clock, no tasks.

use super::*;

const SESSION_MS: u64 = 10_000;
const REBALANCE_MS: u64 = 60_000;

/// A group with a clock, and tickets that name themselves.
#[derive(Default)]
struct Play {
    group: Group,
    now_ms: u64,
    last_ticket: Ticket,
    fresh: u32,
}

impl Play {
    fn ticket(&mut self) -> Ticket {
        self.last_ticket += 1;
        self.last_ticket
    }

    fn plain_join(&mut self, member_id: &str) -> Join {
        self.fresh += 1;
        Join {
            ticket: self.ticket(),
            member_id: member_id.to_owned(),
            instance_id: None,
            fresh_member_id: format!("m{}", self.fresh),
            client_id: "client".to_owned(),
            client_host: "host".to_owned(),
            session_timeout_ms: SESSION_MS,
            rebalance_timeout_ms: REBALANCE_MS,
            protocol_type: "consumer".to_owned(),
            protocols: vec![("range".to_owned(), Bytes::from_static(b"topics"))],
            requires_member_id: false,
            knows_skip_assignment: false,
        }
    }

    /// Joins and answers the ticket.
    fn join(&mut self, member_id: &str) -> Ticket {
        let join = self.plain_join(member_id);
        let ticket = join.ticket;
        self.group.join(self.now_ms, join);
        ticket
    }

    fn join_static(&mut self, instance: &str, member_id: &str, knows_skip_assignment: bool) -> Ticket {
        let mut join = self.plain_join(member_id);
        join.instance_id = Some(instance.to_owned());
        join.knows_skip_assignment = knows_skip_assignment;
        let ticket = join.ticket;
        self.group.join(self.now_ms, join);
        ticket
    }

    fn sync(&mut self, member_id: &str, generation: i32, assignments: &[(&str, &'static [u8])]) -> Ticket {
        let ticket = self.ticket();
        let assignments = assignments.iter().map(|(id, bytes)| ((*id).to_owned(), Bytes::from_static(bytes)));
        let sync = Sync {
            ticket,
            who: who(member_id),
            generation,
            protocol_type: None,
            protocol: None,
            assignments: assignments.collect(),
        };
        self.group.sync(self.now_ms, sync);
        ticket
    }

    fn answers(&mut self) -> HashMap<Ticket, Answer> {
        self.group.take_answers().into_iter().collect()
    }

    fn joined(&mut self, ticket: Ticket) -> Joined {
        match self.answers().remove(&ticket) {
            Some(Answer::Joined(joined)) => joined,
            other => panic!("{other:?}"),
        }
    }

    /// Moves time forward, stopping at every deadline on the way.
    fn pass(&mut self, ms: u64) {
        let end = self.now_ms + ms;
        while let Some(deadline) = self.group.next_deadline_ms().filter(|deadline| *deadline <= end) {
            self.now_ms = self.now_ms.max(deadline);
            self.group.expire(self.now_ms);
        }
        self.now_ms = end;
    }

    /// Two members, `m1` leads, both have their assignments.
    fn two_stable() -> Self {
        let mut play = Self::default();
        let first = play.join("");
        assert_eq!(play.joined(first).generation, 1);
        let second = play.join("");
        assert!(play.answers().is_empty(), "the second waits for the first");
        let again = play.join("m1");
        let answers = play.answers();
        assert!(answers.contains_key(&second) && answers.contains_key(&again));
        play.sync("m1", 2, &[("m1", b"p0"), ("m2", b"p1")]);
        play.sync("m2", 2, &[]);
        assert_eq!(play.group.state, State::Stable);
        play.answers();
        play
    }
}

fn who(member_id: &str) -> Who {
    Who { member_id: member_id.to_owned(), instance_id: None }
}

fn who_static(member_id: &str, instance: &str) -> Who {
    Who { member_id: member_id.to_owned(), instance_id: Some(instance.to_owned()) }
}

#[test]
fn a_single_member_leads_and_gets_what_it_assigns_itself() {
    let mut play = Play::default();
    let ticket = play.join("");
    let joined = play.joined(ticket);
    assert_eq!((joined.generation, joined.leader.as_str(), joined.member_id.as_str()), (1, "m1", "m1"));
    assert_eq!(joined.members, [("m1".to_owned(), None, Bytes::from_static(b"topics"))]);
    let ticket = play.sync("m1", 1, &[("m1", b"all")]);
    let synced = Synced {
        protocol_type: "consumer".to_owned(),
        protocol: "range".to_owned(),
        assignment: Bytes::from_static(b"all"),
    };
    assert_eq!(play.answers().remove(&ticket), Some(Answer::Synced(synced)));
    assert_eq!(play.group.heartbeat(0, &who("m1"), 1), Ok(()));
}

#[test]
fn a_second_member_makes_the_first_join_again_and_the_follower_waits_for_the_leaders_assignment() {
    let mut play = Play::default();
    play.join("");
    play.sync("m1", 1, &[("m1", b"all")]);
    let second = play.join("");
    assert_eq!(play.group.heartbeat(0, &who("m1"), 1), Err(ResponseError::RebalanceInProgress));
    play.answers();
    let first = play.join("m1");
    let mut answers = play.answers();
    let Some(Answer::Joined(leader)) = answers.remove(&first) else { panic!() };
    let Some(Answer::Joined(follower)) = answers.remove(&second) else { panic!() };
    assert_eq!((leader.members.len(), follower.members.len()), (2, 0));
    assert_eq!((leader.generation, follower.generation, follower.leader.as_str()), (2, 2, "m1"));
    let waits = play.sync("m2", 2, &[]);
    assert!(play.answers().is_empty());
    play.sync("m1", 2, &[("m1", b"p0"), ("m2", b"p1")]);
    let Some(Answer::Synced(synced)) = play.answers().remove(&waits) else { panic!() };
    assert_eq!(synced.assignment, Bytes::from_static(b"p1"));
}

#[test]
fn when_one_leaves_the_other_joins_again_alone() {
    let mut play = Play::two_stable();
    assert_eq!(play.group.leave(0, &who("m1")), Ok(()));
    assert_eq!(play.group.heartbeat(0, &who("m2"), 2), Err(ResponseError::RebalanceInProgress));
    let ticket = play.join("m2");
    let joined = play.joined(ticket);
    assert_eq!((joined.generation, joined.leader.as_str(), joined.members.len()), (3, "m2", 1));
    assert_eq!(play.group.leave(0, &who("m1")), Err(ResponseError::UnknownMemberId));
}

#[test]
fn a_silent_member_is_let_go_after_its_session_and_heartbeats_prevent_it() {
    let mut play = Play::two_stable();
    for _ in 0..5 {
        play.pass(SESSION_MS / 2);
        let _ = play.group.heartbeat(play.now_ms, &who("m1"), 2);
    }
    assert_eq!(play.group.state, State::PreparingRebalance);
    assert!(play.group.members.contains_key("m1") && !play.group.members.contains_key("m2"));
    assert_eq!(play.group.heartbeat(play.now_ms, &who("m2"), 2), Err(ResponseError::UnknownMemberId));
}

#[test]
fn who_does_not_join_again_in_time_is_left_out_of_the_generation() {
    let mut play = Play::two_stable();
    let third = play.join("");
    let first = play.join("m1");
    for _ in 0..(REBALANCE_MS / 5_000) {
        let _ = play.group.heartbeat(play.now_ms, &who("m2"), 2);
        play.pass(5_000);
    }
    let answers = play.answers();
    assert!(matches!(answers[&third], Answer::Joined(ref joined) if joined.generation == 3), "{answers:?}");
    assert!(answers.contains_key(&first));
    assert!(!play.group.members.contains_key("m2"));
}

#[test]
fn who_joins_but_never_syncs_is_let_go_and_the_others_join_again() {
    let mut play = Play::two_stable();
    let _ = (play.join("m1"), play.join("m2"));
    let waits = play.sync("m2", 3, &[]);
    play.answers();
    for _ in 0..(REBALANCE_MS / 5_000) {
        let _ = play.group.heartbeat(play.now_ms, &who("m1"), 3);
        play.pass(5_000);
    }
    assert!(!play.group.members.contains_key("m1"), "the leader did not bring the assignments");
    assert_eq!(play.answers().remove(&waits), Some(Answer::SyncRefused(ResponseError::RebalanceInProgress)));
}

#[test]
fn a_first_join_is_given_an_id_and_counts_only_when_repeated_with_it() {
    let mut play = Play::default();
    let mut join = play.plain_join("");
    join.requires_member_id = true;
    let ticket = join.ticket;
    play.group.join(0, join);
    let refused = Answer::JoinRefused(ResponseError::MemberIdRequired, "m1".to_owned());
    assert_eq!(play.answers().remove(&ticket), Some(refused));
    assert!(play.group.members.is_empty() && !play.group.is_forgettable());
    let ticket = play.join("m1");
    assert_eq!(play.joined(ticket).member_id, "m1");
    let mut unused = play.plain_join("");
    unused.requires_member_id = true;
    play.group.join(0, unused);
    play.pass(SESSION_MS);
    assert!(play.group.pending.is_empty(), "an id that is not used lapses");
}

#[test]
fn a_follower_that_joins_again_unchanged_keeps_the_generation_and_the_leader_starts_a_new_one() {
    let mut play = Play::two_stable();
    let ticket = play.join("m2");
    assert_eq!(play.joined(ticket).generation, 2);
    assert_eq!(play.group.state, State::Stable);
    play.join("m1");
    assert_eq!(play.group.state, State::PreparingRebalance);
}

#[test]
fn a_static_member_comes_back_under_a_new_id_without_a_rebalance_and_its_old_id_is_fenced() {
    let mut play = Play::default();
    play.join_static("one", "", true);
    let sync = Sync {
        ticket: 99,
        who: who_static("m1", "one"),
        generation: 1,
        protocol_type: None,
        protocol: None,
        assignments: HashMap::from([("m1".to_owned(), Bytes::from_static(b"all"))]),
    };
    play.group.sync(0, sync);
    play.answers();
    let ticket = play.join_static("one", "", true);
    let joined = play.joined(ticket);
    assert_eq!((joined.generation, joined.member_id.as_str(), joined.skip_assignment), (1, "m2", true));
    assert_eq!(play.group.heartbeat(0, &who_static("m1", "one"), 1), Err(ResponseError::FencedInstanceId));
    assert_eq!(play.group.heartbeat(0, &who_static("m2", "one"), 1), Ok(()));
    assert_eq!(play.group.members["m2"].assignment, Bytes::from_static(b"all"));
    let ticket = play.join_static("one", "", false);
    let joined = play.joined(ticket);
    assert_eq!(joined.leader, "m2", "before version 9 it must not take itself for the leader");
    assert_eq!(play.group.leave(0, &who_static("", "one")), Ok(()));
    assert_eq!(play.group.state, State::Empty);
}

#[test]
fn protocols_that_share_nothing_are_refused_and_the_choice_is_what_all_know() {
    let mut play = Play::default();
    let mut join = play.plain_join("");
    join.protocols = vec![("sticky".to_owned(), Bytes::new()), ("range".to_owned(), Bytes::new())];
    play.group.join(0, join);
    let mut other = play.plain_join("");
    other.protocols = vec![("mine".to_owned(), Bytes::new())];
    let ticket = other.ticket;
    play.group.join(0, other);
    let refused = Answer::JoinRefused(ResponseError::InconsistentGroupProtocol, String::new());
    assert_eq!(play.answers().remove(&ticket), Some(refused));
    play.join("");
    let mut again = play.plain_join("m1");
    again.protocols = vec![("sticky".to_owned(), Bytes::new()), ("range".to_owned(), Bytes::new())];
    let ticket = again.ticket;
    play.group.join(0, again);
    assert_eq!(play.joined(ticket).protocol, "range");
}

#[test]
fn offsets_are_taken_from_members_of_the_generation_and_without_members_from_anybody() {
    let mut play = Play::two_stable();
    assert_eq!(play.group.check_commit(0, &who("m1"), 2), Ok(()));
    assert_eq!(play.group.check_commit(0, &who("m1"), 1), Err(ResponseError::IllegalGeneration));
    assert_eq!(play.group.check_commit(0, &who("stranger"), 2), Err(ResponseError::UnknownMemberId));
    assert_eq!(play.group.check_commit(0, &who(""), -1), Err(ResponseError::UnknownMemberId));
    assert_eq!(Group::default().check_commit(0, &who(""), -1), Ok(()));
    let _ = play.join("m1");
    assert_eq!(play.group.check_commit(0, &who("m2"), 2), Ok(()), "while joining, the last words are taken");
    let _ = play.join("m2");
    assert_eq!(play.group.check_commit(0, &who("m2"), 3), Err(ResponseError::RebalanceInProgress));
}

#[test]
fn offsets_of_a_transaction_are_taken_from_members_of_the_generation_and_from_producers_that_know_no_group() {
    let mut play = Play::two_stable();
    assert_eq!(play.group.check_transactional_commit(&who("m1"), 2), Ok(()));
    assert_eq!(play.group.check_transactional_commit(&who("m1"), 1), Err(ResponseError::IllegalGeneration));
    assert_eq!(play.group.check_transactional_commit(&who("stranger"), 2), Err(ResponseError::UnknownMemberId));
    assert_eq!(play.group.check_transactional_commit(&who(""), -1), Ok(()), "before version 3");
    let _ = play.join("m1");
    let _ = play.join("m2");
    assert_eq!(play.group.check_transactional_commit(&who("m1"), 3), Ok(()), "until the next generation");
}

#[test]
fn every_ticket_is_answered_once_whatever_happens() {
    let mut state = 7_u64;
    let mut random = |bound: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % bound
    };
    for _ in 0..200 {
        let mut play = Play::default();
        let mut answered: Vec<Ticket> = Vec::new();
        for _ in 0..60 {
            let known: Vec<String> = play.group.members.keys().cloned().collect();
            let pick = known.get(usize::try_from(random(4)).unwrap()).cloned().unwrap_or_default();
            match random(7) {
                0 | 1 => drop(play.join(&pick)),
                2 => drop(play.join_static(&format!("i{}", random(2)), "", random(2) == 0)),
                3 | 4 => drop(play.sync(&pick, play.group.generation, &[])),
                5 => drop(play.group.leave(play.now_ms, &who(&pick))),
                _ => play.pass(random(20_000)),
            }
            answered.extend(play.group.take_answers().into_iter().map(|(ticket, _)| ticket));
        }
        play.pass(10 * NEW_MEMBER_WAIT_MAX_MS);
        answered.extend(play.group.take_answers().into_iter().map(|(ticket, _)| ticket));
        answered.sort_unstable();
        assert_eq!(answered, (1..=play.last_ticket).collect::<Vec<_>>());
        assert!(play.group.is_forgettable(), "{:?}", play.group);
    }
}
