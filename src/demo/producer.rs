//! `Producer`: the smallest honest Kafka producer. Metadata once, then Produce requests with acks=1 over one
//! connection, one at a time, and every answer read.
//!
//! It is no client library: no retries, no compression, one broker. Keys are placed by murmur2, as Java and kafkajs do,
//! so that the shop's records and those a user writes with the same key meet in one partition.

use std::collections::BTreeMap;
use std::io::{Error, Result};
use std::net::SocketAddr;
use std::time::Duration;

use aquifer_storage::record::batch::{BatchBuilder, Compression, TimestampType};
use aquifer_storage::record::format;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::shop::Event;

const PRODUCE: i16 = 0;
const PRODUCE_VERSION: i16 = 7;
const METADATA: i16 = 3;
const METADATA_VERSION: i16 = 1;
const CLIENT_ID: &str = "aquifer-demo";
/// What the broker may take for a request.
const REQUEST_MS_MAX: i32 = 10_000;
/// What we wait for an answer, the wire included.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// An answer names a few topics; anything larger is not one.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// A connection to the broker and what it has said about the topics.
pub(super) struct Producer {
    stream: TcpStream,
    correlation_id: i32,
    partitions: BTreeMap<String, i32>,
}

impl Producer {
    pub(super) async fn connect(address: SocketAddr, topics: &[&str]) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut producer = Self { stream, correlation_id: 0, partitions: BTreeMap::new() };
        let mut body = Vec::new();
        put_count(&mut body, topics.len());
        topics.iter().for_each(|topic| put_string(&mut body, topic));
        let answer = producer.ask(METADATA, METADATA_VERSION, &body).await?;
        producer.partitions = read_metadata(&mut Reader(&answer))?;
        Ok(producer)
    }

    /// Writes the events, in order per topic and partition, and returns when all are acknowledged.
    pub(super) async fn send(&mut self, events: &[Event], now_ms: i64) -> Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        let mut batches: BTreeMap<(&str, i32), BatchBuilder> = BTreeMap::new();
        for event in events {
            let partitions = self.partitions.get(event.topic).copied();
            let partitions = partitions.ok_or_else(|| Error::other(format!("topic {} is unknown", event.topic)))?;
            let partition = format::partition_of_key(event.key.as_bytes(), partitions);
            let batch = batches
                .entry((event.topic, partition))
                .or_insert_with(|| BatchBuilder::new(0, TimestampType::CreateTime));
            batch.push(now_ms, Some(event.key.as_bytes()), Some(event.value.to_string().as_bytes()), &[]);
        }
        let answer = self.ask(PRODUCE, PRODUCE_VERSION, &produce_body(batches)).await?;
        read_produced(&mut Reader(&answer))
    }

    /// One request and its answer, without the header.
    async fn ask(&mut self, api_key: i16, api_version: i16, body: &[u8]) -> Result<Vec<u8>> {
        self.correlation_id = self.correlation_id.wrapping_add(1);
        let mut frame = vec![0; 4];
        frame.extend(api_key.to_be_bytes());
        frame.extend(api_version.to_be_bytes());
        frame.extend(self.correlation_id.to_be_bytes());
        put_string(&mut frame, CLIENT_ID);
        frame.extend(body);
        let length = i32::try_from(frame.len() - 4).map_err(Error::other)?;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        let exchange = async {
            self.stream.write_all(&frame).await?;
            let length = usize::try_from(self.stream.read_i32().await?).unwrap_or(usize::MAX);
            if !(4..=ANSWER_BYTES_MAX).contains(&length) {
                return Err(Error::other(format!("an answer of {length} bytes")));
            }
            let answered_id = self.stream.read_i32().await?;
            let mut answer = vec![0; length - 4];
            self.stream.read_exact(&mut answer).await?;
            Ok((answered_id, answer))
        };
        let (answered_id, answer) = tokio::time::timeout(ANSWER_MAX, exchange).await??;
        if answered_id != self.correlation_id {
            return Err(Error::other(format!("answer {answered_id} to request {}", self.correlation_id)));
        }
        Ok(answer)
    }
}

