//! One librdkafka producer with `acks=all`, as fast as it goes.

use crate::bench::Bench;
use crate::failure::Result;
use crate::load::{self, Load};
use crate::peer::kafka::Durability;
use crate::report::{Goal, Measurement};
use crate::statistics::mb_per_second;

use super::{Compared, Contender, CpuCosts, CpuTimes, ROUNDS};

pub(crate) async fn run(bench: &Bench) -> Result<Vec<Measurement>> {
    let (mut compared, mut resident, mut cpu) = (Compared::default(), Compared::default(), CpuCosts::default());
    for _ in 0..ROUNDS {
        for contender in Contender::ALL {
            let Some(running) = contender.start(bench)? else { continue };
            let before = CpuTimes::now(&running)?;
            let loaded = load::fill_with(running.address(), Load::of(bench)).await?;
            compared.add(contender, mb_per_second(bench.bytes(), loaded.time));
            cpu.add(contender, &running, before, bench.bytes())?;
            resident.add(contender, running.resident_bytes()? as f64 / f64::from(1 << 20));
        }
    }
    let mut measurements = compared.numbers("produce", "MB/s");
    measurements.extend(cpu.numbers("produce"));
    measurements.extend(resident.numbers("resident_after_produce", "MiB"));
    let goals = [(Durability::Equal, 3.0), (Durability::AsItComes, 1.0)];
    measurements.extend(goals.into_iter().filter_map(|(durability, least)| {
        let peer = Contender::Kafka(durability);
        let ratio = compared.ratio_to(peer)?;
        Some(Measurement::new(format!("produce_to_{}", peer.name()), ratio, "x").with_goal(Goal::AtLeast(least)))
    }));
    Ok(measurements)
}
