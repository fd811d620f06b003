//! Kafka's port, spoken to in raw frames, so that nothing of ours stands on both sides.

mod offsets;
mod transactions;

use std::sync::Arc;
use std::time::Duration;

use aquifer_server::settings::ServerSettings;
use aquifer_server::{Addresses, Components, Server};
use aquifer_sql::engine::{Engine, EngineOptions};
use aquifer_storage::clock::{SystemClock, SystemRandom};
use aquifer_storage::record::batch::{BatchBuilder, Compression, TimestampType};
use aquifer_storage::settings::StorageSettings;
use aquifer_storage::{OpenOptions, Storage};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// Longest a test waits for anything.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) struct Node {
    pub(crate) storage: Storage,
    address: std::net::SocketAddr,
    pub(crate) http: std::net::SocketAddr,
    shutdown: CancellationToken,
    served: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Node {
    pub(crate) async fn start() -> Self {
        Self::start_with(ServerSettings::default(), StorageSettings::default()).await
    }

    pub(crate) async fn start_with(settings: ServerSettings, storage_settings: StorageSettings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = OpenOptions {
            data_dir: dir.path().to_owned(),
            object_store_url: None,
            object_store: Default::default(),
            settings: storage_settings,
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
        };
        let storage = Storage::open(options).await.unwrap();
        let engine = Engine::open(storage.clone(), EngineOptions::default()).await.unwrap();
        let free = || "127.0.0.1:0".to_owned();
        let addresses = Addresses { kafka: free(), kafka_advertised: None, postgres: free(), http: free() };
        let server = Server::bind(addresses, settings).await.unwrap();
        let (address, http) = (server.addresses().kafka, server.addresses().http);
        let shutdown = CancellationToken::new();
        let components = Components { storage: storage.clone(), engine, metrics: Arc::new(String::new) };
        let served = tokio::spawn(server.run(components, shutdown.clone()));
        Self { storage, address, http, shutdown, served, _dir: dir }
    }

    pub(crate) async fn client(&self) -> Client {
        Client { stream: TcpStream::connect(self.address).await.unwrap(), sent: 0 }
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(DEADLINE, self.served).await.unwrap().unwrap();
        self.storage.close().await.unwrap();
    }
}

pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    sent: i32,
}

impl Client {
    /// Sends a request in a version before the flexible ones and answers its correlation id.
    pub(crate) async fn send(&mut self, key: i16, version: i16, body: &[u8]) -> i32 {
        self.sent += 1;
        let mut frame = BytesMut::new();
        frame.put_i32(i32::try_from(8 + 6 + body.len()).unwrap());
        frame.put_i16(key);
        frame.put_i16(version);
        frame.put_i32(self.sent);
        string(&mut frame, "test");
        frame.put_slice(body);
        self.stream.write_all(&frame).await.unwrap();
        self.sent
    }

    /// The next answer, behind its correlation id; `None` if the node has closed the connection.
    pub(crate) async fn receive(&mut self) -> Option<(i32, Bytes)> {
        let read = async {
            let length = self.stream.read_i32().await.ok()?;
            let mut bytes = vec![0; usize::try_from(length).unwrap()];
            self.stream.read_exact(&mut bytes).await.ok()?;
            let mut bytes = Bytes::from(bytes);
            Some((bytes.get_i32(), bytes))
        };
        tokio::time::timeout(DEADLINE, read).await.expect("an answer in time")
    }

    pub(crate) async fn ask(&mut self, key: i16, version: i16, body: &[u8]) -> Bytes {
        let id = self.send(key, version, body).await;
        let (answered, bytes) = self.receive().await.expect("the connection stays open");
        assert_eq!(answered, id);
        bytes
    }

    /// Makes a topic by asking for its metadata.
    pub(crate) async fn make(&mut self, topic: &str) {
        let mut body = BytesMut::new();
        body.put_i32(1);
        string(&mut body, topic);
        self.ask(3, 1, &body).await;
    }

    pub(crate) async fn produce(&mut self, topic: &str, acks: i16, records: &[u8]) -> (i16, i64) {
        produced(self.ask(0, 3, &produce_body(topic, acks, records)).await)
    }

    /// Error, high watermark and records of partition 0.
    pub(crate) async fn fetch(&mut self, topic: &str, offset: i64, wait_ms: i32) -> (i16, i64, Bytes) {
        let id = self.send(1, 4, &fetch_body(topic, offset, wait_ms)).await;
        let (answered, bytes) = self.receive().await.unwrap();
        assert_eq!(answered, id);
        fetched(bytes)
    }
}

