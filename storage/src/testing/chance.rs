//! Chance by seed: splitmix64, forked by words, so that what one part draws never shifts what another part draws.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Random;

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// A stream of numbers that a seed decides.
#[derive(Debug)]
pub struct Chance {
    seed: u64,
    state: AtomicU64,
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Chance {
    /// The stream of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, state: AtomicU64::new(mix(seed ^ GOLDEN)) }
    }

    /// A stream of its own for a purpose, whatever was drawn here before.
    #[must_use]
    pub fn fork(&self, purpose: &str) -> Self {
        Self::new(purpose.bytes().fold(self.seed, |seed, byte| mix(seed ^ u64::from(byte)).wrapping_add(GOLDEN)))
    }

    /// A number below `limit`; 0 for a limit of 0.
    pub fn below(&self, limit: u64) -> u64 {
        if limit == 0 { 0 } else { self.next_u64() % limit }
    }

    /// An index into something of this length.
    pub fn index(&self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap_or(0)
    }

    /// True once in `times`; never for 0.
    pub fn once_in(&self, times: u64) -> bool {
        times > 0 && self.below(times) == 0
    }

    /// One of these.
    pub fn pick<'a, T>(&self, among: &'a [T]) -> Option<&'a T> {
        among.get(self.index(among.len()))
    }
}

impl Random for Chance {
    fn next_u64(&self) -> u64 {
        mix(self.state.fetch_add(GOLDEN, Ordering::Relaxed).wrapping_add(GOLDEN))
    }
}
