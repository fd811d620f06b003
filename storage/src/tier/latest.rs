//! Which rows of a compacted topic are not the latest of their key: marks on row groups, found in bounded memory; pure.
//!
//! A pass reads the keys of all row groups in offset order and remembers the newest row of each; when a newer one comes,
//! the older is marked. A key takes [`KEY_BYTES`] of the map, whatever its length, for it is remembered by 128 bits of
//! keyed hashes: that two keys of one topic share them is less likely than a disk that lies. When the map is full it
//! keeps the lower half of its range of hashes; another pass takes the rest. Marks are right from the moment they are
//! made, so what a pass had marked before it became narrower stays. A mark is one bit a row.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher};
use std::ops::RangeInclusive;

/// What a key takes in the map, at the most: 24 bytes and a mark, in a map that is just being doubled.
const KEY_BYTES: u64 = 96;

/// Keys a map holds however little memory there is.
const KEYS_MIN: usize = 16;

/// What a row holds, as far as compaction cares.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyedRow<'a> {
    /// Its key; a row without one goes.
    pub(crate) key: Option<&'a [u8]>,
    /// When it was committed, us.
    pub(crate) committed_at_us: i64,
    /// What is known of its value.
    pub(crate) kind: RowKind,
}

/// What is known of a row's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowKind {
    /// There is one, or nobody looked.
    Value,
    /// There is none: the key is deleted.
    Tombstone,
    /// There is none, and whoever had read an older value has had time to see that.
    ExpiredTombstone,
}

/// Marks on the rows of one row group.
#[derive(Clone, Debug, Default)]
struct GroupMarks {
    bits: Vec<u64>,
    marked: u32,
    /// Rows that stay, though they are tombstones.
    tombstones: u64,
}

/// Which rows go, by the number of their row group in the order in which groups were added.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    groups: Vec<GroupMarks>,
    history_start_us: Option<i64>,
}

impl Marks {
    /// Takes a row group in; gives its number.
    pub(crate) fn add_group(&mut self, rows: u32) -> u32 {
        let words = (rows as usize).div_ceil(64);
        self.groups.push(GroupMarks { bits: vec![0; words], ..GroupMarks::default() });
        u32::try_from(self.groups.len() - 1).unwrap_or(u32::MAX)
    }

    /// Whether a row goes.
    pub(crate) fn is_marked(&self, group: u32, row: u32) -> bool {
        let word = self.groups.get(group as usize).and_then(|group| group.bits.get(row as usize / 64));
        word.is_some_and(|word| word >> (row % 64) & 1 == 1)
    }

    /// How many rows of a row group go.
    pub(crate) fn marked(&self, group: u32) -> u32 {
        self.groups.get(group as usize).map_or(0, |group| group.marked)
    }

    /// How many tombstones were seen to stay in a row group.
    pub(crate) fn tombstones(&self, group: u32) -> u64 {
        self.groups.get(group as usize).map_or(0, |group| group.tombstones)
    }

    /// The newest commit time at which some marked row stopped being its key's newest: before it, the past is not all
    /// there any more, us.
    pub(crate) fn history_start_us(&self) -> Option<i64> {
        self.history_start_us
    }

    fn mark(&mut self, place: Place) {
        let group = self.groups.get_mut(place.group as usize);
        let Some(group) = group else { return };
        let Some(word) = group.bits.get_mut(place.row() as usize / 64) else { return };
        let bit = 1 << (place.row() % 64);
        group.marked += u32::from(*word & bit == 0);
        *word |= bit;
    }

    fn note_end_of_a_current_row(&mut self, at_us: i64) {
        self.history_start_us = self.history_start_us.max(Some(at_us));
    }
}

/// A key as it is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Digest(u64, u64);

impl Hash for Digest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Not the word by which passes are told apart: in a late pass its first bits are all the same.
        state.write_u64(self.1);
    }
}

/// Takes what is a hash already.
#[derive(Clone, Copy, Debug, Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }
}

/// A row, and what is known of its value.
#[derive(Clone, Copy, Debug)]
struct Place {
    group: u32,
    /// The row's number in the group, and its kind in the two highest bits.
    row_and_kind: u32,
}