pub(crate) fn string(bytes: &mut BytesMut, text: &str) {
    bytes.put_i16(i16::try_from(text.len()).unwrap());
    bytes.put_slice(text.as_bytes());
}

pub(crate) fn produce_body(topic: &str, acks: i16, records: &[u8]) -> BytesMut {
    let mut body = BytesMut::new();
    body.put_i16(-1); // transactional_id
    body.put_i16(acks);
    body.put_i32(1_000);
    body.put_i32(1);
    string(&mut body, topic);
    body.put_i32(1);
    body.put_i32(0);
    body.put_i32(i32::try_from(records.len()).unwrap());
    body.put_slice(records);
    body
}

/// Error and base offset of the only partition of a produce's answer.
fn produced(mut bytes: Bytes) -> (i16, i64) {
    assert_eq!(bytes.get_i32(), 1);
    let name = usize::try_from(bytes.get_i16()).unwrap();
    bytes.advance(name);
    assert_eq!((bytes.get_i32(), bytes.get_i32()), (1, 0));
    (bytes.get_i16(), bytes.get_i64())
}

fn fetch_body(topic: &str, offset: i64, wait_ms: i32) -> BytesMut {
    let mut body = BytesMut::new();
    body.put_i32(-1);
    body.put_i32(wait_ms);
    body.put_i32(1);
    body.put_i32(1 << 20);
    body.put_i8(0);
    body.put_i32(1);
    string(&mut body, topic);
    body.put_i32(1);
    body.put_i32(0);
    body.put_i64(offset);
    body.put_i32(1 << 20);
    body
}

fn fetched(mut bytes: Bytes) -> (i16, i64, Bytes) {
    assert_eq!((bytes.get_i32(), bytes.get_i32()), (0, 1));
    let name = usize::try_from(bytes.get_i16()).unwrap();
    bytes.advance(name);
    assert_eq!((bytes.get_i32(), bytes.get_i32()), (1, 0));
    let (error, high_watermark) = (bytes.get_i16(), bytes.get_i64());
    bytes.get_i64(); // last_stable_offset
    assert_eq!(bytes.get_i32(), -1, "aborted transactions are not told to who reads everything");
    let records = usize::try_from(bytes.get_i32()).unwrap();
    (error, high_watermark, bytes.split_to(records))
}

/// One batch of `count` records.
pub(crate) fn batch(count: usize) -> Bytes {
    let mut builder = BatchBuilder::new(0, TimestampType::CreateTime);
    for n in 0..count {
        builder.push(1_000, Some(b"key"), Some(format!("value {n}").as_bytes()), &[(b"h", None), (b"h", Some(b"2"))]);
    }
    builder.build(Compression::None).unwrap().bytes().clone()
}

/// The same batch as an idempotent producer sends it.
fn batch_of(producer_id: i64, sequence: i32, count: usize) -> Bytes {
    let mut bytes = BytesMut::from(&batch(count)[..]);
    bytes[43..51].copy_from_slice(&producer_id.to_be_bytes());
    bytes[51..53].copy_from_slice(&0_i16.to_be_bytes());
    bytes[53..57].copy_from_slice(&sequence.to_be_bytes());
    let crc = crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.freeze()
}

