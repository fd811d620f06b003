//! Which objects of a topic become one: small ones that lie side by side, so that every byte is rewritten seldom; pure.
//!
//! An object of half of `merge.object_bytes` is large and stays. Small ones are joined when that makes a large one, or
//! when the largest of them grows by [`GROWTH`]. So a byte that was tiered in an object of `b` bytes is rewritten at most
//! `log4(object_bytes / 2b) + 1` times, and behind the large objects there are only a few small ones of each size.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::manifest::model::{Entry, TopicManifest};

/// How much the largest object must grow by a merge that does not make a large one.
const GROWTH: u64 = 4;

/// Objects joined at once: each may have to be opened.
pub(crate) const OBJECTS_MAX: usize = 64;

/// Row groups of one object: Parquet counts them in 16 bits.
const ROW_GROUPS_MAX: usize = 16 << 10;

/// An entry of the manifest as the policy sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Bytes of its object, of those rows that would be written again.
    pub(crate) bytes: u64,
    /// Bytes of rows below their partition's start.
    pub(crate) dead_bytes: u64,
    /// Row groups in it.
    pub(crate) row_groups: usize,
    /// Whether it can be rewritten at all.
    pub(crate) joinable: bool,
    /// The first entry it could be joined with, so that the covers of no partition have a hole.
    pub(crate) reach: usize,
}

/// How far back each entry could be joined with those before it: a hole in a partition's covers (below its start, where
/// trimming has made one) may not come to lie within one entry.
pub(crate) fn reaches(entries: &[Arc<Entry>]) -> Vec<usize> {
    let mut last: BTreeMap<i32, (usize, i64)> = BTreeMap::new();
    let mut reach = 0;
    let reach_of = |(number, entry): (usize, &Arc<Entry>)| {
        for cover in entry.covers.iter().filter(|cover| cover.start < cover.end) {
            if let Some((before, end)) = last.insert(cover.partition, (number, cover.end))
                && end != cover.start
            {
                reach = reach.max(before + 1);
            }
        }
        reach
    };
    entries.iter().enumerate().map(reach_of).collect()
}

/// The entries as the policy sees them; objects that `is_spoiled` stay as they are.
pub(crate) fn pieces(
    manifest: &TopicManifest,
    entries: &[Arc<Entry>],
    is_spoiled: impl Fn(&str) -> bool,
) -> Vec<Piece> {
    let piece = |(entry, reach): (&Arc<Entry>, usize)| {
        let Some(object) = &entry.object else {
            return Piece { bytes: 0, dead_bytes: 0, row_groups: 0, joinable: true, reach };
        };
        let groups = &object.row_groups;
        let dead = groups.iter().filter(|group| group.last_offset < manifest.start(group.partition));
        let rows: u64 = groups.iter().map(|group| u64::from(group.rows)).sum();
        let dead_rows: u64 = dead.map(|group| u64::from(group.rows)).sum();
        let dead_bytes = object.bytes * dead_rows / rows.max(1);
        let (bytes, joinable) = (object.bytes - dead_bytes, !is_spoiled(&object.path));
        Piece { bytes, dead_bytes, row_groups: groups.len(), joinable, reach }
    };
    entries.iter().zip(reaches(entries)).map(piece).collect()
}

/// The numbers of the policy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MergePolicy {
    /// `merge.object_bytes`: what a merge aims at.
    pub(crate) object_bytes: u64,
    /// Joins any two small objects that lie side by side: someone asked for it.
    pub(crate) eager: bool,
}

impl MergePolicy {
    /// The first neighbours that should become one, or an object of which more is dead than alive; `None` if all is well.
    pub(crate) fn plan(&self, pieces: &[Piece]) -> Option<Range<usize>> {
        let joined = (0..pieces.len()).find_map(|start| self.longest_from(pieces, start));
        let is_dead = |piece: &Piece| piece.joinable && piece.dead_bytes > piece.bytes;
        joined.or_else(|| pieces.iter().position(is_dead).map(|at| at..at + 1))
    }

    /// The longest worthwhile merge that begins at `start`.
    fn longest_from(&self, pieces: &[Piece], start: usize) -> Option<Range<usize>> {
        let (mut bytes, mut largest, mut row_groups) = (0_u64, 0, 0);
        let mut worthwhile = None;
        for (at, piece) in pieces.iter().enumerate().skip(start).take(OBJECTS_MAX) {
            row_groups += piece.row_groups;
            if !piece.joinable || piece.reach > start || self.is_large(piece.bytes) || row_groups > ROW_GROUPS_MAX {
                break;
            }
            bytes += piece.bytes;
            largest = largest.max(piece.bytes);
            let grows = self.eager || self.is_large(bytes) || largest.saturating_mul(GROWTH) <= bytes;
            if at > start && grows {
                worthwhile = Some(start..at + 1);
            }
            if bytes >= self.object_bytes {
                break;
            }
        }
        worthwhile
    }