fn produce_body(batches: BTreeMap<(&str, i32), BatchBuilder>) -> Vec<u8> {
    let mut by_topic: BTreeMap<&str, Vec<(i32, BatchBuilder)>> = BTreeMap::new();
    for ((topic, partition), batch) in batches {
        by_topic.entry(topic).or_default().push((partition, batch));
    }
    let mut body = Vec::new();
    body.extend((-1_i16).to_be_bytes()); // no transactional id
    body.extend(1_i16.to_be_bytes()); // acks
    body.extend(REQUEST_MS_MAX.to_be_bytes());
    put_count(&mut body, by_topic.len());
    for (topic, partitions) in by_topic {
        put_string(&mut body, topic);
        put_count(&mut body, partitions.len());
        for (partition, batch) in partitions {
            body.extend(partition.to_be_bytes());
            let built = batch.build(Compression::None);
            let bytes = built.as_ref().map(|batch| batch.bytes().as_ref()).unwrap_or_default();
            put_count(&mut body, bytes.len());
            body.extend(bytes);
        }
    }
    body
}

/// Metadata v1: brokers, controller, topics with their partitions.
fn read_metadata(reader: &mut Reader<'_>) -> Result<BTreeMap<String, i32>> {
    for _ in 0..reader.i32()? {
        reader.i32()?;
        reader.string()?;
        reader.i32()?;
        reader.string()?;
    }
    reader.i32()?;
    let mut topics = BTreeMap::new();
    for _ in 0..reader.i32()? {
        let error = reader.i16()?;
        let name = reader.string()?;
        reader.take(1)?;
        let partitions = reader.i32()?;
        for _ in 0..partitions {
            reader.i16()?;
            reader.i32()?;
            reader.i32()?;
            for _replicas_then_in_sync in 0..2 {
                for _ in 0..reader.i32()? {
                    reader.i32()?;
                }
            }
        }
        if error != 0 || partitions < 1 {
            return Err(Error::other(format!("topic {name} answers with error {error}")));
        }
        topics.insert(name, partitions);
    }
    Ok(topics)
}

/// Produce v7: an error per topic and partition.
fn read_produced(reader: &mut Reader<'_>) -> Result<()> {
    for _ in 0..reader.i32()? {
        let topic = reader.string()?;
        for _ in 0..reader.i32()? {
            let partition = reader.i32()?;
            let error = reader.i16()?;
            reader.take(24)?; // base offset, append time, log start offset
            if error != 0 {
                return Err(Error::other(format!("partition {partition} of {topic} answers with error {error}")));
            }
        }
    }
    Ok(())
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    out.extend(i32::try_from(count).unwrap_or(i32::MAX).to_be_bytes());
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend(i16::try_from(text.len()).unwrap_or(i16::MAX).to_be_bytes());
    out.extend(text.as_bytes());
}

/// What is left of an answer.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or_else(|| Error::other("an answer cut short"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn i16(&mut self) -> Result<i16> {
        Ok(self.take(2)?.iter().fold(0, |number, byte| (number << 8) | i16::from(*byte)))
    }

    fn i32(&mut self) -> Result<i32> {
        Ok(self.take(4)?.iter().fold(0, |number, byte| (number << 8) | i32::from(*byte)))
    }

    /// A null string reads as an empty one.
    fn string(&mut self) -> Result<String> {
        let length = usize::try_from(self.i16()?).unwrap_or(0);
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_cut_short_is_an_error() {
        let mut answer = Vec::new();
        put_count(&mut answer, 1);
        put_string(&mut answer, "orders");
        put_count(&mut answer, 1);
        answer.extend([0, 0, 0, 2, 0, 6]);
        assert!(read_produced(&mut Reader(&answer)).unwrap_err().to_string().contains("cut short"));
        answer.extend([0; 24]);
        let error = read_produced(&mut Reader(&answer)).unwrap_err().to_string();
        assert_eq!(error, "partition 2 of orders answers with error 6");
    }
}
