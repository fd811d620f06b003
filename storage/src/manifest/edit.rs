//! What may happen to a manifest: entries are added at the end, replaced by others that cover the same, or trimmed away;
//! pure.
//!
//! An edit says what it wants, not what the manifest is: it is applied to the manifest that counts when its turn comes.
//! So tiering and housekeeping need not know of each other; who was overtaken learns it by [`Error::Conflict`] and looks
//! again.

use std::collections::HashSet;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::manifest::invariant;
use crate::manifest::model::{Ends, Entry, TopicManifest};

/// One act upon a manifest.
#[derive(Clone, Debug)]
pub(crate) enum Edit {
    /// Tiering: each cover begins where its partition ends.
    Add(Entry),
    /// Merging and compaction: others in the place of some, covering exactly the same offsets with no row more. Entries
    /// without an object that lie within the new covers go too. The new ones must fit in where the old ones were, so
    /// take neighbours.
    Replace {
        /// Names of the objects that go.
        removed: Vec<String>,
        /// What comes instead.
        added: Vec<Entry>,
        /// The newest commit time, us, at which a row that goes still counted; `None` if every row stays.
        history_start_us: Option<i64>,
    },
    /// Retention: offsets below these starts are gone, by partition. Entries wholly below go; what is left of others
    /// goes with them. A start beyond the tiered end moves that too: what is gone need not be tiered.
    Trim {
        /// (partition, first offset there is).
        starts: Vec<(i32, i64)>,
    },
}

impl TopicManifest {
    /// This manifest after an edit, checked; version and epoch are still the old ones.
    ///
    /// # Errors
    /// [`Error::Conflict`] if the manifest has moved on from what the edit was made for, [`Error::Corrupt`] naming the
    /// invariant that would break.
    pub(crate) fn with(&self, edit: Edit) -> Result<Self> {
        let mut next = self.clone();
        match edit {
            Edit::Add(entry) => next.add(entry)?,
            Edit::Replace { removed, added, history_start_us } => next.replace(&removed, added, history_start_us)?,
            Edit::Trim { starts } => next.trim(&starts)?,
        }
        invariant::offsets_are_covered_once(&next)?;
        Ok(next)
    }

    fn add(&mut self, entry: Entry) -> Result<()> {
        invariant::entry_is_sound(self.topic, &entry)?;
        for cover in &entry.covers {
            let ends = self.partitions.entry(cover.partition).or_insert(Ends { start: cover.start, end: cover.start });
            if cover.start < ends.end {
                let what = format!("the tiered end of partition {} of topic {}", cover.partition, self.topic);
                return Err(Error::Conflict { what });
            }
            invariant::cover_follows(self.topic, *ends, cover)?;
            ends.end = cover.end;
        }
        self.entries.push(Arc::new(entry));
        Ok(())
    }

    fn replace(&mut self, removed: &[String], added: Vec<Entry>, history_start_us: Option<i64>) -> Result<()> {
        for entry in &added {
            invariant::entry_is_sound(self.topic, entry)?;
        }
        let (entries, gone) = replaced(self, removed, &added)?;
        invariant::replacement_is_sound(self, &gone, &added, history_start_us)?;
        self.entries = entries;
        self.chunks.clear();
        self.history_start_us = self.history_start_us.max(history_start_us.unwrap_or(i64::MIN));
        Ok(())
    }

    fn trim(&mut self, starts: &[(i32, i64)]) -> Result<()> {
        for (partition, start) in starts {
            let ends = self.partitions.entry(*partition).or_insert(Ends { start: *start, end: *start });
            ends.start = ends.start.max(*start);
            ends.end = ends.end.max(ends.start);
        }
        let gone = |entry: &Entry| entry.covers.iter().all(|cover| cover.end <= self.start(cover.partition));
        let kept: Vec<_> = self.entries.iter().filter(|entry| !gone(entry)).map(Arc::clone).collect();
        if kept.len() < self.entries.len() {
            self.entries = kept;
            self.chunks.clear();
        }
        Ok(())
    }
}

type Entries = Vec<Arc<Entry>>;

/// An entry while a replacement is being made.
struct Place {
    entry: Arc<Entry>,
    goes: bool,
}

