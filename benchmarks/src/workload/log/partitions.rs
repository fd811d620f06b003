//! A thousand partitions against one: a log per node must not care, and a client that waits 100 ms for its batches pays
//! nothing for them.

use crate::bench::{Bench, RECORD_BYTES};
use crate::failure::Result;
use crate::load::{self, Load};
use crate::peer::kafka::Durability;
use crate::report::{Goal, Measurement};
use crate::statistics::mb_per_second;

use super::{Compared, Contender, ROUNDS};

const MANY: i32 = 1000;
const KAFKA: Contender = Contender::Kafka(Durability::AsItComes);

/// (partitions, linger in ms, who).
const CASES: [(i32, u32, &[Contender]); 4] = [
    (1, 100, &[Contender::Aquifer, KAFKA]),
    (MANY, 100, &[Contender::Aquifer, KAFKA]),
    (1, 5, &[Contender::Aquifer, KAFKA]),
    (MANY, 5, &[Contender::Aquifer, KAFKA]),
];

/// A quarter of the data, for small batches are slow and there are many rounds. All of it where the client waits 100 ms
/// and the node is fast: these 100 ms must not be a fifth of what is measured.
fn records(bench: &Bench, linger_ms: u32, contender: Contender) -> u64 {
    if linger_ms == 100 && contender == Contender::Aquifer { bench.records } else { bench.records / 4 }
}

pub(crate) async fn run(bench: &Bench) -> Result<Vec<Measurement>> {
    let mut compared: Vec<Compared> = CASES.iter().map(|_| Compared::default()).collect();
    for _ in 0..ROUNDS {
        for (case, (partitions, linger_ms, contenders)) in CASES.into_iter().enumerate() {
            for contender in contenders {
                let Some(running) = contender.start(bench)? else { continue };
                let records = records(bench, linger_ms, *contender);
                let load = Load { partitions, records, linger_ms };
                let loaded = load::fill_with(running.address(), load).await?;
                compared[case].add(*contender, mb_per_second(records * RECORD_BYTES, loaded.time));
            }
        }
    }
    let mut measurements = Vec::new();
    for ((partitions, linger_ms, _), compared) in CASES.into_iter().zip(&compared) {
        measurements.extend(compared.numbers(&format!("partitions_{partitions}_linger_{linger_ms}"), "MB/s"));
    }
    let [one, many, _, many_impatient] = &compared[..] else { return Ok(measurements) };
    let both = many.median(Contender::Aquifer).zip(one.median(Contender::Aquifer));
    measurements.extend(both.map(|(many, one)| {
        Measurement::new("partitions_1000_to_1_linger_100", many / one, "x").with_goal(Goal::AtLeast(0.8))
    }));
    measurements.extend(
        many_impatient.ratio_to(KAFKA).map(|ratio| {
            Measurement::new("partitions_1000_linger_5_to_kafka", ratio, "x").with_goal(Goal::AtLeast(1.0))
        }),
    );
    Ok(measurements)
}
