//! Offsets of consumer groups over time: a group that is gone is forgotten, one that has members is not.

use std::collections::HashMap;

use aquifer_server::settings::ServerSettings;
use aquifer_storage::settings::StorageSettings;
use aquifer_storage::{Commit, GroupOffset, GroupOffsetChange, Storage, TopicPartition};
use bytes::{Buf, BufMut, BytesMut};

use super::{Client, DEADLINE, Node, string};

const JOIN_GROUP: i16 = 11;
const LEAVE_GROUP: i16 = 13;

/// Joins a group as its only member; its id.
async fn join(client: &mut Client, group: &str) -> String {
    let mut body = BytesMut::new();
    string(&mut body, group);
    body.put_i32(60_000);
    string(&mut body, "");
    string(&mut body, "consumer");
    body.put_i32(1);
    string(&mut body, "range");
    body.put_i32(0);
    let mut answer = client.ask(JOIN_GROUP, 0, &body).await;
    assert_eq!((answer.get_i16(), answer.get_i32()), (0, 1), "no error, the first generation");
    let mut text = || {
        let length = usize::try_from(answer.get_i16()).unwrap();
        String::from_utf8(answer.split_to(length).to_vec()).unwrap()
    };
    let (_protocol, _leader, member) = (text(), text(), text());
    member
}

async fn leave(client: &mut Client, group: &str, member: &str) {
    let mut body = BytesMut::new();
    string(&mut body, group);
    string(&mut body, member);
    assert_eq!(client.ask(LEAVE_GROUP, 0, &body).await.get_i16(), 0);
}

async fn commit(storage: &Storage, group: &str, partition: TopicPartition) {
    let offset = GroupOffset { offset: 1, leader_epoch: -1, metadata: String::new(), committed_at_us: 0 };
    let change = GroupOffsetChange { group: group.to_owned(), partition, offset: Some(offset) };
    storage.commit(Commit { group_offsets: vec![change], ..Commit::default() }).await.unwrap();
}

async fn until_gone(storage: &Storage, group: &str) {
    let gone = async {
        while storage.has_group_offsets(group) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, gone).await.expect("the offsets are forgotten in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_without_members_is_forgotten_after_the_retention_and_one_with_members_is_not() {
    let settings =
        StorageSettings { offsets_retention_ms: 20, housekeeping_interval_ms: 5, ..StorageSettings::default() };
    let node = Node::start_with(ServerSettings::default(), settings).await;
    let topic = node.storage.create_topic("t", Some(1), Default::default()).await.unwrap();
    let at = TopicPartition { topic: topic.id, partition: 0 };
    let mut client = node.client().await;
    // Groups are looked at in the order of their names: whoever finds the last one gone has passed the first one.
    let member = join(&mut client, "a-lives").await;
    commit(&node.storage, "a-lives", at).await;
    commit(&node.storage, "gone", at).await;
    until_gone(&node.storage, "gone").await;
    let offsets: HashMap<_, _> =
        node.storage.group_offsets(None).into_iter().map(|(group, _, offset)| (group, offset.offset)).collect();
    assert_eq!(offsets, HashMap::from([("a-lives".to_owned(), 1)]));

    leave(&mut client, "a-lives", &member).await;
    until_gone(&node.storage, "a-lives").await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_beyond_the_limit_are_refused_by_kafkas_code() {
    let settings = StorageSettings { offsets_bytes_max: 300, ..StorageSettings::default() };
    let node = Node::start_with(ServerSettings::default(), settings).await;
    let mut client = node.client().await;
    client.make("t").await;
    let mut committed = Vec::new();
    for group in ["a", "b", "a"] {
        let mut body = BytesMut::new();
        string(&mut body, group);
        body.put_i32(-1);
        string(&mut body, "");
        body.put_i64(-1);
        body.put_i32(1);
        string(&mut body, "t");
        body.put_i32(1);
        body.put_i32(0);
        body.put_i64(5);
        string(&mut body, "");
        let mut answer = client.ask(8, 2, &body).await;
        answer.advance(4 + 2 + 1 + 4 + 4);
        committed.push(answer.get_i16());
    }
    assert_eq!(committed, [0, 28, 0], "INVALID_COMMIT_OFFSET_SIZE for what is new, no error for what is there");
    node.stop().await;
}
