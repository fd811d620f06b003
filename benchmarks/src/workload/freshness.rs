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

pub(super) async fn run(bench: &Bench, disk: &Disk) -> Result<Vec<Measurement>> {
    let node = bench.start_node(&[])?;
    load::create_topic(&node.kafka, TOPIC, bench.partitions).await?;
    let sql = Sql::connect(&node.postgres).await?;
    sql.execute(&format!(
        "CREATE STREAM freshness (probe BIGINT, kind STRING) WITH (kafka_topic = '{TOPIC}', value_format = 'json')"
    ))
    .await?;
    let table = "CREATE TABLE freshness_latest AS SELECT kind, max(probe) AS latest FROM freshness GROUP BY kind";
    sql.execute(&format!("{table} EMIT CHANGES")).await?;

    let mut probes = Probes::new(&node)?;
    let select = measure_by_asking(&sql, &mut probes, bench, "select", |probe| {
        format!("SELECT probe FROM freshness WHERE probe = {probe}")
    })
    .await?;
    let push = measure_push(&node, &mut probes, bench).await?;
    let table = measure_by_asking(&sql, &mut probes, bench, "table", |probe| {
        format!("SELECT latest FROM freshness_latest WHERE kind = 'table' AND latest = {probe}")
    })
    .await?;

    let mut measurements = percentiles("acknowledged", &probes.acknowledgements, None);
    let syncs_ms = 2.0 * disk.sync_p50_ms;
    for (name, times, beyond_syncs_ms) in [("select", select, 20.0), ("push", push, 20.0), ("table", table, 100.0)] {
        measurements.extend(percentiles(name, &times, Some(Goal::AtMost(syncs_ms + beyond_syncs_ms))));
    }
    Ok(measurements)
}

impl Probes {
    fn new(node: &Node) -> Result<Self> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &node.kafka).set("acks", "all").set("linger.ms", "0");
        Ok(Self { producer: config.create()?, next: 1, acknowledgements: Times::default() })
    }

    /// Sends the next record; gives its number and the moment it was known to be acknowledged.
    async fn send(&mut self, kind: &str) -> Result<(u64, Instant)> {
        let probe = self.next;
        self.next += 1;
        let value = format!(r#"{{"probe":{probe},"kind":"{kind}"}}"#);
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
    kind: &str,
    question: impl Fn(u64) -> String,
) -> Result<Times> {
    let mut times = Times::default();
    for _ in 0..bench.probes {
        let (probe, acknowledged) = probes.send(kind).await?;
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

/// Follows a push query on a connection of its own.
async fn measure_push(node: &Node, probes: &mut Probes, bench: &Bench) -> Result<Times> {
    let sql = Sql::connect(&node.postgres).await?;
    let mut rows = sql.follow("SELECT probe FROM freshness EMIT CHANGES").await?;
    warm_up(&mut rows, probes).await?;
    let mut times = Times::default();
    for _ in 0..bench.probes {
        let (probe, acknowledged) = probes.send("push").await?;
        timeout(UNSEEN_MAX, await_probe(&mut rows, probe))
            .await
            .map_err(|_| format!("the push query did not show probe {probe} in {UNSEEN_MAX:?}"))??;
        times.push(acknowledged.elapsed());
    }
    Ok(times)
}

/// Sends records until the push query shows one: it begins with what comes after it was planned, whenever that is.
async fn warm_up(rows: &mut Follow, probes: &mut Probes) -> Result<()> {
    for _ in 0..WARM_UPS_MAX {
        let (probe, _) = probes.send("warm-up").await?;
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
