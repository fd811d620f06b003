//! Rows looked up by key in a large table, by prepared statements on many connections at once.

use std::time::{Duration, Instant};

use crate::bench::Bench;
use crate::failure::Result;
use crate::report::{Goal, Measurement};
use crate::sql::{Sql, told};
use crate::statistics::Times;

use super::{COLD_NODE, PROCESSORS, events, load, per_second};

const LOOK_UP: &str = "SELECT name, balance FROM accounts WHERE id = $1";
const CONNECTIONS: u64 = 16;
const P50_MS: f64 = 2.0;

pub(crate) async fn run(bench: &Bench) -> Result<Vec<Measurement>> {
    let accounts = bench.history.table_rows;
    let node = bench.start_node_on(PROCESSORS, &COLD_NODE)?;
    let sql = Sql::connect(&node.postgres).await?;
    load::fill_accounts(&node, &sql, bench.partitions, accounts).await?;
    load::make_cold(&sql).await?;
    let time = Duration::from_secs(u64::from(bench.history.history_seconds));
    let begun = Instant::now();
    let mut connections = Vec::new();
    for connection in 0..CONNECTIONS {
        let sql = Sql::connect(&node.postgres).await?;
        connections.push(tokio::spawn(async move { look_up(&sql, connection, accounts, time).await }));
    }
    let mut times = Times::default();
    for connection in connections {
        times.extend(connection.await??);
    }
    let count = times.len() as u64;
    Ok(vec![
        Measurement::new("history_look_up_p50", times.percentile_ms(50), "ms")
            .with_goal(Goal::AtMost(P50_MS))
            .with_detail("look_ups", count),
        Measurement::new("history_look_up_p99", times.percentile_ms(99), "ms"),
        Measurement::new("history_look_ups", per_second(count, begun.elapsed()), "1/s"),
        Measurement::new("history_look_up_resident", node.resident_bytes()? as f64 / f64::from(1 << 20), "MiB"),
    ])
}

/// Looks up one after the other until the time is over, and checks each row.
async fn look_up(sql: &Sql, connection: u64, accounts: u64, time: Duration) -> Result<Times> {
    let statement = sql.client().prepare(LOOK_UP).await.map_err(|error| told(LOOK_UP, &error))?;
    let mut times = Times::default();
    let begun = Instant::now();
    let mut turn = 0;
    while begun.elapsed() < time {
        let number = events::mix((connection << 32) ^ turn) % accounts;
        let id = events::account_id(number);
        let asked = Instant::now();
        let row = sql.client().query_opt(&statement, &[&id]).await.map_err(|error| told(LOOK_UP, &error))?;
        // The first one warms.
        if turn > 0 {
            times.push(asked.elapsed());
        }
        let row = row.ok_or_else(|| format!("account {id} is not found"))?;
        let (name, balance): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
        if name != format!("name of {number}") || balance != events::account_balance(number) {
            return Err(format!("account {id} is ({name}, {balance}), which is not what was written").into());
        }
        turn += 1;
    }
    Ok(times)
}
