//! Keyed state: of each topic that backs a table with a primary key, the latest record of each key in each partition, so
//! that looking a row up costs the same however large the table is.
//!
//! It is derived, and lies in `state/` below the data directory; it may be deleted at any time the node is not running, and
//! need not be part of a copy. What holds:
//! - **It may lag, never lead.** An entry is of a record below the last stable offset when it was read, so the record is
//!   durable and no aborted one. Entries and the position they reach are written in one atomic batch.
//! - **A look-up equals a scan** of the same snapshot ([`lookup`] says why): the view is taken before the pin, and what lies
//!   between its position and the pinned end is read from the log.
//! - **Compaction changes nothing here**: it removes what is not the latest of its key in its partition, or a tombstone, and
//!   neither has an entry. **A moved log start** takes entries with it: those of records below the start are passed over when
//!   they are read, and swept later.
//! - Keys are bytes, as SQL would write them ([`form`](crate::record::form)). Of a record that has them otherwise its place is
//!   kept, and the record read.
//!
//! Which topics: SQL knows ([`KeyedTables`]). [`build`] follows them in the background.

mod build;
mod entry;
mod lookup;
mod store;

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::path::Path;
use std::sync::{Arc, Weak};

use parking_lot::RwLock;

use crate::ids::{TopicId, TopicPartition};
use crate::log::Node;
use crate::record::format::RecordFormat;
use crate::state::build::{Builder, Keyed};
use crate::state::store::Part;
use crate::tier::Tier;
use crate::worker::Loop;

pub(crate) use lookup::LookUp;
pub(crate) use store::View;

/// Name of the directory.
const DIR: &str = "state";

/// What knows which topics back tables with a primary key; asked again and again, and no more once it is gone.
pub trait KeyedTables: Debug + Send + Sync {
    /// Those topics, and how their keys decode.
    fn keyed_topics(&self) -> Vec<(TopicId, RecordFormat)>;
}

/// The parts that can be read, and who says which there should be.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    told_by: RwLock<Option<Weak<dyn KeyedTables>>>,
    open: RwLock<HashMap<TopicId, Arc<Part>>>,
}

impl Parts {
    /// The topics wanted that are there; `None` while nobody says, at the start and at the end.
    fn keyed(&self, node: &Node) -> Option<Vec<Keyed>> {
        let told_by = self.told_by.read().as_ref().and_then(Weak::upgrade)?;
        let topics = told_by.keyed_topics().into_iter();
        Some(topics.filter_map(|(topic, format)| Some((node.topic_by_id(topic)?, format))).collect())
    }

    fn insert(&self, part: Arc<Part>) {
        self.open.write().insert(part.topic, part);
    }

    fn remove(&self, topic: TopicId) {
        self.open.write().remove(&topic);
    }

    fn retain(&self, wanted: &HashSet<TopicId>) {
        self.open.write().retain(|topic, _| wanted.contains(topic));
    }

    fn clear(&self) {
        self.open.write().clear();
    }
}

/// The keyed state of a node.
#[derive(Debug)]
pub(crate) struct State {
    parts: Arc<Parts>,
    work: Loop,
}

impl State {
    /// Starts to follow; nothing is made before there is something to keep.
    pub(crate) fn start(node: &Arc<Node>, tier: &Arc<Tier>, data_dir: &Path) -> Self {
        let parts = Arc::new(Parts::default());
        let dir = data_dir.join(DIR);
        // Before anything new is written: what is ahead of this is of another history.
        let ends = if dir.exists() { ends_of(node) } else { HashMap::new() };
        let (node, tier, shared) = (Arc::downgrade(node), Arc::downgrade(tier), Arc::clone(&parts));
        let work = Loop::start("keyed state", move |stop| {
            let (store, building) = (None, HashMap::new());
            Builder { node, tier, dir, parts: shared, ends, stop, store, building }.run()
        });
        Self { parts, work }
    }

    /// From now on the state of those topics is kept that `by` knows of.
    pub(crate) fn keep(&self, by: Weak<dyn KeyedTables>) {
        *self.parts.told_by.write() = Some(by);
    }

    /// The parts of these topics as they are now. To be taken before the topics are pinned.
    pub(crate) fn views(&self, topics: &[TopicId]) -> HashMap<TopicId, View> {
        let open = self.parts.open.read();
        topics.iter().filter_map(|topic| Some((*topic, View::of(open.get(topic)?)))).collect()
    }

    /// Stops following and closes the store.
    pub(crate) async fn close(&self) {
        self.work.stop().await;
    }
}

fn ends_of(node: &Node) -> HashMap<TopicPartition, i64> {
    let topics = node.topics();
    let places = topics
        .iter()
        .flat_map(|topic| (0..topic.partitions).map(|partition| TopicPartition { topic: topic.id, partition }));
    // A topic may be gone by now: then it has no end.
    places.filter_map(|place| Some((place, node.watermarks(place).ok()?.high_watermark))).collect()
}
