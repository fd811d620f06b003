//! How fast SQL writes: COPY, INSERT of many rows, and single prepared INSERTs on many connections.

use std::fmt::Write;
use std::io::Cursor;
use std::time::{Duration, Instant};

use futures::SinkExt;

use crate::bench::Bench;
use crate::disk::Disk;
use crate::failure::Result;
use crate::report::{Goal, Measurement};
use crate::sql::{Sql, told};

use super::{COLD_NODE, PROCESSORS, load, per_second};

const COPY: &str = "COPY written (id, name, amount, at) FROM STDIN";
const COPY_CHUNK_BYTES: usize = 64 << 10;
const COPY_ROWS_PER_SECOND: f64 = 200_000.0;

/// An INSERT of many rows writes this share of what COPY does.
const INSERT_SHARE: u64 = 5;
const ROWS_PER_INSERT: u64 = 1_000;
const INSERT_ROWS_PER_SECOND: f64 = 50_000.0;

const SINGLE: &str = "INSERT INTO single (id, name) VALUES ($1, $2)";
const COMMITS_PER_SECOND_AT_64: f64 = 8_000.0;
/// Of what 16 connections could do if every commit took one sync of the disk and nothing else.
const SHARE_OF_SYNCS_AT_16: f64 = 0.6;

async fn make_written(sql: &Sql, bench: &Bench) -> Result<()> {
    let columns = "id BIGINT, name STRING, amount DOUBLE, at TIMESTAMP";
    sql.execute(&format!("CREATE STREAM written ({columns}) WITH (partitions = {})", bench.partitions)).await
}

/// All rows there, and what they add up to.
async fn check_written(sql: &Sql, rows: u64) -> Result<()> {
    load::expect(sql, "SELECT count(*) FROM written", rows).await?;
    load::expect(sql, "SELECT sum(id) FROM written", rows * (rows - 1) / 2).await
}

pub(crate) async fn run_copy(bench: &Bench) -> Result<Vec<Measurement>> {
    let rows = bench.history.write_rows;
    let node = bench.start_node_on(PROCESSORS, &COLD_NODE)?;
    let sql = Sql::connect(&node.postgres).await?;
    make_written(&sql, bench).await?;
    let begun = Instant::now();
    let sink = sql.client().copy_in::<str, Cursor<Vec<u8>>>(COPY).await.map_err(|error| told(COPY, &error))?;
    let mut sink = Box::pin(sink);
    let mut chunk = String::new();
    for id in 0..rows {
        // Writing into a String cannot fail.
        let _ = writeln!(chunk, "{id}\tname of {id}\t{}.25\t2024-01-01 00:00:{:02}", id % 1000, id % 60);
        if chunk.len() >= COPY_CHUNK_BYTES || id + 1 == rows {
            sink.send(Cursor::new(std::mem::take(&mut chunk).into_bytes()))
                .await
                .map_err(|error| told(COPY, &error))?;
        }
    }
    let copied = sink.as_mut().finish().await.map_err(|error| told(COPY, &error))?;
    let time = begun.elapsed();
    if copied != rows {
        return Err(format!("{COPY}: told of {copied} rows where {rows} were sent").into());
    }
    check_written(&sql, rows).await?;
    let speed = Measurement::new("history_copy", per_second(rows, time), "rows/s");
    Ok(vec![speed.with_goal(Goal::AtLeast(COPY_ROWS_PER_SECOND)).with_detail("rows", rows)])
}

pub(crate) async fn run_insert(bench: &Bench) -> Result<Vec<Measurement>> {
    let rows = (bench.history.write_rows / INSERT_SHARE).next_multiple_of(ROWS_PER_INSERT);
    let node = bench.start_node_on(PROCESSORS, &COLD_NODE)?;
    let sql = Sql::connect(&node.postgres).await?;
    make_written(&sql, bench).await?;
    let begun = Instant::now();
    for first in (0..rows).step_by(ROWS_PER_INSERT as usize) {
        let mut insert = "INSERT INTO written VALUES ".to_owned();
        for id in first..first + ROWS_PER_INSERT {
            let comma = if id == first { "" } else { ", " };
            let _ = write!(insert, "{comma}({id}, 'name of {id}', {}.25, '2024-01-01 00:00:00')", id % 1000);
        }
        sql.execute(&insert).await?;
    }
    let time = begun.elapsed();
    check_written(&sql, rows).await?;
    let speed = Measurement::new("history_insert", per_second(rows, time), "rows/s");
    Ok(vec![
        speed
            .with_goal(Goal::AtLeast(INSERT_ROWS_PER_SECOND))
            .with_detail("rows", rows)
            .with_detail("rows_per_insert", ROWS_PER_INSERT),
    ])
}

pub(crate) async fn run_commits(bench: &Bench, disk: &Disk) -> Result<Vec<Measurement>> {
    let node = bench.start_node_on(PROCESSORS, &COLD_NODE)?;
    let sql = Sql::connect(&node.postgres).await?;
    sql.execute(&format!("CREATE STREAM single (id BIGINT, name STRING) WITH (partitions = {})", bench.partitions))
        .await?;
    let time = Duration::from_secs(u64::from(bench.history.history_seconds));
    let syncs_at_16 = SHARE_OF_SYNCS_AT_16 * 16.0 / (disk.sync_p50_ms / 1000.0).max(1e-9);
    let mut measurements = Vec::new();
    let mut written = 0;
    for (connections, goal) in [(64, COMMITS_PER_SECOND_AT_64), (16, syncs_at_16)] {
        let begun = Instant::now();
        let commits = commit_from(&node.postgres, connections, time).await?;
        let speed = per_second(commits, begun.elapsed());
        written += commits;
        load::expect(&sql, "SELECT count(*) FROM single", written).await?;
        let measurement = Measurement::new(format!("history_commits_{connections}"), speed, "1/s");
        measurements.push(measurement.with_goal(Goal::AtLeast(goal)).with_detail("disk_sync_p50_ms", disk.sync_p50_ms));
    }
    Ok(measurements)
}

/// Single INSERTs from so many connections until the time is over; how many were acknowledged.
async fn commit_from(postgres: &str, connections: u32, time: Duration) -> Result<u64> {
    let mut ready = Vec::new();
    for _ in 0..connections {
        let sql = Sql::connect(postgres).await?;
        let statement = sql.client().prepare(SINGLE).await.map_err(|error| told(SINGLE, &error))?;
        ready.push((sql, statement));
    }
    let begun = Instant::now();
    let mut running = Vec::new();
    for (sql, statement) in ready {
        running.push(tokio::spawn(async move {
            let mut commits = 0_u64;
            while begun.elapsed() < time {
                let id = commits as i64;
                let inserted = sql.client().execute(&statement, &[&id, &"a single row"]).await;
                inserted.map_err(|error| told(SINGLE, &error))?;
                commits += 1;
            }
            Ok::<u64, String>(commits)
        }));
    }
    let mut commits = 0;
    for connection in running {
        commits += connection.await??;
    }
    Ok(commits)
}
