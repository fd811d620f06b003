//! Simulations by seed: storage runs on a disk, a store, a clock and a scheduler that one number decides, clients use it,
//! everything fails that may, and a model says what must be there.
//!
//! `make sim SEED=7` repeats a history; `make sim SEEDS=2000` runs many. The invariants, by their numbers:
//! 1 what was acknowledged is there, at its offset; 2 one offset has one value for ever, and one commit time, that of its
//! transaction's end; 3 reading goes on without gaps; 4 an idempotent batch is there once; 5 what was refused is never read;
//! 6 a commit is there whole or not at all; 8 ends never go back and show nothing that a power cut takes; 9 who was replaced
//! is refused, and ids are given once; 10 offsets, positions and definitions never go back; 11 compaction keeps the latest
//! record of each key, and an older one never comes back behind it; 13 bytes come back as they were sent, hot and cold.
//! Group membership (12) is no business of storage; cycles between transactions (7) need isolation that Kafka does not
//! promise.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]
#![allow(clippy::print_stdout, reason = "a history that failed is told line by line")]

mod batches;
mod cleaned;
mod client;
mod damage;
mod history;
mod holds;
mod hour;
mod model;
mod paused;
mod producer;
mod reader;
mod remains;
mod shrink;
mod topics;
mod transaction;
mod verify;
mod world;

use aquifer_storage::clock::{Clock, SystemClock};
use history::Outcome;
use world::Skipped;

/// Seeds of `cargo test`.
const SEEDS: u64 = 250;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().filter(|text| !text.is_empty()).map(|text| text.parse().expect("a number"))
}

/// Runs a seed; if it fails, makes it smaller and tells.
fn check(seed: u64) -> Outcome {
    let outcome = history::run(seed, &Skipped::new(), false);
    if let Some(violation) = &outcome.violation {
        // For who only wants to know whether it is found.
        let wanted = number("AQUIFER_SHRINK") != Some(0);
        assert!(wanted, "seed {seed} breaks invariant {}: {}", violation.invariant, violation.words);
        let (skipped, smaller) = shrink::shrink(seed, &outcome);
        for line in &smaller.lines {
            println!("{line}");
        }
        panic!(
            "seed {seed} breaks invariant {}: {}\nwithout {} operations: {:?}\nrepeat it with: make sim SEED={seed}",
            violation.invariant,
            violation.words,
            skipped.len(),
            smaller.violation,
        );
    }
    outcome
}

#[test]
fn many_histories_keep_every_promise() {
    if let Some(seed) = number("AQUIFER_SEED") {
        let outcome = history::run(seed, &Skipped::new(), true);
        outcome.lines.iter().for_each(|line| println!("{line}"));
        println!("seed {seed}: {} steps, hash {:016x}", outcome.steps, outcome.hash);
        check(seed);
        return;
    }
    // Fresh ones each time: a seed that fails is printed and repeats.
    let base = number("AQUIFER_BASE_SEED").unwrap_or_else(|| SystemClock.now_us().unsigned_abs() / 1_000_000 * 10_000);
    let count = number("AQUIFER_SEEDS").unwrap_or(SEEDS);
    println!("seeds {base} to {}", base + count);
    let mut steps = 0;
    for seed in base..base + count {
        steps += check(seed).steps;
    }
    println!("{count} seeds, {steps} steps");
}

#[test]
fn one_seed_gives_one_history() {
    for seed in [3, 4, 5] {
        let (first, second) = (history::run(seed, &Skipped::new(), true), history::run(seed, &Skipped::new(), true));
        let differs = first.lines.iter().zip(&second.lines).find(|(one, other)| one != other);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!((first.hash, first.steps), (second.hash, second.steps), "seed {seed}");
    }
}

#[test]
fn many_partitions_leave_bounded_objects_puts_and_log_bytes() {
    let load = if number("AQUIFER_HOUR").is_some() { hour::Load::WHOLE } else { hour::Load::SMALL };
    let figures = hour::run(load);
    hour::check(load, figures);
}
