//! What a sealed segment's footer says of its frames: its runs are what is there, no more and no less. Pure.

use std::collections::{BTreeMap, HashMap};

use crate::ids::TopicPartition;
use crate::log::index::{Run, Stretch};
use crate::verify::spans::Spans;

/// The runs of a segment as its frames have them, by partition and position.
#[derive(Debug, Default)]
pub(super) struct Seen(HashMap<TopicPartition, BTreeMap<u64, Run>>);

/// The footer's word on one partition.
pub(super) type Told = (TopicPartition, Stretch, Vec<Run>);

impl Seen {
    /// Takes an entry of a frame in.
    pub(super) fn put(&mut self, partition: TopicPartition, run: Run) {
        self.0.entry(partition).or_default().insert(run.position, run);
    }

    /// What of the footer does not agree.
    pub(super) fn against(&self, told: &[Told]) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut covered: HashMap<TopicPartition, Spans> = HashMap::new();
        for (partition, stretch, runs) in told {
            let spans = covered.entry(*partition).or_default();
            spans.add(stretch.base_offset, stretch.last_offset + 1);
            for run in runs {
                spans.add(run.base_offset, run.last_offset + 1);
                if let Some(reason) = self.run_is_wrong(*partition, run) {
                    let TopicPartition { topic, partition } = partition;
                    let (first, last) = (run.base_offset, run.last_offset);
                    wrong.push(format!("offsets {first} to {last} of {topic}/{partition}: {reason}"));
                }
            }
        }
        let mut held: HashMap<TopicPartition, Spans> = HashMap::new();
        for (partition, runs) in &self.0 {
            let spans = held.entry(*partition).or_default();
            runs.values().for_each(|run| spans.add(run.base_offset, run.last_offset + 1));
        }
        for partition in held.keys().chain(covered.keys()) {
            if held.get(partition) != covered.get(partition) {
                let (TopicPartition { topic, partition: number }, none) = (partition, Spans::default());
                let (is, says) = (held.get(partition).unwrap_or(&none), covered.get(partition).unwrap_or(&none));
                wrong.push(format!("it names {says:?} of {topic}/{number} where the frames have {is:?}"));
            }
        }
        wrong.sort_unstable();
        wrong.dedup();
        wrong
    }

    /// A run is made of entries that lie where it says.
    fn run_is_wrong(&self, partition: TopicPartition, run: &Run) -> Option<String> {
        let of_partition = self.0.get(&partition)?;
        let entries = of_partition.range(run.position..run.read_end().max(run.position + 1)).map(|(_, entry)| entry);
        let entries: Vec<_> = entries
            .filter(|entry| entry.base_offset >= run.base_offset && entry.last_offset <= run.last_offset)
            .collect();
        let mut next_offset = run.base_offset;
        for entry in &entries {
            if entry.base_offset != next_offset {
                return Some(format!("offset {next_offset} is not where it says"));
            }
            next_offset = entry.last_offset + 1;
        }
        if next_offset != run.last_offset + 1 {
            return Some(format!("only those below {next_offset} are where it says"));
        }
        let sum: u64 = entries.iter().map(|entry| u64::from(entry.bytes)).sum();
        let max_timestamp_ms = entries.iter().map(|entry| entry.max_timestamp_ms).max();
        let first_commit_us = entries.first().map(|entry| entry.commit_time_us);
        let last_commit_us = entries.iter().map(|entry| entry.last_commit_us).max();
        let agrees = sum == u64::from(run.bytes)
            && max_timestamp_ms == Some(run.max_timestamp_ms)
            && first_commit_us == Some(run.commit_time_us)
            && last_commit_us == Some(run.last_commit_us);
        (!agrees).then(|| format!("{run:?} is not what its frames say"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::TopicId;
    use crate::log::index::Runs;

    fn run(base_offset: i64, last_offset: i64, frame: u64) -> Run {
        Run {
            base_offset,
            last_offset,
            max_timestamp_ms: base_offset,
            commit_time_us: base_offset,
            last_commit_us: base_offset,
            position: frame + 128,
            bytes: 100,
            frames: 1,
            frame,
            frame_bytes: 256,
        }
    }

    #[test]
    fn a_footer_that_leaves_out_or_moves_something_is_told() {
        let partition = TopicPartition { topic: TopicId::from_bytes([1; 16]), partition: 0 };
        let (mut seen, mut runs) = (Seen::default(), Runs::default());
        for number in 0..200_u64 {
            let run = run(number.cast_signed() * 10, number.cast_signed() * 10 + 9, number * 4096);
            seen.put(partition, run);
            runs.put(run, 0);
        }
        let told: Vec<Told> = runs
            .coalesced()
            .into_iter()
            .map(|stretch| {
                let crate::log::index::Held::Memory(runs) = stretch.held.clone() else { panic!("in memory") };
                (partition, stretch, runs)
            })
            .collect();
        assert_eq!(seen.against(&told), Vec::<String>::new());
        assert!(told[0].2.len() < 100, "runs are coalesced");
        let mut moved = told.clone();
        moved[0].2[1].position += 64;
        assert_eq!(seen.against(&moved).len(), 1);
        let mut lighter = told.clone();
        lighter[0].2[0].bytes -= 1;
        assert_eq!(seen.against(&lighter).len(), 1);
        assert!(seen.against(&[])[0].contains("where the frames have"));
        seen.put(partition, run(2000, 2009, 1 << 30));
        assert_eq!(seen.against(&told).len(), 1);
    }
}
