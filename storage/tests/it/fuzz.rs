//! The fuzz corpus, and mutations of it by seed, through every reader of stored and received bytes: none may panic.

use std::path::Path;

use aquifer_storage::testing::fuzz::{TARGETS, seeds};
use proptest::prelude::*;

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