    /// Whether an object of so many bytes stays as it is.
    pub(crate) fn is_large(&self, bytes: u64) -> bool {
        bytes >= self.object_bytes / 2
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::manifest::model::tests::entry;

    const MIB: u64 = 1 << 20;
    const POLICY: MergePolicy = MergePolicy { object_bytes: 128 * MIB, eager: false };

    fn piece(bytes: u64) -> Piece {
        Piece { bytes, dead_bytes: 0, row_groups: 1, joinable: true, reach: 0 }
    }

    fn plan(policy: MergePolicy, sizes: &[u64]) -> Option<Range<usize>> {
        policy.plan(&sizes.iter().map(|bytes| piece(*bytes)).collect::<Vec<_>>())
    }

    #[test]
    fn neighbours_join_when_one_large_object_or_much_growth_comes_of_it() {
        assert_eq!(plan(POLICY, &[16 * MIB; 3]), None);
        assert_eq!(plan(POLICY, &[16 * MIB; 4]), Some(0..4));
        assert_eq!(plan(POLICY, &[16 * MIB; 40]), Some(0..8));
        assert_eq!(plan(POLICY, &[MIB, MIB, MIB]), None);
        assert_eq!(plan(POLICY, &[60 * MIB, 4 * MIB]), Some(0..2));
        assert_eq!(plan(POLICY, &[200 * MIB, MIB, MIB, MIB, MIB, 100 * MIB]), Some(1..5));
        assert_eq!(plan(POLICY, &[]), None);
    }

    #[test]
    fn what_cannot_be_rewritten_stands_between_its_neighbours() {
        let mut pieces = vec![piece(MIB); 7];
        pieces[3].joinable = false;
        assert_eq!(POLICY.plan(&pieces), None);
        pieces.push(piece(MIB));
        assert_eq!(POLICY.plan(&pieces), Some(4..8));
        pieces[5].row_groups = ROW_GROUPS_MAX;
        assert_eq!(POLICY.plan(&pieces), None);
    }

    #[test]
    fn neighbours_with_a_hole_between_them_do_not_join_and_what_is_mostly_dead_is_rewritten_alone() {
        let mut pieces = vec![piece(MIB); 6];
        pieces[3].reach = 2;
        pieces[4].reach = 2;
        pieces[5].reach = 2;
        assert_eq!(POLICY.plan(&pieces), Some(2..6));
        pieces.pop();
        assert_eq!(POLICY.plan(&pieces), None);
        pieces[1].dead_bytes = MIB + 1;
        assert_eq!(POLICY.plan(&pieces), Some(1..2));
    }

    #[test]
    fn reach_ends_at_a_hole() {
        let covers = [&[(0, 0, 10), (1, 0, 5)][..], &[(1, 5, 9)], &[(0, 20, 30)], &[(0, 30, 40), (1, 9, 10)]];
        let entries: Vec<_> = covers.iter().map(|covers| Arc::new(entry("", covers))).collect();
        assert_eq!(reaches(&entries), [0, 0, 1, 1]);
    }

    #[test]
    fn who_asks_gets_any_two_small_neighbours_joined() {
        let eager = MergePolicy { eager: true, ..POLICY };
        assert_eq!(plan(eager, &[30 * MIB, MIB]), Some(0..2));
        assert_eq!(plan(eager, &[MIB]), None);
        assert_eq!(plan(eager, &[100 * MIB, MIB, 100 * MIB]), None);
    }

    /// Objects with how often the bytes in them were rewritten at the most.
    fn run(arriving: &[u64]) -> (Vec<(u64, u32)>, u64, u64) {
        let mut objects: Vec<(u64, u32)> = Vec::new();
        let (mut puts, mut written) = (0, 0);
        for bytes in arriving {
            objects.push((*bytes, 0));
            while let Some(range) = plan(POLICY, &objects.iter().map(|(bytes, _)| *bytes).collect::<Vec<_>>()) {
                let joined: Vec<_> = objects.drain(range.clone()).collect();
                let bytes = joined.iter().map(|(bytes, _)| bytes).sum();
                let rewrites = joined.iter().map(|(_, rewrites)| rewrites + 1).max().unwrap();
                objects.insert(range.start, (bytes, rewrites));
                puts += 1;
                written += bytes;
            }
        }
        (objects, puts, written)
    }

    #[test]
    fn a_year_of_small_objects_is_rewritten_three_times_and_becomes_large_ones() {
        // One object of 1 MiB every ten minutes.
        let arriving = vec![MIB; 52_560];
        let (objects, puts, written) = run(&arriving);
        assert!(objects.len() <= 52_560 / 64 + 12, "{} objects", objects.len());
        assert!(objects.iter().all(|(_, rewrites)| *rewrites <= 4), "{objects:?}");
        assert!(written <= 3 * 52_560 * MIB, "{} MiB written", written / MIB);
        assert!(puts <= 52_560 / 3, "{puts} puts");
    }

    proptest! {
        #[test]
        fn every_byte_is_rewritten_a_logarithmic_number_of_times(
            exponents in prop::collection::vec(10_u32..28, 1..400),
        ) {
            let arriving: Vec<u64> = exponents.iter().map(|exponent| 1 << exponent).collect();
            let (objects, ..) = run(&arriving);
            // log4(64 MiB / 1 KiB) + 1
            prop_assert!(objects.iter().all(|(_, rewrites)| *rewrites <= 9), "{objects:?}");
            prop_assert_eq!(objects.iter().map(|(bytes, _)| bytes).sum::<u64>(), arriving.iter().sum::<u64>());
            prop_assert!(objects.iter().all(|(bytes, rewrites)| *rewrites == 0 || *bytes <= 192 * MIB), "{objects:?}");
        }
    }
}
