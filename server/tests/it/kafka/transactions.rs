//! Transactions in raw frames: the codes of each step in each version, and what a fetch tells of what was aborted.

use super::*;

/// Sets a batch's producer and its transactional bit.
fn transactional(producer: (i64, i16), sequence: i32, count: usize) -> Bytes {
    let mut bytes = BytesMut::from(&batch_of(producer.0, sequence, count)[..]);
    bytes[22] |= 1 << 4;
    bytes[51..53].copy_from_slice(&producer.1.to_be_bytes());
    let crc = crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.freeze()
}

fn step_body(id: &str, producer: (i64, i16)) -> BytesMut {
    let mut body = BytesMut::new();
    string(&mut body, id);
    body.put_i64(producer.0);
    body.put_i16(producer.1);
    body
}

impl Client {
    /// InitProducerId: the error and who the producer is.
    async fn init(&mut self, id: &str, timeout_ms: i32) -> (i16, (i64, i16)) {
        let mut body = BytesMut::new();
        string(&mut body, id);
        body.put_i32(timeout_ms);
        let mut answer = self.ask(22, 0, &body).await;
        answer.advance(4);
        (answer.get_i16(), (answer.get_i64(), answer.get_i16()))
    }

    /// AddPartitionsToTxn: the error per partition.
    async fn add(&mut self, version: i16, id: &str, producer: (i64, i16), topic: &str, partitions: &[i32]) -> Vec<i16> {
        let mut body = step_body(id, producer);
        body.put_i32(1);
        string(&mut body, topic);
        body.put_i32(i32::try_from(partitions.len()).unwrap());
        partitions.iter().for_each(|partition| body.put_i32(*partition));
        let mut answer = self.ask(24, version, &body).await;
        answer.advance(4 + 4 + 2 + topic.len());
        let count = answer.get_i32();
        let errors = (0..count).map(|_| {
            answer.advance(4);
            answer.get_i16()
        });
        errors.collect()
    }

    /// EndTxn: the error.
    async fn end(&mut self, version: i16, id: &str, producer: (i64, i16), committed: bool) -> i16 {
        let mut body = step_body(id, producer);
        body.put_u8(committed.into());
        let mut answer = self.ask(26, version, &body).await;
        answer.advance(4);
        answer.get_i16()
    }

    async fn produce_in(&mut self, id: &str, topic: &str, records: &[u8]) -> (i16, i64) {
        let body = produce_body(topic, -1, records);
        let mut named = BytesMut::new();
        string(&mut named, id);
        named.put_slice(&body[2..]);
        produced(self.ask(0, 3, &named).await)
    }

