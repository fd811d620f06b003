//! Makes a history that fails smaller: operations and lives are left out as long as the same invariant breaks.

use crate::history::{self, Outcome};
use crate::world::Skipped;

/// Histories tried at the most.
const TRIES_MAX: u32 = 120;

/// What may be left out, and the history without it.
pub(crate) fn shrink(seed: u64, failed: &Outcome) -> (Skipped, Outcome) {
    let invariant = failed.violation.as_ref().map(|violation| violation.invariant);
    let mut all: Vec<(u64, u64)> = Vec::new();
    for (who, begun) in &failed.begun {
        all.extend((0..=*begun).map(|number| (*who, number)));
    }
    let mut skipped = Skipped::new();
    let mut tries = 0;
    let mut size = all.len().div_ceil(2);
    while size > 0 {
        let rest: Vec<(u64, u64)> = all.iter().filter(|one| !skipped.contains(*one)).copied().collect();
        for chunk in rest.chunks(size) {
            tries += 1;
            if tries > TRIES_MAX {
                return finish(seed, skipped);
            }
            let mut more = skipped.clone();
            more.extend(chunk.iter().copied());
            let outcome = history::run(seed, &more, false);
            if outcome.violation.as_ref().map(|violation| violation.invariant) == invariant {
                skipped = more;
            }
        }
        size /= 2;
    }
    finish(seed, skipped)
}

fn finish(seed: u64, skipped: Skipped) -> (Skipped, Outcome) {
    let outcome = history::run(seed, &skipped, true);
    (skipped, outcome)
}
