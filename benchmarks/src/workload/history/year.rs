//! A year of page views in objects: every question of the set beside DuckDB, the first row, and ingest meanwhile.

use crate::bench::Bench;
use crate::failure::Result;
use crate::peer::duckdb::{self, DuckDb};
use crate::report::{Goal, Measured, Measurement, say};
use crate::sql::Sql;
use crate::statistics::geometric_mean;

use super::queries::{self, Class, Query};
use super::rounds::{self, Timed};
use super::{COLD_NODE, PROCESSORS, failed, ingest, load, ms};

const TYPED_TO_DUCKDB: f64 = 1.2;
const RAW_TO_DUCKDB: f64 = 1.5;
const FIRST_ROW_MS: f64 = 50.0;

pub(crate) async fn run(bench: &Bench) -> Result<Measured> {
    let queries = queries::read(&bench.history.queries)?;
    let node = bench.start_node_on(PROCESSORS, &COLD_NODE)?;
    let sql = Sql::connect(&node.postgres).await?;
    let written = load::fill_year(&node, &sql, bench.partitions, bench.history.history_rows).await?;
    let cold_time = load::make_cold(&sql).await?;
    let objects = sql.number("SELECT count(DISTINCT url) FROM aquifer.objects WHERE topic = 'page_views'").await?;
    let bytes = sql.number("SELECT cold_bytes FROM aquifer.topics WHERE name = 'page_views'").await?;
    let mut measured = Measured::from(vec![
        Measurement::new("history_load", written.mb_per_second(), "MB/s")
            .with_detail("records_per_second", written.records_per_second()),
        Measurement::new("history_made_cold", cold_time.as_secs_f64(), "s")
            .with_detail("objects", objects)
            .with_detail("object_bytes", bytes),
    ]);
    let mut duckdb = match start_duckdb(&sql).await {
        Ok((mut duckdb, views)) => {
            say(&format!("beside DuckDB {} over {views} objects", duckdb.version()?));
            Some(duckdb)
        }
        Err(failure) => {
            measured.failures.push(("history-duckdb".to_owned(), failure.to_string()));
            None
        }
    };
    let mut asked = Vec::new();
    for query in &queries {
        let result = match query.class {
            Class::FirstRow => first_row(query, &sql, &mut measured).await,
            Class::Typed | Class::Raw => rounds::ask(query, &sql, duckdb.as_mut()).await.map(|timed| {
                measured.measurements.push(number(query, &timed));
                asked.push((query, timed));
            }),
        };
        measured.failures.extend(result.err().map(|failure| failed(query, &failure)));
    }
    measured.measurements.extend(ratios(&asked));
    // What it keeps in memory is not ingest's to bear.
    drop(duckdb);
    let heaviest = asked.iter().max_by_key(|(_, timed)| timed.ours.median());
    if let Some((query, timed)) = heaviest {
        match ingest::run(bench, &node, query, timed.ours.median()).await {
            Ok(measurements) => measured.measurements.extend(measurements),
            Err(failure) => measured.failures.push(("history-ingest".to_owned(), failure.to_string())),
        }
    }
    measured.measurements.push(Measurement::new(
        "history_resident",
        node.resident_bytes()? as f64 / f64::from(1 << 20),
        "MiB",
    ));
    Ok(measured)
}

/// DuckDB with the same Parquet files, and how many there are.
async fn start_duckdb(sql: &Sql) -> Result<(DuckDb, usize)> {
    let python = duckdb::python().ok_or("DuckDB is not installed; run benchmarks/peers/install")?;
    let mut duckdb = DuckDb::start(&python, PROCESSORS)?;
    let mut count = 0;
    for topic in ["page_views", "pages"] {
        let named = sql.rows(&format!("SELECT DISTINCT url FROM aquifer.objects WHERE topic = '{topic}'")).await?;
        let urls: Vec<String> = named.into_iter().flatten().flatten().collect();
        count += urls.len();
        tokio::task::block_in_place(|| duckdb.create_view(topic, &urls))?;
    }
    Ok((duckdb, count))
}

async fn first_row(query: &Query, sql: &Sql, measured: &mut Measured) -> Result<()> {
    let times = rounds::ask_first_row(query, sql).await?;
    let measurement = Measurement::new(format!("history_{}", query.name), ms(times.median()), "ms");
    let measurement = measurement.with_goal(Goal::AtMost(FIRST_ROW_MS)).with_detail("seconds", times.seconds());
    measured.measurements.push(measurement);
    Ok(())
}

fn number(query: &Query, timed: &Timed) -> Measurement {
    let measurement = Measurement::new(format!("history_{}", query.name), ms(timed.ours.median()), "ms")
        .with_detail("seconds", timed.ours.seconds());
    match timed.ratio() {
        Some(ratio) => measurement
            .with_detail("duckdb_ms", ms(timed.theirs.median()))
            .with_detail("duckdb_seconds", timed.theirs.seconds())
            .with_detail("to_duckdb", ratio),
        None => measurement,
    }
}

/// Ours over DuckDB's, per class.
fn ratios(asked: &[(&Query, Timed)]) -> Vec<Measurement> {
    let classes = [(Class::Typed, "typed", TYPED_TO_DUCKDB), (Class::Raw, "raw", RAW_TO_DUCKDB)];
    let mean = |(class, name, most): (Class, &str, f64)| {
        let of_class = asked.iter().filter(|(query, _)| query.class == class);
        let ratios: Vec<f64> = of_class.filter_map(|(_, timed)| timed.ratio()).collect();
        let measurement = Measurement::new(format!("history_{name}_to_duckdb"), geometric_mean(&ratios)?, "x");
        Some(measurement.with_goal(Goal::AtMost(most)).with_detail("queries", ratios.len()))
    };
    classes.into_iter().filter_map(mean).collect()
}
