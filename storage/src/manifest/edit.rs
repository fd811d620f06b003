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
use crate::manifest::model::{ChunkRef, Cover, Ends, Entry, Gone, TopicManifest};

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
        /// The newest commit time, us, of what goes.
        history_start_us: Option<i64>,
    },
}

impl Edit {
    /// Names of the objects it brings.
    pub(crate) fn added(&self) -> Vec<String> {
        let entries = match self {
            Self::Add(entry) => std::slice::from_ref(entry),
            Self::Replace { added, .. } => added,
            Self::Trim { .. } => &[],
        };
        entries.iter().filter_map(|entry| entry.object.as_ref()).map(|object| object.path.clone()).collect()
    }
}

/// A part of a manifest while it is edited: a chunk nobody need look into, or an entry.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    /// As it is.
    Chunk(Arc<ChunkRef>),
    /// Of a chunk that was opened, or of the tail.
    Entry(Arc<Entry>),
}

impl Item {
    /// What it covers.
    pub(crate) fn covers(&self) -> &[Cover] {
        match self {
            Self::Chunk(chunk) => &chunk.summary.covers,
            Self::Entry(entry) => &entry.covers,
        }
    }
}

/// Which chunks an edit has to look into, and which entries it takes away.
#[derive(Debug)]
pub(crate) enum Hit {
    /// None.
    Nothing,
    /// These objects, and entries without an object within these covers.
    Named {
        /// Of the objects.
        names: HashSet<String>,
        /// What comes instead.
        added: Vec<Entry>,
    },
    /// What lies wholly below the starts of this manifest.
    BelowStarts(TopicManifest),
}

impl Hit {
    /// Of an edit that has been begun.
    pub(crate) fn of(edit: &Edit, next: &TopicManifest) -> Self {
        match edit {
            Edit::Add(_) => Self::Nothing,
            Edit::Replace { removed, added, .. } => {
                Self::Named { names: removed.iter().cloned().collect(), added: added.clone() }
            }
            Edit::Trim { .. } => Self::BelowStarts(next.clone()),
        }
    }

    /// Whether it takes the whole chunk, so that nobody need look into it.
    pub(crate) fn takes(&self, chunk: &ChunkRef) -> bool {
        matches!(self, Self::BelowStarts(next) if next.is_below_starts(&chunk.summary.covers))
    }

    /// Whether it may take something of the chunk.
    pub(crate) fn may_take_of(&self, chunk: &ChunkRef) -> bool {
        let covers = &chunk.summary.covers;
        match self {
            Self::Nothing => false,
            Self::Named { added, .. } => {
                added.iter().flat_map(|entry| &entry.covers).any(|cover| overlap(covers, cover))
            }
            Self::BelowStarts(next) => covers.iter().any(|cover| cover.start < next.start(cover.partition)),
        }
    }

    /// Whether it takes the entry.
    pub(crate) fn takes_entry(&self, entry: &Entry) -> bool {
        match (self, &entry.object) {
            (Self::Nothing, _) => false,
            (Self::Named { names, .. }, Some(object)) => names.contains(&object.path),
            (Self::Named { added, .. }, None) => lies_within(entry, added),
            (Self::BelowStarts(next), _) => next.is_below_starts(&entry.covers),
        }
    }
}

/// Moves the ends as the edit asks for; what is held is edited by [`apply`].
///
/// # Errors
/// [`Error::Conflict`] if the manifest has moved on from what the edit was made for, [`Error::Corrupt`] naming the
/// invariant that would break.
pub(crate) fn begin(next: &mut TopicManifest, edit: &Edit) -> Result<()> {
    match edit {
        Edit::Add(entry) => {
            invariant::entry_is_sound(next.topic, entry)?;
            for cover in &entry.covers {
                let fresh = Ends { start: cover.start, end: cover.start };
                let ends = next.partitions.entry(cover.partition).or_insert(fresh);
                if cover.start < ends.end {
                    let what = format!("the tiered end of partition {} of topic {}", cover.partition, next.topic);
                    return Err(Error::Conflict { what });
                }
                invariant::cover_follows(next.topic, *ends, cover)?;
                ends.end = cover.end;
            }
        }
        Edit::Replace { added, history_start_us, .. } => {
            invariant::replacement_covers(next.topic, added)?;
            for entry in added {
                invariant::entry_is_sound(next.topic, entry)?;
            }
            next.history_start_us = next.history_start_us.max(history_start_us.unwrap_or(i64::MIN));
        }
        Edit::Trim { starts, history_start_us } => {
            next.history_start_us = next.history_start_us.max(history_start_us.unwrap_or(i64::MIN));
            for (partition, start) in starts {
                let ends = next.partitions.entry(*partition).or_insert(Ends { start: *start, end: *start });
                ends.start = ends.start.max(*start);
                ends.end = ends.end.max(ends.start);
            }
        }
    }
    Ok(())
}