    /// A read_committed fetch: last stable offset, what was aborted, bytes of records.
    async fn fetch_committed(&mut self, topic: &str, offset: i64, wait_ms: i32) -> (i64, Vec<(i64, i64)>, usize) {
        let mut body = fetch_body(topic, offset, wait_ms);
        body[16] = 1;
        let mut answer = self.ask(1, 4, &body).await;
        answer.advance(4 + 4 + 2 + topic.len() + 4 + 4);
        assert_eq!(answer.get_i16(), 0);
        answer.advance(8);
        let stable = answer.get_i64();
        let aborted = (0..answer.get_i32()).map(|_| (answer.get_i64(), answer.get_i64())).collect();
        (stable, aborted, usize::try_from(answer.get_i32()).unwrap())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_of_committed_records_ends_at_what_is_open_and_names_what_was_aborted() {
    let node = Node::start().await;
    let mut client = node.client().await;
    client.make("orders").await;
    let (error, producer) = client.init("writer", 60_000).await;
    assert_eq!(error, 0);
    assert_eq!(client.add(0, "writer", producer, "orders", &[0]).await, [0]);
    assert_eq!(client.produce("orders", -1, &batch(2)).await, (0, 0));
    assert_eq!(client.produce_in("writer", "orders", &transactional(producer, 0, 3)).await, (0, 2));
    assert_eq!(client.produce("orders", -1, &batch(1)).await, (0, 5));
    let (stable, aborted, bytes) = client.fetch_committed("orders", 0, 0).await;
    assert_eq!((stable, aborted, bytes), (2, vec![], batch(2).len()), "up to what is open");
    assert_eq!(client.fetch_committed("orders", 2, 0).await, (2, vec![], 0));

    // A second reader waits at the last stable offset; the end of the transaction wakes it.
    let mut reader = node.client().await;
    let waits = tokio::spawn(async move { reader.fetch_committed("orders", 2, 60_000).await });
    assert_eq!(client.end(0, "writer", producer, false).await, 0);
    let (stable, aborted, bytes) = tokio::time::timeout(DEADLINE, waits).await.expect("woken").unwrap();
    assert_eq!((stable, aborted), (7, vec![(producer.0, 2)]), "its marker is the sixth offset");
    assert!(bytes > batch(3).len() + batch(1).len(), "the aborted batch, the one behind it, and the marker");
    assert_eq!(client.end(0, "writer", producer, false).await, 0, "a retry is answered alike");
    assert_eq!(client.end(0, "writer", producer, true).await, 48, "INVALID_TXN_STATE");

    assert_eq!(client.add(0, "writer", producer, "orders", &[0]).await, [0]);
    assert_eq!(client.produce_in("writer", "orders", &transactional(producer, 3, 1)).await, (0, 7));
    assert_eq!(client.end(0, "writer", producer, true).await, 0);
    assert_eq!(client.fetch_committed("orders", 7, 0).await.1, vec![], "nothing was aborted from here on");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_step_out_of_order_has_the_code_its_client_knows() {
    let node = Node::start().await;
    let mut client = node.client().await;
    client.make("orders").await;
    assert_eq!(client.init("", 60_000).await.0, 42, "INVALID_REQUEST");
    assert_eq!(client.init("writer", 900_001).await.0, 50, "INVALID_TRANSACTION_TIMEOUT");
    assert_eq!(client.init("writer", 0).await.0, 50, "INVALID_TRANSACTION_TIMEOUT");
    assert_eq!(client.add(0, "nobody", (1, 0), "orders", &[0]).await, [49], "INVALID_PRODUCER_ID_MAPPING");
    assert_eq!(client.end(1, "nobody", (1, 0), true).await, 49, "INVALID_PRODUCER_ID_MAPPING");

    let (_, old) = client.init("writer", 60_000).await;
    assert_eq!(client.end(0, "writer", old, true).await, 48, "INVALID_TXN_STATE");
    assert_eq!(client.add(0, "writer", old, "orders", &[0, 99, 1]).await, [55, 3, 55], "all partitions or none");
    assert_eq!(client.produce_in("writer", "orders", &transactional(old, 0, 1)).await.0, 48, "it was not added");
    assert_eq!(client.produce("orders", -1, &transactional(old, 0, 1)).await.0, 53, "the request names no id");
    assert_eq!(client.add(0, "writer", old, "orders", &[0]).await, [0]);
    assert_eq!(client.produce_in("writer", "orders", &transactional(old, 0, 1)).await, (0, 0));

    let (_, new) = client.init("writer", 60_000).await;
    assert_eq!((new.0, new.1), (old.0, old.1 + 1), "the id stays, the epoch fences");
    assert_eq!(client.produce_in("writer", "orders", &transactional(old, 1, 1)).await.0, 47, "INVALID_PRODUCER_EPOCH");
    for (version, fenced) in [(0, 47), (1, 47), (2, 90)] {
        assert_eq!(client.add(version, "writer", old, "orders", &[0]).await, [fenced], "{version}");
        assert_eq!(client.end(version, "writer", old, true).await, fenced, "{version}");
        let mut body = step_body("writer", old);
        string(&mut body, "group");
        let mut answer = client.ask(25, version, &body).await;
        answer.advance(4);
        assert_eq!(answer.get_i16(), fenced, "{version}");
    }
    assert_eq!(client.fetch_committed("orders", 0, 0).await.1, [(old.0, 0)], "what the old one left open was aborted");
    node.stop().await;
}
