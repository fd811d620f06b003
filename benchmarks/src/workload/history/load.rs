//! The suite's topics filled through Kafka's wire, and made cold.

use std::time::{Duration, Instant};

use rdkafka::producer::{BaseProducer, BaseRecord};

use crate::failure::Result;
use crate::load::{Counting, LINGER_MS, SENDS_PER_POLL, producer_config, send};
use crate::node::Node;
use crate::sql::Sql;
use crate::statistics::mb_per_second;

use super::events::{self, Line};

/// The stream of page views, as people would declare it. What the client was stays undeclared.
const VIEWS: &str = "CREATE STREAM page_views (user_id STRING KEY, viewed_at TIMESTAMP, page STRING, country STRING, \
                     latency_ms INT, bytes BIGINT, score DOUBLE)";
const PAGES: &str = "CREATE TABLE pages (page STRING PRIMARY KEY, title STRING, section STRING)";
const ACCOUNTS: &str = "CREATE TABLE accounts (id STRING PRIMARY KEY, name STRING, balance BIGINT, note STRING)";

/// What was written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    records: u64,
    bytes: u64,
    time: Duration,
}

impl Written {
    pub(super) fn mb_per_second(&self) -> f64 {
        mb_per_second(self.bytes, self.time)
    }

    pub(super) fn records_per_second(&self) -> f64 {
        super::per_second(self.records, self.time)
    }
}

/// The views of a year, and the pages.
pub(super) async fn fill_year(node: &Node, sql: &Sql, partitions: i32, views: u64) -> Result<Written> {
    let with = format!("value_format = 'json', partitions = {partitions}");
    sql.execute(&format!("{VIEWS} WITH (kafka_topic = 'page_views', timestamp = 'viewed_at', {with})")).await?;
    sql.execute(&format!("{PAGES} WITH (kafka_topic = 'pages', {with})")).await?;
    fill(node, "pages", events::PAGES, events::page).await?;
    let written = fill(node, "page_views", views, move |number, line| events::view(views, number, line)).await?;
    expect(sql, "SELECT count(*) FROM page_views", views).await?;
    expect(sql, "SELECT count(*) FROM aquifer.decode_errors", 0).await?;
    Ok(written)
}

/// The table of accounts.
pub(super) async fn fill_accounts(node: &Node, sql: &Sql, partitions: i32, accounts: u64) -> Result<Written> {
    let with = format!("kafka_topic = 'accounts', value_format = 'json', partitions = {partitions}");
    sql.execute(&format!("{ACCOUNTS} WITH ({with})")).await?;
    fill(node, "accounts", accounts, events::account).await
}

/// Puts everything into objects, and few of them; says how long it took.
pub(super) async fn make_cold(sql: &Sql) -> Result<Duration> {
    let begun = Instant::now();
    sql.execute("CHECKPOINT").await?;
    sql.execute("VACUUM").await?;
    let time = begun.elapsed();
    let hot = "SELECT coalesce(sum(high_watermark - tiered_end_offset), 0) FROM aquifer.partitions \
               WHERE NOT starts_with(topic, '__')";
    expect(sql, hot, 0).await?;
    Ok(time)
}

/// A number that must be right before anything is measured.
pub(super) async fn expect(sql: &Sql, query: &str, right: u64) -> Result<()> {
    let found = sql.number(query).await?;
    if found == right { Ok(()) } else { Err(format!("{query}: {found} where {right} is right").into()) }
}

async fn fill(
    node: &Node,
    topic: &'static str,
    records: u64,
    make: impl Fn(u64, &mut Line) + Send + 'static,
) -> Result<Written> {
    let kafka = node.kafka.clone();
    // librdkafka's calls block.
    tokio::task::spawn_blocking(move || produce(&kafka, topic, records, make)).await?
}

fn produce(kafka: &str, topic: &str, records: u64, make: impl Fn(u64, &mut Line)) -> Result<Written> {
    let deliveries = Counting::default();
    let producer: BaseProducer<Counting> = producer_config(kafka, LINGER_MS).create_with_context(deliveries.clone())?;
    let (mut line, mut bytes) = (Line::default(), 0);
    let begun = Instant::now();
    for number in 0..records {
        make(number, &mut line);
        bytes += (line.key.len() + line.value.len()) as u64;
        let record = BaseRecord::to(topic).key(&line.key).payload(&line.value).timestamp(line.timestamp_ms);
        send(&producer, record)?;
        if number % SENDS_PER_POLL == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    deliveries.finish(&producer, records)?;
    Ok(Written { records, bytes, time: begun.elapsed() })
}