/// The entries with `added` in the place of `removed`, and those that went.
fn replaced(manifest: &TopicManifest, removed: &[String], added: &[Entry]) -> Result<(Entries, Entries)> {
    let mut wanted: HashSet<&str> = removed.iter().map(String::as_str).collect();
    let mut places: Vec<Place> = Vec::with_capacity(manifest.entries.len() + added.len());
    for entry in &manifest.entries {
        let goes = match &entry.object {
            Some(object) => wanted.remove(object.path.as_str()),
            None => lies_within(entry, added),
        };
        places.push(Place { entry: Arc::clone(entry), goes });
    }
    if let Some(missing) = wanted.into_iter().next() {
        return Err(Error::Conflict { what: format!("object {missing}") });
    }
    let gone = places.iter().filter(|place| place.goes).map(|place| Arc::clone(&place.entry)).collect();
    for entry in added {
        let at = position_for(&places, entry);
        places.insert(at, Place { entry: Arc::new(entry.clone()), goes: false });
    }
    let entries = places.into_iter().filter(|place| !place.goes).map(|place| place.entry).collect();
    Ok((entries, gone))
}

/// Where the first went that it replaces, but behind everything that holds smaller offsets of its partitions.
fn position_for(places: &[Place], entry: &Entry) -> usize {
    let holds_some = |place: &Place| {
        place.goes
            && place.entry.covers.iter().any(|gone| {
                entry.cover(gone.partition).is_some_and(|cover| gone.start < cover.end && cover.start < gone.end)
            })
    };
    let comes_before = |place: &Place| {
        !place.goes
            && place
                .entry
                .covers
                .iter()
                .any(|other| entry.cover(other.partition).is_some_and(|cover| other.end <= cover.start))
    };
    let first = places.iter().position(holds_some).unwrap_or(places.len());
    let after = places.iter().rposition(comes_before).map_or(0, |at| at + 1);
    first.max(after)
}

