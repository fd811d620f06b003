//! RabbitMQ: persistent messages into a quorum queue with publisher confirms, many in flight, over AMQP 0-9-1.
//!
//! As much of the protocol as a publisher needs (<https://www.rabbitmq.com/amqp-0-9-1-reference.html>), no more.

use std::io::{BufReader, BufWriter, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::bench::RECORD_BYTES;
use crate::failure::Result;
use crate::peer::{Process, free_port};

/// The server without the script that changes the user.
const PROGRAM: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
/// Messages sent before their confirms are read.
const IN_FLIGHT: u64 = 1000;

const FRAME_METHOD: u8 = 1;
const FRAME_HEADER: u8 = 2;
const FRAME_BODY: u8 = 3;
const FRAME_END: u8 = 0xce;

/// Class and method.
type Method = (u16, u16);
const CONNECTION_START_OK: Method = (10, 11);
const CONNECTION_TUNE: Method = (10, 30);
const CONNECTION_TUNE_OK: Method = (10, 31);
const CONNECTION_OPEN: Method = (10, 40);
const CONNECTION_OPEN_OK: Method = (10, 41);
const CHANNEL_OPEN: Method = (20, 10);
const CHANNEL_OPEN_OK: Method = (20, 11);
const QUEUE_DECLARE: Method = (50, 10);
const QUEUE_DECLARE_OK: Method = (50, 11);
const BASIC_PUBLISH: Method = (60, 40);
const BASIC_ACK: Method = (60, 80);
const CONFIRM_SELECT: Method = (85, 10);
const CONFIRM_SELECT_OK: Method = (85, 11);

/// Publishes `records`; gives the time, or nothing where RabbitMQ is not installed.
pub(crate) fn produce(directory: TempDir, records: u64) -> Result<Option<Duration>> {
    if !Path::new(PROGRAM).is_file() {
        return Ok(None);
    }
    let (port, distribution) = (free_port()?, free_port()?);
    let mut command = Command::new(PROGRAM);
    let home = directory.path();
    command.env("RABBITMQ_NODENAME", format!("bench{port}@localhost")).env("RABBITMQ_NODE_PORT", port.to_string());
    command.env("RABBITMQ_DIST_PORT", distribution.to_string()).env("HOME", home);
    command.env("RABBITMQ_MNESIA_BASE", home.join("data")).env("RABBITMQ_LOG_BASE", home.join("log"));
    command.env("RABBITMQ_ENABLED_PLUGINS_FILE", home.join("plugins")).env("RABBITMQ_CONFIG_FILE", home.join("none"));
    let _process = Process::start(command, directory, port)?;
    let mut publisher = Publisher::connect(port)?;
    let value = vec![b'x'; RECORD_BYTES as usize];
    let begun = Instant::now();
    let (mut sent, mut confirmed) = (0, 0);
    while sent < records {
        for _ in 0..IN_FLIGHT.min(records - sent) {
            publisher.publish(&value)?;
            sent += 1;
        }
        publisher.requests.flush()?;
        while confirmed < sent {
            confirmed = publisher.confirmed(confirmed)?;
        }
    }
    Ok(Some(begun.elapsed()))
}

struct Publisher {
    requests: BufWriter<TcpStream>,
    answers: BufReader<TcpStream>,
}

impl Publisher {
    fn connect(port: u16) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        let answers = BufReader::with_capacity(1 << 16, stream.try_clone()?);
        let mut publisher = Self { requests: BufWriter::with_capacity(1 << 20, stream), answers };
        publisher.requests.write_all(b"AMQP\x00\x00\x09\x01")?;
        publisher.requests.flush()?;
        publisher.read_method()?;
        let mut start = vec![0, 0, 0, 0];
        short(&mut start, b"PLAIN");
        long(&mut start, b"\0guest\0guest");
        short(&mut start, b"en_US");
        let tune = publisher.call(0, CONNECTION_START_OK, &start, CONNECTION_TUNE)?;
        // As the server likes it, without heartbeats.
        let mut tune_ok = tune.get(..6).ok_or("RabbitMQ's tune is too short")?.to_vec();
        tune_ok.extend_from_slice(&[0, 0]);
        publisher.method(0, CONNECTION_TUNE_OK, &tune_ok)?;
        publisher.call(0, CONNECTION_OPEN, b"\x01/\x00\x00", CONNECTION_OPEN_OK)?;
        publisher.call(1, CHANNEL_OPEN, b"\x00", CHANNEL_OPEN_OK)?;
        let mut declare = vec![0, 0];
        short(&mut declare, b"bench");
        declare.push(0b10);
        let mut table = Vec::new();
        short(&mut table, b"x-queue-type");
        table.push(b'S');
        long(&mut table, b"quorum");
        long(&mut declare, &table);
        publisher.call(1, QUEUE_DECLARE, &declare, QUEUE_DECLARE_OK)?;
        publisher.call(1, CONFIRM_SELECT, b"\x00", CONFIRM_SELECT_OK)?;
        Ok(publisher)
    }

    fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) -> Result<()> {
        self.requests.write_all(&[kind])?;
        self.requests.write_all(&channel.to_be_bytes())?;
        self.requests.write_all(&u32::try_from(payload.len())?.to_be_bytes())?;
        self.requests.write_all(payload)?;
        Ok(self.requests.write_all(&[FRAME_END])?)
    }

    fn method(&mut self, channel: u16, (class, method): Method, arguments: &[u8]) -> Result<()> {
        let payload = [&class.to_be_bytes(), &method.to_be_bytes(), arguments].concat();
        self.frame(FRAME_METHOD, channel, &payload)
    }

    /// Sends a method and gives the arguments of the answer, which must be `expected`.
    fn call(&mut self, channel: u16, method: Method, arguments: &[u8], expected: Method) -> Result<Vec<u8>> {
        self.method(channel, method, arguments)?;
        self.requests.flush()?;
        let (answered, arguments) = self.read_method()?;
        if answered == expected {
            return Ok(arguments);
        }
        Err(format!("RabbitMQ answered {method:?} with {answered:?}: {}", String::from_utf8_lossy(&arguments)).into())
    }

    fn read_method(&mut self) -> Result<(Method, Vec<u8>)> {
        loop {
            let mut head = [0; 7];
            self.answers.read_exact(&mut head)?;
            let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
            let mut payload = vec![0; length as usize + 1];
            self.answers.read_exact(&mut payload)?;
            payload.pop();
            if head[0] == FRAME_METHOD && payload.len() >= 4 {
                let number = |at: usize| u16::from_be_bytes([payload[at], payload[at + 1]]);
                return Ok(((number(0), number(2)), payload[4..].to_vec()));
            }
        }
    }

    fn publish(&mut self, value: &[u8]) -> Result<()> {
        self.method(1, BASIC_PUBLISH, b"\x00\x00\x00\x05bench\x00")?;
        let mut header = vec![0, 60, 0, 0];
        header.extend_from_slice(&(value.len() as u64).to_be_bytes());
        // One property: delivery mode 2, persistent.
        header.extend_from_slice(&[0x10, 0, 2]);
        self.frame(FRAME_HEADER, 1, &header)?;
        self.frame(FRAME_BODY, 1, value)
    }

    /// Messages confirmed after the next confirm.
    fn confirmed(&mut self, before: u64) -> Result<u64> {
        let (method, arguments) = self.read_method()?;
        let tag = arguments.first_chunk::<8>().map(|tag| u64::from_be_bytes(*tag));
        match (method, tag, arguments.get(8)) {
            // `multiple` confirms all up to the tag; else confirms of a quorum queue may come in any order.
            (BASIC_ACK, Some(tag), Some(1)) => Ok(before.max(tag)),
            (BASIC_ACK, Some(_), Some(_)) => Ok(before + 1),
            _ => Err(format!("RabbitMQ answered a publish with {method:?}").into()),
        }
    }
}

fn short(out: &mut Vec<u8>, text: &[u8]) {
    out.push(text.len() as u8);
    out.extend_from_slice(text);
}

fn long(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}
