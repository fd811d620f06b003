//! Every request we advertise, in every version, against a real storage: it is answered, or it closes the connection by
//! name; it never panics and never meets a value that its version cannot carry.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use aquifer_storage::clock::{SystemClock, SystemRandom};
use aquifer_storage::settings::StorageSettings;
use aquifer_storage::{
    Commit, GroupOffset, OpenOptions, ProducerIdentity, Storage, TopicConfig, TopicPartition, TransactionChange,
};
use bytes::Buf;
use futures::FutureExt;
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use tokio_util::sync::CancellationToken;

use super::super::api::{APIS, Incoming};
use super::super::broker::text;
use super::super::coordinator::Coordinator;
use super::super::fetch::FetchRoom;
use super::super::frame::RequestRoom;
use super::super::produce::{self, Produced};
use super::super::schema::generate::generate;
use super::*;
use crate::settings::ServerSettings;

async fn broker(data_dir: &std::path::Path) -> Arc<Broker> {
    let options = OpenOptions {
        data_dir: data_dir.to_owned(),
        object_store_url: None,
        object_store: Default::default(),
        settings: StorageSettings::default(),
        clock: Arc::new(SystemClock),
        random: Arc::new(SystemRandom),
    };
    let storage = Storage::open(options).await.unwrap();
    let settings = ServerSettings { kafka_fetch_wait_max_ms: 1, ..ServerSettings::default() };
    Arc::new(Broker {
        coordinator: Coordinator::new(storage.random().clone()),
        storage,
        host: text("127.0.0.1"),
        port: 9092,
        fetch_room: FetchRoom::new(settings.kafka_fetch_bytes_in_flight_max),
        request_room: RequestRoom::new(settings.kafka_request_bytes_in_flight_max),
        answer_room: Default::default(),
        meter: Default::default(),
        settings,
        shutdown: CancellationToken::new(),
    })
}

/// What the connection does with a request; `None` if the answer waits for other members.
async fn answer_or_wait(broker: &Arc<Broker>, request: &Request) -> Option<Response> {
    if request.header.api.key == ApiKey::Produce {
        return match produce::submit(broker.clone(), request).unwrap().await {
            Produced::Answer(response) => Some(response),
            Produced::Silent | Produced::Close => None,
        };
    }
    let caller = Caller { broker, peer: ([127, 0, 0, 1], 1).into(), turns: &Turns::default() };
    let answered = tokio::time::timeout(Duration::from_millis(50), answer(caller, request)).await;
    answered.ok().map(|answered| {
        let header = &request.header;
        answered.unwrap_or_else(|error| panic!("{:?} {}: {error}", header.api.key, header.version))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_version_of_every_request_is_answered_with_what_it_can_carry() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker(dir.path()).await;
    for seed in 0..12 {
        for api in APIS {
            for version in api.min..=api.max {
                let Incoming::Request(request) = Incoming::parse(generate(api, version, seed).into()).unwrap() else {
                    panic!("{:?} {version} is not known", api.key)
                };
                let Some(mut response) = answer_or_wait(&broker, &request).await else { continue };
                let length = usize::try_from(response.get_i32()).unwrap();
                assert_eq!(response.remaining(), length, "{:?} {version}", api.key);
                assert_eq!(response.get_i32(), request.header.correlation_id);
            }
        }
    }
    broker.storage.close().await.unwrap();
}

/// Error and offset that a group is told who asks for stable offsets.
fn stable_offset(broker: &Broker, topic: &str) -> (i16, i64) {
    let topic = OffsetFetchRequestTopic::default().with_name(text(topic).into()).with_partition_indexes(vec![0]);
    let request = OffsetFetchRequest::default().with_group_id(text("g").into()).with_topics(Some(vec![topic]));
    let mut share = broker.answer_room.share();
    let answer = commits::fetch(broker, request.with_require_stable(true), 7, &mut share);
    let answer = answer.now_or_never().expect("a small answer never waits").expect("there is room");
    let told = &answer.topics[0].partitions[0];
    (told.error_code, told.committed_offset)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_asks_for_stable_offsets_is_never_told_what_a_transaction_has_just_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker(dir.path()).await;
    let topic = broker.storage.create_topic("events", Some(1), TopicConfig::default()).await.unwrap();
    let at = TopicPartition { topic: topic.id, partition: 0 };
    let step = async |change| -> ProducerIdentity {
        let commit = Commit { transactions: vec![change], ..Commit::default() };
        broker.storage.commit(commit).await.unwrap().transactions[0]
    };
    let (id, group) = (|| "t".to_owned(), || "g".to_owned());
    let init = TransactionChange::Init { transactional_id: id(), timeout_ms: 60_000, expected: None };
    let producer = step(init).await;
    // The last offset that waits for its transaction's end, or counts.
    let newest = Arc::new(AtomicI64::new(-1));
    let (of_reader, seen) = (Arc::clone(&broker), Arc::clone(&newest));
    let reader = std::thread::spawn(move || {
        loop {
            let least = seen.load(Ordering::SeqCst);
            if least == i64::MAX {
                return;
            }
            let (error_code, offset) = stable_offset(&of_reader, "events");
            assert!(error_code != 0 || offset >= least, "told {offset}, {least} waited for its end or counted");
        }
    });
    for number in 0..200 {
        step(TransactionChange::AddOffsets { transactional_id: id(), producer, group: group() }).await;
        let offset = GroupOffset { offset: number, leader_epoch: -1, metadata: String::new(), committed_at_us: 0 };
        let offsets = vec![(at, offset)];
        let pending = TransactionChange::CommitOffsets { transactional_id: id(), producer, group: group(), offsets };
        step(pending).await;
        newest.store(number, Ordering::SeqCst);
        step(TransactionChange::End { transactional_id: id(), producer, committed: true }).await;
    }
    newest.store(i64::MAX, Ordering::SeqCst);
    reader.join().unwrap();
    broker.storage.close().await.unwrap();
}