/// Whether each of its covers is part of a cover of these.
fn lies_within(entry: &Entry, added: &[Entry]) -> bool {
    entry.covers.iter().all(|inner| {
        let outer = added.iter().filter_map(|entry| entry.cover(inner.partition));
        outer.into_iter().any(|outer| outer.start <= inner.start && inner.end <= outer.end)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::ids::TopicId;
    use crate::manifest::model::Lost;
    use crate::manifest::model::tests::entry;

    fn empty() -> TopicManifest {
        TopicManifest::empty(TopicId(Uuid::nil()))
    }

    /// Partition, first offset, first offset after it.
    type Range = (i32, i64, i64);

    fn manifest(entries: &[(&str, &[Range])]) -> TopicManifest {
        entries.iter().fold(empty(), |manifest, (name, covers)| manifest.with(Edit::Add(entry(name, covers))).unwrap())
    }

    fn merge(removed: &[&str], added: Vec<Entry>) -> Edit {
        let removed = removed.iter().map(|name| (*name).to_owned()).collect();
        Edit::Replace { removed, added, history_start_us: None }
    }

    fn names(manifest: &TopicManifest) -> Vec<&str> {
        manifest.entries.iter().filter_map(|entry| entry.object.as_ref()).map(|object| object.path.as_str()).collect()
    }

    #[test]
    fn neighbours_are_replaced_where_they_were() {
        let manifest = manifest(&[
            ("a", &[(0, 0, 10), (1, 0, 5)]),
            ("b", &[(0, 10, 20)]),
            ("c", &[(1, 5, 9)]),
            ("d", &[(0, 20, 30)]),
        ]);
        let merged = manifest.with(merge(&["a", "b"], vec![entry("ab", &[(0, 0, 20), (1, 0, 5)])])).unwrap();
        assert_eq!(names(&merged), ["ab", "c", "d"]);
        // Across one of another partition.
        let merged = manifest.with(merge(&["b", "d"], vec![entry("bd", &[(0, 10, 30)])])).unwrap();
        assert_eq!(names(&merged), ["a", "bd", "c"]);
        // By partition.
        let added = vec![entry("p0", &[(0, 0, 30)]), entry("p1", &[(1, 0, 9)])];
        let split = manifest.with(merge(&["a", "b", "c", "d"], added)).unwrap();
        assert_eq!(names(&split), ["p0", "p1"]);
        assert_eq!((split.tiered_end(0), split.tiered_end(1)), (30, 9));
        // Each would have to come before the other.
        let crossed = [("a", &[(0, 0, 10)][..]), ("b", &[(0, 10, 20), (1, 0, 10)]), ("c", &[(1, 10, 20)])];
        let crossed = crossed
            .iter()
            .fold(empty(), |manifest, (name, covers)| manifest.with(Edit::Add(entry(name, covers))).unwrap());
        let error = crossed.with(merge(&["a", "c"], vec![entry("ac", &[(0, 0, 10), (1, 10, 20)])])).unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    }

    #[test]
    fn a_replacement_covers_the_same_and_adds_no_row() {
        let manifest = manifest(&[("a", &[(0, 0, 10)]), ("b", &[(0, 10, 20)]), ("c", &[(0, 20, 30)])]);
        let refused = |edit: Edit, word: &str| {
            let error = manifest.with(edit).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        };
        refused(merge(&["a", "b"], vec![entry("ab", &[(0, 0, 19)])]), "cover");
        refused(merge(&["a", "b"], vec![entry("ab", &[(0, 0, 21)])]), "cover");
        refused(merge(&["a"], vec![]), "cover");
        refused(merge(&["a"], vec![entry("ab", &[(0, 0, 10), (1, 0, 1)])]), "cover");
        assert!(matches!(manifest.with(merge(&["a", "x"], vec![])), Err(Error::Conflict { .. })));
        let mut thin = entry("ab", &[(0, 0, 20)]);
        thin.object.as_mut().unwrap().row_groups[0].rows = 7;
        refused(merge(&["a", "b"], vec![thin.clone()]), "rows");
        let compacted =
            Edit::Replace { removed: vec!["a".into(), "b".into()], added: vec![thin], history_start_us: Some(77) };
        let compacted = manifest.with(compacted).unwrap();
        assert_eq!((names(&compacted), compacted.history_start_us), (vec!["ab", "c"], 77));
        // What was thinned does not grow again.
        let error = compacted.with(merge(&["ab"], vec![entry("fat", &[(0, 0, 20)])])).unwrap_err();
        assert!(error.to_string().contains("rows"), "{error}");
        let mut later = entry("ab", &[(0, 0, 20)]);
        later.object.as_mut().unwrap().row_groups[0].max_committed_at_us = 1 << 40;
        refused(merge(&["a", "b"], vec![later]), "times");
    }

    #[test]
    fn entries_without_an_object_go_with_their_neighbours_and_what_is_lost_stays_lost() {
        let lost = Lost { partition: 0, start: 12, end: 15, place: "log".to_owned() };
        let none = Entry { object: None, lost: vec![lost.clone()], ..entry("", &[(0, 10, 20)]) };
        let manifest = [entry("a", &[(0, 0, 10)]), none, entry("c", &[(0, 20, 30)])]
            .into_iter()
            .fold(empty(), |manifest, entry| manifest.with(Edit::Add(entry)).unwrap());
        let mut merged = entry("ac", &[(0, 0, 30)]);
        merged.object.as_mut().unwrap().row_groups[0].rows = 20;
        let error = manifest.with(merge(&["a", "c"], vec![merged.clone()])).unwrap_err();
        assert!(error.to_string().contains("lost"), "{error}");
        merged.lost = vec![lost];
        let merged = manifest.with(merge(&["a", "c"], vec![merged])).unwrap();
        assert_eq!(merged.entries.len(), 1);
    }

    #[test]
    fn trimming_removes_what_lies_wholly_below_and_never_goes_back() {
        let manifest = manifest(&[("a", &[(0, 0, 10), (1, 0, 10)]), ("b", &[(0, 10, 20)]), ("c", &[(0, 20, 30)])]);
        let trimmed = manifest.with(Edit::Trim { starts: vec![(0, 25)] }).unwrap();
        // `a` is held by the other partition; between it and `c` is nothing any more, and need not be.
        assert_eq!(names(&trimmed), ["a", "c"]);
        assert_eq!((trimmed.start(0), trimmed.start(1), trimmed.tiered_end(0)), (25, 0, 30));
        let trimmed = trimmed.with(Edit::Trim { starts: vec![(1, 10), (0, 3)] }).unwrap();
        assert_eq!((names(&trimmed), trimmed.start(0)), (vec!["c"], 25));
        let beyond = trimmed.with(Edit::Trim { starts: vec![(0, 40), (7, 5)] }).unwrap();
        assert_eq!((names(&beyond), beyond.start(0), beyond.tiered_end(0), beyond.tiered_end(7)), (vec![], 40, 40, 5));
        let overtaken = beyond.with(Edit::Add(entry("d", &[(0, 30, 50)])));
        assert!(matches!(overtaken, Err(Error::Conflict { .. })), "{overtaken:?}");
        assert_eq!(names(&beyond.with(Edit::Add(entry("d", &[(0, 40, 50)]))).unwrap()), ["d"]);
    }

    /// What a naive model knows: for each offset of two partitions the object that holds it.
    type Naive = [Vec<Option<String>>; 2];

    fn holders(manifest: &TopicManifest) -> Naive {
        let of = |partition: i32| {
            let ends = manifest.partitions.get(&partition).copied().unwrap_or(Ends { start: 0, end: 0 });
            let mut held = vec![None; usize::try_from(ends.end).unwrap()];
            for at in manifest.groups(partition, ends.start, ends.end) {
                for offset in at.group.first_offset.max(ends.start)..=at.group.last_offset {
                    let before = held[usize::try_from(offset).unwrap()].replace(at.object().unwrap().path.clone());
                    assert_eq!(before, None, "offset {offset} of {partition} is held twice");
                }
            }
            held
        };
        [of(0), of(1)]
    }

    #[derive(Clone, Debug)]
    enum Step {
        Add(i64, i64),
        Merge(usize, usize),
        Trim(i32, i64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0i64..6, 0i64..6).prop_map(|(one, two)| Step::Add(one, two)),
            2 => (0usize..30, 1usize..6).prop_map(|(from, count)| Step::Merge(from, count)),
            1 => (0i32..2, 0i64..40).prop_map(|(partition, start)| Step::Trim(partition, start)),
        ]
    }

    proptest! {
        /// Whatever edits come in whatever order, every offset from the start on is held by exactly the object that a map
        /// of offsets says.
        #[test]
        fn edits_do_what_they_do_to_a_map_of_offsets(steps in prop::collection::vec(step(), 0..60)) {
            let mut manifest = empty();
            let mut naive: Naive = [vec![], vec![]];
            let mut starts = [0i64; 2];
            for (number, step) in steps.into_iter().enumerate() {
                let name = number.to_string();
                match step {
                    Step::Add(one, two) => {
                        let covers = [(0, one), (1, two)].map(|(partition, length)| {
                            let start = manifest.tiered_end(partition);
                            (partition, start, start + length)
                        });
                        let held = covers.map(|(_, start, end)| (start..end).map(|_| Some(name.clone())));
                        for (naive, held) in naive.iter_mut().zip(held) {
                            naive.extend(held);
                        }
                        let covers: Vec<_> = covers.into_iter().filter(|(_, start, end)| start < end).collect();
                        if !covers.is_empty() {
                            manifest = manifest.with(Edit::Add(entry(&name, &covers))).unwrap();
                        }
                    }
                    Step::Merge(from, count) => {
                        let from = from.min(manifest.entries.len());
                        let gone = &manifest.entries[from..manifest.entries.len().min(from + count)];
                        let Some(edit) = merged(&name, gone) else { continue };
                        let Edit::Replace { removed, .. } = &edit else { continue };
                        for held in naive.iter_mut().flatten() {
                            if held.as_ref().is_some_and(|held| removed.contains(held)) {
                                *held = Some(name.clone());
                            }
                        }
                        manifest = manifest.with(edit).unwrap();
                    }
                    Step::Trim(partition, start) => {
                        let index = usize::try_from(partition).unwrap();
                        starts[index] = starts[index].max(start);
                        let length = naive[index].len().max(usize::try_from(start).unwrap());
                        naive[index].resize(length, None);
                        manifest = manifest.with(Edit::Trim { starts: vec![(partition, start)] }).unwrap();
                    }
                }
                for (held, start) in naive.iter_mut().zip(starts) {
                    let below = usize::try_from(start).unwrap().min(held.len());
                    held[..below].fill(None);
                }
                prop_assert_eq!(&holders(&manifest), &naive);
            }
        }
    }

    /// One object for what these hold, with as many rows; `None` if there is nothing to merge, or a hole between them.
    fn merged(name: &str, gone: &[Arc<Entry>]) -> Option<Edit> {
        let mut hulls: std::collections::BTreeMap<i32, (i64, i64)> = std::collections::BTreeMap::new();
        for cover in gone.iter().flat_map(|entry| &entry.covers) {
            let hull = hulls.entry(cover.partition).or_insert((cover.start, cover.start));
            if hull.1 != cover.start {
                return None;
            }
            hull.1 = cover.end;
        }
        let removed: Vec<_> =
            gone.iter().filter_map(|entry| entry.object.as_ref()).map(|object| object.path.clone()).collect();
        if removed.is_empty() {
            return None;
        }
        let covers: Vec<_> = hulls.into_iter().map(|(partition, (start, end))| (partition, start, end)).collect();
        Some(Edit::Replace { removed, added: vec![entry(name, &covers)], history_start_us: None })
    }
}
