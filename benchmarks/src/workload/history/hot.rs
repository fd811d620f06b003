//! The same questions of the same views, from the log and then from objects.

use crate::bench::Bench;
use crate::failure::Result;
use crate::report::{Goal, Measured, Measurement};
use crate::sql::Sql;
use crate::statistics::geometric_mean;

use super::compare::difference;
use super::queries::{self, Class};
use super::{HOT_NODE, PROCESSORS, failed, load, ms, rounds};

const HOT_TO_COLD: f64 = 1.5;

pub(crate) async fn run(bench: &Bench) -> Result<Measured> {
    let mut queries = queries::read(&bench.history.queries)?;
    queries.retain(|query| query.class != Class::FirstRow);
    let node = bench.start_node_on(PROCESSORS, &HOT_NODE)?;
    let sql = Sql::connect(&node.postgres).await?;
    load::fill_year(&node, &sql, bench.partitions, bench.history.hot_rows).await?;
    let mut measured = Measured::default();
    let mut hot = Vec::new();
    for query in queries {
        match rounds::ask(&query, &sql, None).await {
            Ok(timed) => hot.push((query, timed)),
            Err(failure) => measured.failures.push(failed(&query, &failure)),
        }
    }
    load::make_cold(&sql).await?;
    let mut ratios = Vec::new();
    for (query, hot) in hot {
        let cold = match rounds::ask(&query, &sql, None).await {
            Ok(cold) => cold,
            Err(failure) => {
                measured.failures.push(failed(&query, &failure));
                continue;
            }
        };
        if let Some(difference) = difference(&hot.rows, &cold.rows) {
            let failure = format!("hot and cold differ: {difference}").into();
            measured.failures.push(failed(&query, &failure));
            continue;
        }
        let (hot, cold) = (ms(hot.ours.median()), ms(cold.ours.median()));
        let measurement = Measurement::new(format!("history_hot_{}", query.name), hot, "ms");
        measured.measurements.push(measurement.with_detail("cold_ms", cold));
        if query.class == Class::Typed {
            ratios.push(hot / cold.max(1e-3));
        }
    }
    if let Some(mean) = geometric_mean(&ratios) {
        let measurement = Measurement::new("history_hot_to_cold", mean, "x").with_goal(Goal::AtMost(HOT_TO_COLD));
        measured.measurements.push(measurement.with_detail("queries", ratios.len()));
    }
    Ok(measured)
}