impl Place {
    const KIND_SHIFT: u32 = 30;

    fn new(group: u32, row: u32, kind: RowKind) -> Self {
        let kind = match kind {
            RowKind::Value => 0,
            RowKind::Tombstone => 1,
            RowKind::ExpiredTombstone => 2,
        };
        Self { group, row_and_kind: row | kind << Self::KIND_SHIFT }
    }

    fn row(self) -> u32 {
        self.row_and_kind & ((1 << Self::KIND_SHIFT) - 1)
    }

    fn kind(self) -> RowKind {
        match self.row_and_kind >> Self::KIND_SHIFT {
            0 => RowKind::Value,
            1 => RowKind::Tombstone,
            _ => RowKind::ExpiredTombstone,
        }
    }
}

/// One pass over the rows, for the keys whose hashes lie in a range.
#[derive(Debug)]
pub(crate) struct KeyPass {
    /// Nobody outside knows these, so nobody can make keys that meet.
    seeds: (u64, u64),
    range: RangeInclusive<u64>,
    latest: HashMap<Digest, Place, BuildHasherDefault<AsIs>>,
    keys_max: usize,
}

impl KeyPass {
    /// The first pass, with a map of so many bytes.
    pub(crate) fn first(memory_bytes: u64, seeds: (u64, u64)) -> Self {
        let keys_max = usize::try_from(memory_bytes / KEY_BYTES).unwrap_or(usize::MAX).max(KEYS_MIN);
        Self { seeds, range: 0..=u64::MAX, latest: HashMap::default(), keys_max }
    }

    /// Looks at the next row of a partition in offset order.
    pub(crate) fn push(&mut self, marks: &mut Marks, partition: i32, (group, row): (u32, u32), keyed: &KeyedRow<'_>) {
        let place = Place::new(group, row, keyed.kind);
        let Some(key) = keyed.key else {
            marks.mark(place);
            // Nothing ever took its place: it was current until now, as far as the rows know.
            marks.note_end_of_a_current_row(keyed.committed_at_us.saturating_add(1));
            return;
        };
        let digest = Digest(hash(self.seeds.0, partition, key), hash(self.seeds.1, partition, key));
        if !self.range.contains(&digest.0) {
            return;
        }
        if let Some(older) = self.latest.insert(digest, place) {
            marks.mark(older);
            marks.note_end_of_a_current_row(keyed.committed_at_us);
        }
        if self.latest.len() > self.keys_max {
            self.narrow();
        }
    }

    /// Keeps the lower half of the range; the rest is for another pass.
    fn narrow(&mut self) {
        let (start, end) = (*self.range.start(), *self.range.end());
        let middle = start + (end - start) / 2;
        self.range = start..=middle;
        self.latest.retain(|digest, _| digest.0 <= middle);
    }

    /// Ends the pass: tombstones of which nothing is left go too. Gives the next pass; `None` if all keys were seen.
    pub(crate) fn finish(mut self, marks: &mut Marks) -> Option<Self> {
        for place in self.latest.drain().map(|(_, place)| place) {
            match place.kind() {
                RowKind::Value => {}
                RowKind::ExpiredTombstone => marks.mark(place),
                RowKind::Tombstone => {
                    if let Some(group) = marks.groups.get_mut(place.group as usize) {
                        group.tombstones += 1;
                    }
                }
            }
        }
        let next = self.range.end().checked_add(1)?;
        Some(Self { range: next..=u64::MAX, ..self })
    }
}