/// Castagnoli's, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc: u32, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn with_auto_create_off_asking_for_a_topic_does_not_make_it() {
    let settings = StorageSettings { topic_auto_create: false, ..StorageSettings::default() };
    let node = Node::start_with(ServerSettings::default(), settings).await;
    let mut client = node.client().await;
    client.make("wished").await;
    assert!(node.storage.topic("wished").is_none());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_produced_comes_back_byte_for_byte() {
    let node = Node::start().await;
    let mut client = node.client().await;
    client.make("orders").await;
    let sent = batch(3);
    assert_eq!(client.produce("orders", -1, &sent).await, (0, 0));
    assert_eq!(client.produce("orders", 1, &sent).await, (0, 3));
    let (error, high_watermark, records) = client.fetch("orders", 4, 0).await;
    assert_eq!(error, 0);
    assert!(high_watermark >= 3);
    assert_eq!(records[..8], 3_i64.to_be_bytes());
    assert_eq!(records[16..], sent[16..], "all but base offset and leader epoch");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn produces_in_flight_are_answered_in_order() {
    let node = Node::start().await;
    let mut client = node.client().await;
    client.make("orders").await;
    let body = produce_body("orders", -1, &batch(1));
    let mut ids = Vec::new();
    for _ in 0..50 {
        ids.push(client.send(0, 3, &body).await);
    }
    for (offset, id) in (0..).zip(ids) {
        let (answered, bytes) = client.receive().await.unwrap();
        assert_eq!((answered, produced(bytes)), (id, (0, offset)));
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_larger_than_a_commit_is_taken_whole_and_a_batch_larger_than_one_is_refused() {
    let settings = StorageSettings { wal_commit_bytes_max: 64 << 10, ..StorageSettings::default() };
    let node = Node::start_with(ServerSettings::default(), settings).await;
    let mut client = node.client().await;
    client.make("orders").await;
    let batches = batch(100).repeat(40);
    assert!(batches.len() > 64 << 10);
    assert_eq!(client.produce("orders", -1, &batches).await, (0, 0));
    let (error, high_watermark, _) = client.fetch("orders", 0, 0).await;
    assert_eq!((error, high_watermark), (0, 4_000));
    let (error, _) = client.produce("orders", -1, &batch(5_000)).await;
    assert_eq!(error, 10, "MESSAGE_TOO_LARGE");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_poll_ends_when_a_record_arrives() {
    let node = Node::start().await;
    let (mut reader, mut writer) = (node.client().await, node.client().await);
    reader.make("orders").await;
    reader.send(1, 4, &fetch_body("orders", 0, 60_000)).await;
    assert_eq!(writer.produce("orders", -1, &batch(1)).await, (0, 0));
    let (error, high_watermark, records) = fetched(reader.receive().await.unwrap().1);
    assert_eq!((error, high_watermark), (0, 1));
    assert!(!records.is_empty());
    assert_eq!(reader.fetch("orders", 2, 60_000).await.0, 1, "OFFSET_OUT_OF_RANGE at once");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idempotent_producer_is_answered_the_first_offset_again_and_a_gap_is_refused() {
    let node = Node::start().await;
    let mut client = node.client().await;
    client.make("orders").await;
    let mut body = BytesMut::new();
    body.put_i16(-1);
    body.put_i32(0);
    let mut answer = client.ask(22, 0, &body).await;
    answer.advance(4);
    assert_eq!(answer.get_i16(), 0);
    let producer_id = answer.get_i64();
    assert_eq!(client.produce("orders", -1, &batch_of(producer_id, 0, 2)).await, (0, 0));
    assert_eq!(client.produce("orders", -1, &batch_of(producer_id, 2, 2)).await, (0, 2));
    assert_eq!(client.produce("orders", -1, &batch_of(producer_id, 0, 2)).await, (0, 0));
    assert_eq!(client.produce("orders", -1, &batch_of(producer_id, 9, 2)).await.0, 45);
    let mut damaged = BytesMut::from(&batch(1)[..]);
    damaged[70] ^= 1;
    assert_eq!(client.produce("orders", -1, &damaged).await.0, 2, "CORRUPT_MESSAGE");
    node.stop().await;
}

/// The member id and generation of a join in version 0; the group's only member leads.
async fn join(client: &mut Client, group: &str) -> (String, i32) {
    let mut body = BytesMut::new();
    string(&mut body, group);
    body.put_i32(10_000);
    string(&mut body, ""); // member_id
    string(&mut body, "consumer");
    body.put_i32(1);
    string(&mut body, "range");
    body.put_i32(0); // metadata
    let mut answer = client.ask(11, 0, &body).await;
    assert_eq!(answer.get_i16(), 0);
    let generation = answer.get_i32();
    let mut text = || {
        let length = usize::try_from(answer.get_i16()).unwrap();
        String::from_utf8(answer.split_to(length).to_vec()).unwrap()
    };
    let (protocol, leader, member) = (text(), text(), text());
    assert_eq!((protocol.as_str(), &leader), ("range", &member));
    (member, generation)
}

/// The error of committing offset 7 for partition 0, in version 2.
async fn commit_offset(client: &mut Client, group: &str, member: &str, generation: i32) -> i16 {
    let mut body = BytesMut::new();
    string(&mut body, group);
    body.put_i32(generation);
    string(&mut body, member);
    body.put_i64(-1); // retention_time_ms
    body.put_i32(1);
    string(&mut body, "orders");
    body.put_i32(1);
    body.put_i32(0);
    body.put_i64(7);
    string(&mut body, "note");
    let mut answer = client.ask(8, 2, &body).await;
    answer.advance(4 + 2 + "orders".len() + 4 + 4);
    answer.get_i16()
}

/// What a group has committed for partition 0, in version 1.
async fn committed_offset(client: &mut Client, group: &str) -> i64 {
    let mut body = BytesMut::new();
    string(&mut body, group);
    body.put_i32(1);
    string(&mut body, "orders");
    body.put_i32(1);
    body.put_i32(0);
    let mut answer = client.ask(9, 1, &body).await;
    answer.advance(4 + 2 + "orders".len() + 4 + 4);
    answer.get_i64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_commits_offsets_in_its_generation_and_a_stranger_does_not() {
    let node = Node::start().await;
    let mut client = node.client().await;
    client.make("orders").await;
    assert_eq!(committed_offset(&mut client, "readers").await, -1);
    let (member, generation) = join(&mut client, "readers").await;
    let mut sync = BytesMut::new();
    string(&mut sync, "readers");
    sync.put_i32(generation);
    string(&mut sync, &member);
    sync.put_i32(1);
    string(&mut sync, &member);
    sync.put_i32(4);
    sync.put_slice(b"mine");
    assert_eq!(client.ask(14, 0, &sync).await[..], *b"\0\0\0\0\0\x04mine");
    assert_eq!(commit_offset(&mut client, "readers", "stranger", generation).await, 25, "UNKNOWN_MEMBER_ID");
    assert_eq!(commit_offset(&mut client, "readers", &member, generation - 1).await, 22, "ILLEGAL_GENERATION");
    assert_eq!(committed_offset(&mut client, "readers").await, -1);
    assert_eq!(commit_offset(&mut client, "readers", &member, generation).await, 0);
    assert_eq!(committed_offset(&mut client, "readers").await, 7);
    assert_eq!(commit_offset(&mut client, "without members", "", -1).await, 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_produce_without_acks_is_not_answered_and_one_that_fails_closes_the_connection() {
    let node = Node::start().await;
    let mut client = node.client().await;
    client.make("orders").await;
    client.send(0, 3, &produce_body("orders", 0, &batch(1))).await;
    let (_, high_watermark, _) = client.fetch("orders", 0, 5_000).await;
    assert_eq!(high_watermark, 1);
    client.send(0, 3, &produce_body("unknown", 0, &batch(1))).await;
    assert_eq!(client.receive().await, None);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn own_topics_and_unknown_ones_are_refused() {
    let node = Node::start().await;
    let mut client = node.client().await;
    assert_eq!(client.produce("__consumer_offsets", -1, &batch(1)).await.0, 17);
    assert_eq!(client.produce("unknown", -1, &batch(1)).await.0, 3);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_frames_close_their_connection_and_no_other() {
    let node = Node::start().await;
    let mut good = node.client().await;
    good.make("orders").await;
    let frames: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\n\r\n",
        &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 3],
        &[0, 0, 0, 2, 0, 3],
        // An array of two billion topics in fifteen bytes.
        &[0, 0, 0, 14, 0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff],
        // A request nobody knows, and a version nobody knows.
        &[0, 0, 0, 10, 0x7f, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xff],
        &[0, 0, 0, 10, 0, 3, 0, 99, 0, 0, 0, 1, 0xff, 0xff],
    ];
    for frame in frames {
        let mut bad = node.client().await;
        bad.stream.write_all(frame).await.unwrap();
        assert_eq!(bad.receive().await, None, "{frame:?}");
    }
    let mut half = node.client().await;
    half.stream.write_all(&[0, 0, 1, 0, 0, 0]).await.unwrap();
    assert_eq!(good.produce("orders", -1, &batch(1)).await, (0, 0));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_version_of_api_versions_is_answered_in_version_0() {
    let node = Node::start().await;
    let mut client = node.client().await;
    let mut answer = client.ask(18, 99, &[]).await;
    assert_eq!((answer.get_i16(), answer.get_i32()), (35, 1));
    assert_eq!((answer.get_i16(), answer.get_i16(), answer.get_i16()), (18, 0, 4));
    let mut answer = client.ask(18, 0, &[]).await;
    assert_eq!(answer.get_i16(), 0);
    let apis: Vec<(i16, i16)> = (0..answer.get_i32())
        .map(|_| {
            let (key, min, _max) = (answer.get_i16(), answer.get_i16(), answer.get_i16());
            (key, min)
        })
        .collect();
    assert!(apis.contains(&(0, 0)), "librdkafka turns compression off otherwise");
    let transactions: Vec<_> = apis.iter().filter(|(key, _)| (24..=28).contains(key)).collect();
    assert_eq!(transactions, [&(24, 0), &(25, 0), &(26, 0), &(28, 0)], "librdkafka speaks version 0; markers are ours");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_beyond_the_limit_are_closed_and_the_others_served() {
    let settings = ServerSettings { kafka_connections_max: 1, ..ServerSettings::default() };
    let node = Node::start_with(settings, StorageSettings::default()).await;
    let mut first = node.client().await;
    first.make("orders").await;
    let mut second = node.client().await;
    assert_eq!(second.receive().await, None);
    first.make("clicks").await;
    node.stop().await;
}
