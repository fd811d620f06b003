//! How soon an acknowledged record is seen: by a SELECT, by a push query, in a continuous table.
//!
//! One record at a time: the clock starts when the client knows of the acknowledgement and stops when the answer with
//! the record is in the client's hands.

use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use tokio::time::timeout;

use crate::bench::Bench;
use crate::disk::Disk;
use crate::failure::Result;
use crate::load;
use crate::node::Node;
use crate::report::{Goal, Measurement};
use crate::sql::{Follow, Sql};
use crate::statistics::Times;

const TOPIC: &str = "freshness";

/// Longest that a record may stay unseen.
const UNSEEN_MAX: Duration = Duration::from_secs(30);

/// How long a push query that may not have begun yet is waited for before the next record is sent after it.
const WARM_UP_WAIT: Duration = Duration::from_millis(200);

/// Records that are sent until a push query shows the first.
const WARM_UPS_MAX: u32 = 100;

/// A producer that sends each record at once, and the number of the next.
struct Probes {
    producer: FutureProducer,
    next: u64,
    acknowledgements: Times,
}

/// A SELECT shows the record.
pub(super) async fn run_select(bench: &Bench, disk: &Disk) -> Result<Vec<Measurement>> {
    let (node, mut probes) = start(bench).await?;
    let sql = Sql::connect(&node.postgres).await?;
    let question = |probe| format!("SELECT probe FROM freshness WHERE probe = {probe}");
    let times = measure_by_asking(&sql, &mut probes, bench, question).await?;
    let mut measurements = percentiles("acknowledged", &probes.acknowledgements, None);
    measurements.extend(percentiles("select", &times, Some(goal(disk, 20.0))));
    Ok(measurements)
}

/// A push query on a connection of its own shows the record.
pub(super) async fn run_push(bench: &Bench, disk: &Disk) -> Result<Vec<Measurement>> {
    let (node, mut probes) = start(bench).await?;
    let sql = Sql::connect(&node.postgres).await?;
    let mut rows = sql.follow("SELECT probe FROM freshness EMIT CHANGES").await?;
    warm_up(&mut rows, &mut probes).await?;
    let mut times = Times::default();
    for _ in 0..bench.probes {
        let (probe, acknowledged) = probes.send().await?;
        timeout(UNSEEN_MAX, await_probe(&mut rows, probe))
            .await
            .map_err(|_| format!("the push query did not show probe {probe} in {UNSEEN_MAX:?}"))??;
        times.push(acknowledged.elapsed());
    }
    Ok(percentiles("push", &times, Some(goal(disk, 20.0))))
}

/// A continuous table has counted the record.
pub(super) async fn run_table(bench: &Bench, disk: &Disk) -> Result<Vec<Measurement>> {
    let (node, mut probes) = start(bench).await?;
    let sql = Sql::connect(&node.postgres).await?;
    let table = "CREATE TABLE latest AS SELECT kind, max(probe) AS probe FROM freshness GROUP BY kind EMIT CHANGES";
    sql.execute(table).await?;
    let question = |probe| format!("SELECT probe FROM latest WHERE kind = 'probe' AND probe = {probe}");
    let times = measure_by_asking(&sql, &mut probes, bench, question).await?;
    Ok(percentiles("table", &times, Some(goal(disk, 100.0))))
}

/// A node with the topic and its stream.
async fn start(bench: &Bench) -> Result<(Node, Probes)> {
    let node = bench.start_node(&[])?;
    load::create_topic(&node.kafka, TOPIC, bench.partitions).await?;
    let sql = Sql::connect(&node.postgres).await?;
    let stream = "CREATE STREAM freshness (probe BIGINT, kind STRING)";
    sql.execute(&format!("{stream} WITH (kafka_topic = '{TOPIC}', value_format = 'json')")).await?;
    let probes = Probes::new(&node)?;
    Ok((node, probes))
}

/// Two syncs of the disk and `beyond_ms`.
fn goal(disk: &Disk, beyond_ms: f64) -> Goal {
    Goal::AtMost(2.0 * disk.sync_p50_ms + beyond_ms)
}

impl Probes {
    fn new(node: &Node) -> Result<Self> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &node.kafka).set("acks", "all").set("linger.ms", "0");
        Ok(Self { producer: config.create()?, next: 1, acknowledgements: Times::default() })
    }

    /// Sends the next record; gives its number and the moment it was known to be acknowledged.
    async fn send(&mut self) -> Result<(u64, Instant)> {
        let probe = self.next;
        self.next += 1;
        let value = format!(r#"{{"probe":{probe},"kind":"probe"}}"#);
        let sent = Instant::now();
        let record = FutureRecord::<(), str>::to(TOPIC).payload(&value);
        self.producer.send(record, UNSEEN_MAX).await.map_err(|(error, _)| error)?;
        let acknowledged = Instant::now();
        self.acknowledgements.push(acknowledged - sent);
        Ok((probe, acknowledged))
    }
}

/// Asks until the answer is there.
async fn measure_by_asking(
    sql: &Sql,
    probes: &mut Probes,
    bench: &Bench,
    question: impl Fn(u64) -> String,
) -> Result<Times> {
    let mut times = Times::default();
    for _ in 0..bench.probes {
        let (probe, acknowledged) = probes.send().await?;
        let question = question(probe);
        while sql.first(&question).await?.is_none() {
            if acknowledged.elapsed() > UNSEEN_MAX {
                return Err(format!("{question}: no row after {UNSEEN_MAX:?}").into());
            }
        }
        times.push(acknowledged.elapsed());
    }
    Ok(times)
}

/// Sends records until the push query shows one: it begins with what comes after it was planned, whenever that is.
async fn warm_up(rows: &mut Follow, probes: &mut Probes) -> Result<()> {
    for _ in 0..WARM_UPS_MAX {
        let (probe, _) = probes.send().await?;
        if let Ok(shown) = timeout(WARM_UP_WAIT, await_probe(rows, probe)).await {
            return shown;
        }
    }
    Err(format!("the push query showed none of {WARM_UPS_MAX} records").into())
}

/// Reads rows until the one of this probe.
async fn await_probe(rows: &mut Follow, probe: u64) -> Result<()> {
    let probe = probe.to_string();
    loop {
        match rows.next().await? {
            Some(shown) if shown == probe => return Ok(()),
            Some(_) => {}
            None => return Err("the push query ended".into()),
        }
    }
}

fn percentiles(name: &str, times: &Times, goal: Option<Goal>) -> Vec<Measurement> {
    let p50 = Measurement::new(format!("freshness_{name}_p50"), times.percentile_ms(50), "ms");
    let p99 = Measurement::new(format!("freshness_{name}_p99"), times.percentile_ms(99), "ms");
    vec![p50, goal.into_iter().fold(p99, Measurement::with_goal)]
}