fn hash(seed: u64, partition: i32, key: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (seed, partition, key).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const GROUP_ROWS: usize = 7;

    /// Rows of two partitions: partition, key, kind.
    type Rows = Vec<(i32, Option<u8>, u8)>;

    fn kind(number: u8) -> RowKind {
        [RowKind::Value, RowKind::Tombstone, RowKind::ExpiredTombstone][usize::from(number) % 3]
    }

    /// Runs passes until all keys were seen; gives marks, and how many passes it took.
    fn run(rows: &Rows, memory_bytes: u64) -> (Marks, usize) {
        let mut marks = Marks::default();
        for rows in rows.chunks(GROUP_ROWS) {
            marks.add_group(u32::try_from(rows.len()).unwrap());
        }
        let (mut pass, mut passes) = (Some(KeyPass::first(memory_bytes, (1, 2))), 0);
        while let Some(mut current) = pass {
            passes += 1;
            for (number, (partition, key, number_of_kind)) in rows.iter().enumerate() {
                let place = (u32::try_from(number / GROUP_ROWS).unwrap(), u32::try_from(number % GROUP_ROWS).unwrap());
                let key = key.map(|key| [key]);
                let row = KeyedRow {
                    key: key.as_ref().map(<[u8; 1]>::as_slice),
                    committed_at_us: i64::try_from(number).unwrap(),
                    kind: kind(*number_of_kind),
                };
                current.push(&mut marks, *partition, place, &row);
            }
            pass = current.finish(&mut marks);
        }
        (marks, passes)
    }

    fn marked(marks: &Marks, rows: usize) -> Vec<usize> {
        let place = |row: usize| (u32::try_from(row / GROUP_ROWS).unwrap(), u32::try_from(row % GROUP_ROWS).unwrap());
        let is_marked = |row: &usize| {
            let (group, row) = place(*row);
            marks.is_marked(group, row)
        };
        (0..rows).filter(is_marked).collect()
    }

    #[test]
    fn all_but_the_latest_of_a_key_go_and_the_past_begins_where_the_last_of_them_ended() {
        let rows =
            vec![(0, Some(1), 0), (0, Some(2), 0), (1, Some(1), 0), (0, Some(1), 0), (0, Some(1), 0), (0, None, 0)];
        let (marks, passes) = run(&rows[..5].to_vec(), 1 << 20);
        assert_eq!((marked(&marks, 5), passes), (vec![0, 3], 1));
        assert_eq!(marks.history_start_us(), Some(4));
        let (marks, _) = run(&rows, 1 << 20);
        assert_eq!(marked(&marks, 6), [0, 3, 5]);
        assert_eq!(marks.history_start_us(), Some(6));
    }

    #[test]
    fn a_tombstone_goes_when_it_has_expired_and_else_is_counted() {
        let rows = vec![(0, Some(1), 0), (0, Some(1), 1), (0, Some(2), 2), (0, Some(3), 2), (0, Some(3), 0)];
        let (marks, _) = run(&rows, 1 << 20);
        assert_eq!(marked(&marks, 5), [0, 2, 3]);
        assert_eq!((marks.tombstones(0), marks.marked(0)), (1, 3));
    }

    #[test]
    fn many_keys_take_several_passes_in_a_small_map() {
        let rows: Rows = (0..2000_u32)
            .map(|number| (i32::try_from(number / 200 % 5).unwrap(), Some(u8::try_from(number % 200).unwrap()), 0))
            .collect();
        let (marks, passes) = run(&rows, 0);
        // A thousand keys in a map of sixteen.
        assert!((62..=250).contains(&passes), "{passes} passes");
        assert_eq!(marked(&marks, 2000), (0..1000).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn marks_are_those_of_a_plain_map(
            rows in prop::collection::vec((0..2_i32, prop::option::weighted(0.95, 0..60_u8), 0..6_u8), 0..400),
            memory_bytes in 0..10_000_u64,
        ) {
            let mut latest = BTreeMap::new();
            for (number, (partition, key, _)) in rows.iter().enumerate() {
                if let Some(key) = key {
                    latest.insert((*partition, *key), number);
                }
            }
            let stays = |(number, (partition, key, number_of_kind)): &(usize, &(i32, Option<u8>, u8))| {
                key.is_some_and(|key| latest[&(*partition, key)] == *number) && kind(*number_of_kind) != RowKind::ExpiredTombstone
            };
            let goes: Vec<_> = rows.iter().enumerate().filter(|row| !stays(row)).map(|(number, _)| number).collect();
            let (marks, _) = run(&rows, memory_bytes);
            prop_assert_eq!(marked(&marks, rows.len()), goes);
            let groups = u32::try_from(rows.len().div_ceil(GROUP_ROWS)).unwrap();
            let counted: u32 = (0..groups).map(|group| marks.marked(group)).sum();
            prop_assert_eq!(counted as usize, marked(&marks, rows.len()).len());
        }
    }
}
