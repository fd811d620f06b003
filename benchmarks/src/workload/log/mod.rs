//! The log suite: what people compare us with Kafka for, with Kafka in the same run on the same disk.
//!
//! Every number of ours stands beside the peers'; the goals are ratios, since the machine decides the numbers.
//! Rounds alternate between the contenders, so that a slow minute of the machine meets all of them.

use std::time::Duration;

use crate::bench::{Bench, HOT_SETTINGS};
use crate::failure::Result;
use crate::node::Node;
use crate::peer::kafka::{self, Durability, Kafka};
use crate::report::Measurement;

pub(crate) mod consume;
pub(crate) mod latency;
pub(crate) mod others;
pub(crate) mod partitions;
pub(crate) mod produce;
pub(crate) mod start;
pub(crate) mod tiering;

/// Times that each contender is measured; the median counts.
const ROUNDS: usize = 3;

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contender {
    Aquifer,
    Kafka(Durability),
}

/// A contender that runs.
enum Running {
    Aquifer(Box<Node>),
    Kafka(Box<Kafka>),
}

impl Contender {
    const ALL: [Self; 3] = [Self::Aquifer, Self::Kafka(Durability::Equal), Self::Kafka(Durability::AsItComes)];

    fn name(self) -> &'static str {
        match self {
            Self::Aquifer => "aquifer",
            Self::Kafka(Durability::Equal) => "kafka_flush_messages_1",
            Self::Kafka(Durability::AsItComes) => "kafka",
        }
    }

    /// Starts it; nothing if it is not installed.
    fn start(self, bench: &Bench) -> Result<Option<Running>> {
        match self {
            Self::Aquifer => Ok(Some(Running::Aquifer(Box::new(bench.start_node(&HOT_SETTINGS)?)))),
            Self::Kafka(durability) => {
                let Some(jars) = kafka::jars() else { return Ok(None) };
                let started = Kafka::start(&jars, bench.fresh_directory("kafka-")?, durability)?;
                Ok(Some(Running::Kafka(Box::new(started))))
            }
        }
    }
}

impl Running {
    fn address(&self) -> &str {
        match self {
            Self::Aquifer(node) => &node.kafka,
            Self::Kafka(kafka) => &kafka.address,
        }
    }

    fn resident_bytes(&self) -> Result<u64> {
        match self {
            Self::Aquifer(node) => node.resident_bytes(),
            Self::Kafka(kafka) => kafka.process.resident_bytes(),
        }
    }

    fn cpu_time(&self) -> Result<Duration> {
        match self {
            Self::Aquifer(node) => node.cpu_time(),
            Self::Kafka(kafka) => kafka.process.cpu_time(),
        }
    }
}

/// CPU seconds per GB, of the server and of the client that shares the machine with it.
#[derive(Debug, Default)]
struct CpuCosts {
    server: Compared,
    client: Compared,
}

/// CPU time used so far.
#[derive(Clone, Copy)]
struct CpuTimes {
    server: Duration,
    client: Duration,
}

impl CpuTimes {
    fn now(running: &Running) -> Result<Self> {
        Ok(Self { server: running.cpu_time()?, client: crate::machine::cpu_time(std::process::id())? })
    }
}

impl CpuCosts {
    /// What `bytes` have cost since `before`.
    fn add(&mut self, contender: Contender, running: &Running, before: CpuTimes, bytes: u64) -> Result<()> {
        let now = CpuTimes::now(running)?;
        let gb = bytes as f64 / 1e9;
        self.server.add(contender, (now.server - before.server).as_secs_f64() / gb);
        self.client.add(contender, (now.client - before.client).as_secs_f64() / gb);
        Ok(())
    }

    fn numbers(&self, name: &str) -> Vec<Measurement> {
        let mut numbers = self.server.numbers(&format!("{name}_cpu"), "s/GB");
        numbers.extend(self.client.numbers(&format!("{name}_client_cpu"), "s/GB"));
        numbers
    }
}

/// Values of one kind, per contender; those that are not installed have none.
#[derive(Debug, Default)]
struct Compared(Vec<(Contender, Vec<f64>)>);

impl Compared {
    fn add(&mut self, contender: Contender, value: f64) {
        match self.0.iter_mut().find(|(known, _)| *known == contender) {
            Some((_, values)) => values.push(value),
            None => self.0.push((contender, vec![value])),
        }
    }

    fn median(&self, contender: Contender) -> Option<f64> {
        let (_, values) = self.0.iter().find(|(known, _)| *known == contender)?;
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied()
    }

    /// A number per contender.
    fn numbers(&self, name: &str, unit: &'static str) -> Vec<Measurement> {
        let number = |(contender, values): &(Contender, Vec<f64>)| {
            let median = self.median(*contender)?;
            let measurement = Measurement::new(format!("{name}_{}", contender.name()), median, unit);
            Some(measurement.with_detail("rounds", values.clone()))
        };
        self.0.iter().filter_map(number).collect()
    }

    /// Ours over a peer's, if the peer was there.
    fn ratio_to(&self, peer: Contender) -> Option<f64> {
        Some(self.median(Contender::Aquifer)? / self.median(peer)?)
    }
}
