//! `Groups`: row groups decoded for consumers that are behind. Each is read once however many want it at a time, and the
//! next one before it is asked for.
//!
//! A consumer takes a row group in several fetches. While it takes one, the next is read and decoded, so that it waits for
//! the object store at the beginning only. Reading ahead is for those who read in order: a fetch goes on where another
//! ended, or begins where a row group does. It is bounded for the whole node, and so are reads that somebody waits for.
//!
//! A read goes on when nobody waits for it any more: whoever gave up comes back for it.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use futures::future::{BoxFuture, FutureExt, Shared};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::error::{Error, Result};
use crate::ids::TopicPartition;
use crate::manifest::model::GroupAt;
use crate::object::cache::Cache;
use crate::record::columns::RecordColumn;
use crate::scan::parquet;
use crate::tier::cold::Cold;
use crate::view::CacheInfo;
use crate::worker;

/// What a record is made of.
pub(crate) const COLUMNS: [RecordColumn; 6] = [
    RecordColumn::Offset,
    RecordColumn::Timestamp,
    RecordColumn::TimestampType,
    RecordColumn::Key,
    RecordColumn::Value,
    RecordColumn::Headers,
];

/// Row groups that are read and decoded at once because somebody waits; a row group is some 4 MiB.
const READS_MAX: usize = 16;

/// Row groups that are read and decoded at once before anybody asks.
const AHEAD_MAX: usize = 8;

/// Consumers whose next fetch is remembered.
const EXPECTED_MAX: usize = 16 << 10;

/// A row group by its object's name and its number in it.
type GroupKey = (String, usize);

type Answer = Shared<BoxFuture<'static, Result<Arc<RecordBatch>>>>;

/// See the top of this file.
#[derive(Debug)]
pub(crate) struct Groups {
    decoded: Cache<GroupKey, Arc<RecordBatch>>,
    /// Held for a look-up or a change only, never while reading.
    under_way: Mutex<HashMap<GroupKey, Answer>>,
    reads: Arc<Semaphore>,
    ahead: Arc<Semaphore>,
    /// Where fetches have ended lately.
    expected: Cache<(TopicPartition, i64), ()>,
}

impl Groups {
    /// None yet; at most `bytes_max` are kept.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            decoded: Cache::new(bytes_max),
            under_way: Mutex::default(),
            reads: Arc::new(Semaphore::new(READS_MAX)),
            ahead: Arc::new(Semaphore::new(AHEAD_MAX)),
            expected: Cache::new(EXPECTED_MAX),
        }
    }

    /// How the cache of row groups does.
    pub(crate) fn info(&self) -> CacheInfo {
        self.decoded.info("row_groups")
    }

    /// Whether a fetch has ended here: then this one goes on with it.
    pub(crate) fn expects(&self, partition: TopicPartition, offset: i64) -> bool {
        self.expected.get(&(partition, offset)).is_some()
    }

    /// A fetch has ended before `offset`.
    pub(crate) fn expect(&self, partition: TopicPartition, offset: i64) {
        self.expected.insert((partition, offset), (), 1);
    }
}

/// A row group with all that a record is made of.
pub(crate) async fn get(cold: &Arc<Cold>, at: &GroupAt) -> Result<Arc<RecordBatch>> {
    let key = key_of(at);
    match cold.groups.decoded.get(&key) {
        Some(known) => Ok(known),
        None => start(cold, at, key, None).await,
    }
}

/// Begins to read a row group that somebody will ask for, if there is room for it.
pub(crate) fn read_ahead(cold: &Arc<Cold>, at: &GroupAt) {
    let key = key_of(at);
    if cold.groups.decoded.holds(&key) || cold.groups.under_way.lock().contains_key(&key) {
        return;
    }
    let Ok(room) = Arc::clone(&cold.groups.ahead).try_acquire_owned() else { return };
    metrics::counter!("aquifer_cold_read_ahead_total").increment(1);
    drop(start(cold, at, key, Some(room)));
}

fn key_of(at: &GroupAt) -> GroupKey {
    (at.object().map(|object| object.path.clone()).unwrap_or_default(), at.ordinal)
}

/// Begins a read, or joins the one that is under way.
fn start(cold: &Arc<Cold>, at: &GroupAt, key: GroupKey, room: Option<OwnedSemaphorePermit>) -> Answer {
    let mut under_way = cold.groups.under_way.lock();
    if let Some(answer) = under_way.get(&key) {
        return answer.clone();
    }
    let (tell, told) = oneshot::channel();
    let answer = told.map(|told| told.unwrap_or(Err(Error::Closed))).boxed().shared();
    under_way.insert(key.clone(), answer.clone());
    let (cold, at) = (Arc::clone(cold), at.clone());
    drop(worker::spawn(async move {
        let mut under_way = UnderWay { groups: &cold.groups, key: Some(key) };
        let rows = read(&cold, &at, room).await;
        under_way.done(rows.as_ref().ok());
        // Nobody may wait any more.
        let _ = tell.send(rows);
    }));
    answer
}

async fn read(cold: &Cold, at: &GroupAt, room: Option<OwnedSemaphorePermit>) -> Result<Arc<RecordBatch>> {
    let of_reads = match &room {
        Some(_) => None,
        None => Some(cold.groups.reads.acquire().await.map_err(|_| Error::Closed)?),
    };
    let rows = parquet::read_group(cold, at, &COLUMNS).await;
    drop((room, of_reads));
    rows.map(Arc::new)
}

/// A read that is under way; none any more when this is dropped, however it ended.
struct UnderWay<'a> {
    groups: &'a Groups,
    key: Option<GroupKey>,
}

impl UnderWay<'_> {
    fn done(&mut self, rows: Option<&Arc<RecordBatch>>) {
        let Some(key) = self.key.take() else { return };
        if let Some(rows) = rows {
            self.groups.decoded.insert(key.clone(), Arc::clone(rows), rows.get_array_memory_size());
        }
        self.groups.under_way.lock().remove(&key);
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.done(None);
    }
}
