//! One librdkafka consumer over all partitions from the first offset: ours from the log and from objects, and Kafka's.

use crate::bench::Bench;
use crate::failure::Result;
use crate::load::{self, Load};
use crate::peer::kafka::Durability;
use crate::report::{Goal, Measurement};
use crate::statistics::mb_per_second;
use crate::workload::cold;

use super::{Compared, Contender, CpuCosts, CpuTimes, ROUNDS};

const CONTENDERS: [Contender; 2] = [Contender::Aquifer, Contender::Kafka(Durability::AsItComes)];

pub(crate) async fn run(bench: &Bench) -> Result<Vec<Measurement>> {
    let (mut hot, mut cpu) = (Compared::default(), CpuCosts::default());
    for contender in CONTENDERS {
        let Some(running) = contender.start(bench)? else { continue };
        load::fill_with(running.address(), Load::of(bench)).await?;
        for _ in 0..ROUNDS {
            let before = CpuTimes::now(&running)?;
            hot.add(contender, mb_per_second(bench.bytes(), load::drain(running.address(), bench).await?));
            cpu.add(contender, &running, before, bench.bytes())?;
        }
    }
    let node = cold::start(bench).await?;
    let mut cold = Compared::default();
    for _ in 0..ROUNDS {
        cold.add(Contender::Aquifer, mb_per_second(bench.bytes(), load::drain(&node.node.kafka, bench).await?));
    }
    let mut measurements = hot.numbers("consume_hot", "MB/s");
    measurements.extend(cpu.numbers("consume_hot"));
    measurements.extend(cold.numbers("consume_cold", "MB/s"));
    measurements.extend(
        hot.ratio_to(CONTENDERS[1])
            .map(|ratio| Measurement::new("consume_hot_to_kafka", ratio, "x").with_goal(Goal::AtLeast(1.0))),
    );
    let both = cold.median(Contender::Aquifer).zip(hot.median(Contender::Aquifer));
    measurements.extend(both.map(|(cold, hot)| {
        Measurement::new("consume_cold_to_hot", cold / hot, "x").with_goal(Goal::AtLeast(1.0 / 3.0))
    }));
    Ok(measurements)
}
