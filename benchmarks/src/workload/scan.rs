//! SELECTs over a whole topic, from the log and from the object store: one that needs no record's content, one that
//! looks at every key and value.

use std::time::Instant;

use crate::bench::{Bench, HOT_SETTINGS};
use crate::failure::Result;
use crate::load::{self, Loaded, TOPIC};
use crate::report::Measurement;
use crate::sql::Sql;
use crate::statistics::{Times, mb_per_second};

use super::cold;

/// Times that every query runs.
const PASSES: u32 = 3;

pub(super) async fn run_hot(bench: &Bench) -> Result<Vec<Measurement>> {
    let node = bench.start_node(&HOT_SETTINGS)?;
    let loaded = load::fill(&node.kafka, bench).await?;
    let mut measurements = measure("hot", &node.postgres, bench, loaded).await?;
    measurements.push(Measurement::new("scan_hot_resident", node.resident_bytes()? as f64 / 1_048_576.0, "MiB"));
    Ok(measurements)
}

pub(super) async fn run_cold(bench: &Bench) -> Result<Vec<Measurement>> {
    let cold = cold::start(bench).await?;
    let measured = measure("cold", &cold.node.postgres, bench, cold.loaded).await?;
    Ok(measured.into_iter().map(|one| one.with_detail("log_bytes_left", cold.log_bytes_left)).collect())
}

async fn measure(temperature: &str, postgres: &str, bench: &Bench, loaded: Loaded) -> Result<Vec<Measurement>> {
    let sql = Sql::connect(postgres).await?;
    let mut measurements = Vec::new();
    for (name, condition, expected) in
        [("count", "", bench.records), ("filter", " WHERE _value > _key", loaded.values_above_keys)]
    {
        let query = format!("SELECT count(*) FROM topics.\"{TOPIC}\"{condition}");
        let mut times = Times::default();
        for _ in 0..PASSES {
            let begun = Instant::now();
            let counted = sql.number(&query).await?;
            times.push(begun.elapsed());
            if counted != expected {
                return Err(format!("{query}: {counted} where {expected} is right").into());
            }
        }
        let name = format!("scan_{temperature}_{name}");
        let speed = mb_per_second(bench.bytes(), times.median());
        measurements.push(Measurement::new(name, speed, "MB/s").with_detail("seconds", times.seconds()));
    }
    Ok(measurements)
}
