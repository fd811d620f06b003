//! The fuzz corpus, and mutations of it by seed, through every reader of stored and received bytes: none may panic.

use std::path::Path;

use aquifer_storage::testing::fuzz::{TARGETS, bombs, is_produced, seeds};
use proptest::prelude::*;

use crate::held::peak_bytes;

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus").join(target);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect()
}

#[test]
fn every_reader_gets_through_its_corpus() {
    for target in TARGETS {
        let inputs = corpus(target.name);
        assert!(!inputs.is_empty(), "{} has no corpus", target.name);
        inputs.iter().for_each(|input| (target.read)(input));
    }
}

#[test]
fn a_batch_that_unfolds_to_the_real_limit_and_beyond_holds_no_more_than_it_may() {
    let target = TARGETS.iter().find(|target| target.name == "batch").unwrap();
    let bombs = bombs();
    assert_eq!(bombs.len(), 2);
    for ((unfolded_bytes, input), fits) in bombs.into_iter().zip([true, false]) {
        assert!(input.len() < 8 << 10, "{} bytes unfold to {unfolded_bytes}", input.len());
        assert_eq!(is_produced(&input), fits, "{unfolded_bytes} bytes");
        let peak_bytes = peak_bytes(|| (target.read)(&input));
        assert!(peak_bytes > unfolded_bytes / 2, "{peak_bytes} bytes: nothing was unfolded");
        assert!(peak_bytes <= target.held_bytes_max(), "{peak_bytes} bytes held for {unfolded_bytes}");
    }
}

proptest! {
    #[test]
    fn no_reader_panics_on_mutations_of_what_is_whole(
        number in any::<prop::sample::Index>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let seeds = seeds().unwrap();
        let (name, whole) = number.get(&seeds);
        let mut input = whole.clone();
        for (at, value) in flips {
            let at = at.index(input.len());
            input[at] = value;
        }
        let target = TARGETS.iter().find(|target| target.name == *name).unwrap();
        (target.read)(&input);
        (target.read)(&input[..cut.index(input.len())]);
    }
}
