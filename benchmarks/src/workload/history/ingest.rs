//! What the heaviest question costs whoever writes: records offered at 50 MB/s, alone and while it runs again and again.

use std::time::Duration;

use crate::bench::Bench;
use crate::failure::Result;
use crate::node::Node;
use crate::paced::{self, Offered, Pace};
use crate::report::{Goal, Measurement};
use crate::sql::Sql;

use super::queries::Query;

const BYTES_PER_SECOND: u64 = 50_000_000;
const SHARE_KEPT: f64 = 0.8;
/// Of the runs that would fit into the time without ingest, one in so many must have been there.
const RUNS_SHARE_MIN: f64 = 8.0;
const WARM_UP: Duration = Duration::from_secs(2);

pub(super) async fn run(bench: &Bench, node: &Node, query: &Query, one: Duration) -> Result<Vec<Measurement>> {
    let time = Duration::from_secs(u64::from(bench.history.history_seconds));
    let pace = Pace { partitions: bench.partitions, bytes_per_second: BYTES_PER_SECOND, time, linger_ms: 5 };
    paced::offer(&node.kafka, "offered-warm-up", Pace { time: WARM_UP, ..pace }).await?;
    let alone = paced::offer(&node.kafka, "offered-alone", pace).await?;
    let (beside, runs) = offer_while_asked(node, query, pace).await?;
    // Half the processor's time may be ingest's; a query that hardly ran would prove nothing.
    let expected = time.as_secs_f64() / one.as_secs_f64().max(1e-3);
    if (runs as f64) < (expected / RUNS_SHARE_MIN).floor() {
        return Err(format!("{} ran {runs} times only while records were offered", query.name).into());
    }
    let p99 = |offered: &Offered| offered.latencies.percentile_ms(99);
    Ok(vec![
        Measurement::new("history_ingest_alone", alone.mb_per_second, "MB/s"),
        Measurement::new("history_ingest_asked", beside.mb_per_second, "MB/s")
            .with_detail("query", query.name.as_str())
            .with_detail("runs", runs)
            .with_detail("p99_ms", p99(&beside))
            .with_detail("p99_alone_ms", p99(&alone)),
        Measurement::new("history_ingest_asked_to_alone", beside.mb_per_second / alone.mb_per_second, "x")
            .with_goal(Goal::AtLeast(SHARE_KEPT)),
    ])
}

/// Offers records while the query runs without a pause; says how often it was answered.
async fn offer_while_asked(node: &Node, query: &Query, pace: Pace) -> Result<(Offered, u64)> {
    let sql = Sql::connect(&node.postgres).await?;
    let mut offering = Box::pin(paced::offer(&node.kafka, "offered-asked", pace));
    let mut runs = 0;
    loop {
        tokio::select! {
            biased;
            offered = &mut offering => return Ok((offered?, runs)),
            rows = sql.rows(&query.aquifer) => {
                rows?;
                runs += 1;
            }
        }
    }
}