/// The items after an edit that has been begun, and what went; all that it may take has been opened.
///
/// # Errors
/// As [`begin`].
pub(crate) fn apply(next: &TopicManifest, items: Vec<Item>, edit: Edit, hit: &Hit) -> Result<(Vec<Item>, Vec<Gone>)> {
    let mut places: Vec<Place> = Vec::with_capacity(items.len() + 1);
    for item in items {
        let goes = match &item {
            Item::Chunk(chunk) => hit.takes(chunk),
            Item::Entry(entry) => hit.takes_entry(entry),
        };
        places.push(Place { item, goes });
    }
    match edit {
        Edit::Add(entry) => places.push(Place { item: Item::Entry(Arc::new(entry)), goes: false }),
        Edit::Replace { removed, added, history_start_us } => {
            let gone: Vec<_> = places.iter().filter_map(Place::entry_that_goes).collect();
            all_are_found(&removed, &gone)?;
            invariant::replacement_is_sound(next, &gone, &added, history_start_us)?;
            for entry in added {
                let at = position_for(&places, &entry);
                places.insert(at, Place { item: Item::Entry(Arc::new(entry)), goes: false });
            }
        }
        Edit::Trim { .. } => {}
    }
    let (mut kept, mut gone) = (Vec::with_capacity(places.len()), Vec::new());
    for Place { item, goes } in places {
        match item {
            item if !goes => kept.push(item),
            Item::Chunk(chunk) => gone.push(Gone::Below(chunk.name)),
            Item::Entry(entry) => gone.extend(entry.object.as_ref().map(|object| Gone::Object(object.path.clone()))),
        }
    }
    invariant::offsets_are_covered_once(next, kept.iter().map(Item::covers))?;
    Ok((kept, gone))
}

/// An item while an edit is applied.
struct Place {
    item: Item,
    goes: bool,
}

impl Place {
    fn entry_that_goes(&self) -> Option<Arc<Entry>> {
        match &self.item {
            Item::Entry(entry) if self.goes => Some(Arc::clone(entry)),
            _ => None,
        }
    }
}

fn all_are_found(removed: &[String], gone: &[Arc<Entry>]) -> Result<()> {
    let found: HashSet<&str> =
        gone.iter().filter_map(|entry| entry.object.as_ref()).map(|object| object.path.as_str()).collect();
    match removed.iter().find(|name| !found.contains(name.as_str())) {
        Some(missing) => Err(Error::Conflict { what: format!("object {missing}") }),
        None => Ok(()),
    }
}

/// Where the first went that it replaces, but behind everything that holds smaller offsets of its partitions.
fn position_for(places: &[Place], entry: &Entry) -> usize {
    let holds_some = |place: &Place| place.goes && entry.covers.iter().any(|cover| overlap(place.item.covers(), cover));
    let comes_before = |place: &Place| {
        !place.goes
            && place
                .item
                .covers()
                .iter()
                .any(|other| entry.cover(other.partition).is_some_and(|cover| other.end <= cover.start))
    };
    let first = places.iter().position(holds_some).unwrap_or(places.len());
    let after = places.iter().rposition(comes_before).map_or(0, |at| at + 1);
    first.max(after)
}

/// Whether a cover shares an offset with some of these, which are in the order of their partitions.
fn overlap(covers: &[Cover], cover: &Cover) -> bool {
    let at = covers.binary_search_by_key(&cover.partition, |other| other.partition);
    at.ok().and_then(|at| covers.get(at)).is_some_and(|other| other.start < cover.end && cover.start < other.end)
}

/// Whether each of its covers is part of a cover of these.
fn lies_within(entry: &Entry, added: &[Entry]) -> bool {
    entry.covers.iter().all(|inner| {
        let outer = added.iter().filter_map(|entry| entry.cover(inner.partition));
        outer.into_iter().any(|outer| outer.start <= inner.start && inner.end <= outer.end)
    })
}
