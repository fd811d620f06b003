//! `Blocks`: rows of the log with their declared columns, decoded once and shared by all scans that want them.
//!
//! A block is some neighbouring offsets of one partition under one declaration. What lies below a last stable offset never
//! changes as long as the process lives: what was aborted stays aborted, a commit time is what it is, and an offset of a
//! topic's id is given once. So a block only grows at its end, and nothing is ever made invalid. Which of its rows a scan is
//! given is the scan's own snapshot's to say: a block is cut to what that has pinned, whoever decoded it.
//!
//! Kept are the blocks that were used last, within `cache.hot_bytes_max`. A block whose records are so large that few
//! blocks would fill that is read anew each time, as is whatever a scan wants only a little of. Who reads raw records in
//! passing shares them too ([`share`](super::share)).

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::compute::concat_batches;
use arrow::datatypes::Int64Type;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use futures::future::{BoxFuture, FutureExt, Shared, WeakShared};
use futures::{StreamExt, TryStreamExt, stream};
use parking_lot::{Mutex, MutexGuard};

use crate::error::{Error, Result};
use crate::ids::TopicPartition;
use crate::log::HotRange;
use crate::manifest::model::Wanted;
use crate::object::cache::Cache;
use crate::record::batch::BatchLimits;
use crate::record::columns::RecordColumn;
use crate::record::format::{Decoded, RecordFormat};
use crate::scan::hot;
use crate::scan::request::{Asked, decoder};
use crate::view::{CacheInfo, DeclaredScan, DecodedStream};

/// Offsets of a block: as many rows as a query takes at once.
pub(super) const BLOCK_OFFSETS: i64 = 8 << 10;

/// Bytes of decoded rows that a block may have to be kept.
const BLOCK_BYTES_MAX: usize = 16 << 20;

/// Who decodes in passing waits for who does at the same time, for one of so many groups of partitions.
const TURNS: usize = 16;

/// What is kept of a block that is too large.
const DEAR_BYTES: usize = 256;

/// Raw columns that a block has in front of the declared ones; keys, values and headers are in neither.
pub(super) const CARRIED: [RecordColumn; 5] = [
    RecordColumn::Offset,
    RecordColumn::Partition,
    RecordColumn::Timestamp,
    RecordColumn::TimestampType,
    RecordColumn::CommittedAt,
];

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct BlockKey {
    pub(super) partition: TopicPartition,
    /// The block's first offset in blocks.
    pub(super) number: i64,
    /// See [`declaration_of`].
    pub(super) declaration: Arc<[u8]>,
}

/// A declaration, written out.
///
/// # Errors
/// [`Error::Format`]; then it is a bug.
pub(super) fn declaration_of(format: &RecordFormat) -> Result<Arc<[u8]>> {
    Ok(serde_json::to_vec(format).map_err(Error::format("write a declaration"))?.into())
}

#[derive(Clone, Debug)]
enum Kept {
    Rows(Arc<Block>),
    /// Too large.
    Dear,
}

/// Decoded rows of some neighbouring offsets.
#[derive(Debug)]
struct Block {
    offsets: Range<i64>,
    /// In offset order, none empty.
    portions: Vec<Arc<Decoded>>,
    bytes: usize,
}

/// `None`: too large to be kept.
type Decoding = BoxFuture<'static, Result<Option<Arc<Block>>>>;

type Answer = Shared<Decoding>;

/// See the top of this file.
#[derive(Debug)]
pub(crate) struct Blocks {
    kept: Cache<BlockKey, Kept>,
    /// Being decoded, to which end; held for a look-up or a change only. Work goes on as long as somebody waits for it.
    under_way: Mutex<HashMap<(BlockKey, i64), WeakShared<Decoding>>>,
    turns: [Mutex<()>; TURNS],
}

impl Blocks {
    /// None yet; at most so many bytes are kept.
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self {
            kept: Cache::new(usize::try_from(bytes_max).unwrap_or(usize::MAX)),
            under_way: Mutex::default(),
            turns: Default::default(),
        }
    }

    /// Held while records of a partition are decoded in passing, so that two who do so decode them once.
    pub(super) fn turn(&self, partition: TopicPartition) -> MutexGuard<'_, ()> {
        self.turns[usize::try_from(partition.partition).unwrap_or(0) % TURNS].lock()
    }

    /// How it does.
    pub(crate) fn info(&self) -> CacheInfo {
        self.kept.info("hot_rows")
    }
}

/// What a scan may read of one partition's log.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) blocks: Arc<Blocks>,
    pub(super) hot: HotRange,
    /// The first offset that is pinned and read from the log.
    pub(super) floor: i64,
    pub(super) limits: BatchLimits,
}

/// One scan of one partition.
struct Reader {
    source: Source,
    asked: Arc<Asked>,
    declared: DeclaredScan,
    declaration: Arc<[u8]>,
    /// Where the columns asked for stand in a block.
    columns: Vec<usize>,
    wanted: Wanted,
}

/// Rows of what is wanted, by blocks; `None` if blocks do not have what is asked for.
pub(super) fn rows(source: Source, asked: &Arc<Asked>, wanted: Wanted) -> Result<Option<DecodedStream>> {
    let Some(declared) = &asked.declared else { return Ok(None) };
    let Some(columns) = columns(&asked.raw, declared) else { return Ok(None) };
    if wanted.committed_min_us.is_some() || wanted.start >= wanted.end {
        return Ok(None);
    }
    let declaration = declaration_of(&declared.format)?;
    let reader =
        Arc::new(Reader { source, asked: Arc::clone(asked), declared: declared.clone(), declaration, columns, wanted });
    let numbers = wanted.start.div_euclid(BLOCK_OFFSETS)..=(wanted.end - 1).div_euclid(BLOCK_OFFSETS);
    let blocks = stream::iter(numbers).then(move |number| {
        let reader = Arc::clone(&reader);
        async move { reader.block(number).await }
    });
    Ok(Some(blocks.try_flatten().boxed()))
}

/// Where the columns asked for stand in a block, the mark of tombstones last; `None` if a block has not all of them.
fn columns(raw: &[RecordColumn], declared: &DeclaredScan) -> Option<Vec<usize>> {
    let carried = raw.iter().map(|column| CARRIED.iter().position(|carried| carried == column));
    let declared_at = |index: &usize| Some(CARRIED.len() + index);
    let mut columns = carried.chain(declared.wanted.iter().map(declared_at)).collect::<Option<Vec<_>>>()?;
    if declared.format.tombstones {
        columns.push(CARRIED.len() + declared.format.columns.len());
    }
    Some(columns)
}

impl Reader {
    /// The rows wanted of one block.
    async fn block(&self, number: i64) -> Result<DecodedStream> {
        let whole = number * BLOCK_OFFSETS..(number + 1) * BLOCK_OFFSETS;
        let wanted = self.wanted.start.max(whole.start)..self.wanted.end.min(whole.end);
        if !self.may_hold(&wanted) {
            return Ok(stream::empty().boxed());
        }
        let key = BlockKey { partition: self.source.hot.partition, number, declaration: Arc::clone(&self.declaration) };
        let known = match self.source.blocks.kept.get(&key) {
            Some(Kept::Dear) => return self.read(wanted),
            Some(Kept::Rows(block)) => Some(block).filter(|block| block.offsets.contains(&wanted.start)),
            None => None,
        };
        if let Some(block) = known.as_ref().filter(|block| block.offsets.end >= wanted.end) {
            return Ok(self.shared(block, wanted));
        }
        let readable = self.source.floor.max(whole.start)..self.source.hot.end.min(whole.end);
        let is_much = (wanted.end - wanted.start) * 2 >= readable.end - readable.start;
        if self.asked.hasty || !is_much {
            let from = known.as_ref().map_or(wanted.start, |block| block.offsets.end);
            let rest = self.read(from..wanted.end)?;
            return Ok(match known {
                Some(block) => self.shared(&block, wanted.start..from).chain(rest).boxed(),
                None => rest,
            });
        }
        // What damages a block may lie outside of what is wanted.
        match self.grown(key, known, readable).await {
            Ok(Some(block)) if block.offsets.start <= wanted.start && block.offsets.end >= wanted.end => {
                Ok(stream::iter(self.cut(&block, &wanted)).boxed())
            }
            Ok(_) | Err(_) => self.read(wanted),
        }
    }

    /// Whether rows among these offsets may be of interest, by their time.
    fn may_hold(&self, offsets: &Range<i64>) -> bool {
        self.source.hot.stretches.iter().map(|stretch| &stretch.stretch).any(|stretch| {
            stretch.base_offset < offsets.end
                && stretch.last_offset >= offsets.start
                && self.wanted.may_hold(i64::MIN, stretch.max_timestamp_ms)
                && self.wanted.may_hold_commits(stretch.first_commit_us, i64::MAX)
        })
    }

    /// Rows decoded for this scan alone.
    fn read(&self, offsets: Range<i64>) -> Result<DecodedStream> {
        let wanted = Wanted { start: offsets.start, end: offsets.end, ..self.wanted };
        hot::decoded(&self.source.hot, &self.asked, wanted, self.source.limits)
    }

    fn shared(&self, block: &Block, offsets: Range<i64>) -> DecodedStream {
        let cut = self.cut(block, &offsets);
        let rows = cut.iter().flatten().map(|decoded| decoded.rows.num_rows()).sum();
        self.asked.meter.hot_rows_shared(rows);
        stream::iter(cut).boxed()
    }

    /// The columns asked for of a block's rows at these offsets.
    fn cut(&self, block: &Block, offsets: &Range<i64>) -> Vec<Result<Decoded>> {
        let mut cut = Vec::new();
        for decoded in block.at(offsets) {
            self.asked.meter.hot_rows(length_of(&decoded));
            let Decoded { rows, errors } = decoded;
            let mut errors = Some(errors).filter(|errors| !errors.is_empty());
            for start in (0..rows.num_rows()).step_by(self.asked.batch_rows) {
                let rows = rows.slice(start, self.asked.batch_rows.min(rows.num_rows() - start));
                cut.push(self.arranged(&rows).map(|rows| Decoded { rows, errors: errors.take().unwrap_or_default() }));
            }
            if let Some(errors) = errors {
                let rows = RecordBatch::new_empty(Arc::clone(&self.asked.schema));
                cut.push(Ok(Decoded { rows, errors }));
            }
        }
        cut
    }

    fn arranged(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        let columns = self.columns.iter().map(|index| Arc::clone(rows.column(*index))).collect();
        RecordBatch::try_new_with_options(Arc::clone(&self.asked.schema), columns, &options)
            .map_err(Error::format("share decoded rows"))
    }

    /// A block with all that is readable of it, decoded now as far as it is not `known`.
    async fn grown(
        &self,
        key: BlockKey,
        known: Option<Arc<Block>>,
        readable: Range<i64>,
    ) -> Result<Option<Arc<Block>>> {
        let place = (key.clone(), readable.end);
        let answer = {
            let mut under_way = self.source.blocks.under_way.lock();
            match under_way.get(&place).and_then(WeakShared::upgrade) {
                Some(answer) => answer,
                None => {
                    let (source, format) = (self.source.clone(), Arc::clone(&self.declared.format));
                    let answer: Answer = async move {
                        let grown = grow(&source, &format, known, readable).await;
                        if let Ok(grown) = &grown {
                            source.blocks.keep(key, grown.as_ref());
                        }
                        grown
                    }
                    .boxed()
                    .shared();
                    // What nobody waits for any more is forgotten here.
                    under_way.retain(|_, answer| answer.upgrade().is_some());
                    under_way.extend(answer.downgrade().map(|answer| (place, answer)));
                    answer
                }
            }
        };
        answer.await
    }
}

impl Block {
    /// Of these portions; `None` if they are too large.
    fn of(offsets: Range<i64>, portions: Vec<Arc<Decoded>>) -> Result<Option<Arc<Self>>> {
        let portions = put_together(portions)?;
        let bytes = portions.iter().map(|portion| bytes_of(portion)).sum();
        Ok((bytes <= BLOCK_BYTES_MAX).then(|| Arc::new(Self { offsets, portions, bytes })))
    }

    /// What it has of these offsets.
    fn at(&self, offsets: &Range<i64>) -> impl Iterator<Item = Decoded> {
        self.portions.iter().map(|portion| part_of(portion, offsets))
    }
}

/// The rows and errors at these offsets of rows that have their offset in front.
pub(super) fn part_of(decoded: &Decoded, offsets: &Range<i64>) -> Decoded {
    let places = decoded.rows.column(0).as_primitive::<Int64Type>().values();
    let first = places.partition_point(|offset| *offset < offsets.start);
    let end = places.partition_point(|offset| *offset < offsets.end);
    let errors = decoded.errors.iter().filter(|error| offsets.contains(&error.offset)).cloned().collect();
    Decoded { rows: decoded.rows.slice(first, end - first), errors }
}

impl Blocks {
    /// What there is of offsets of one block, if all of them have been decoded.
    pub(super) fn find(&self, key: &BlockKey, offsets: &Range<i64>) -> Option<Vec<Decoded>> {
        let Some(Kept::Rows(block)) = self.kept.get(key) else { return None };
        let has = block.offsets.start <= offsets.start && block.offsets.end >= offsets.end;
        has.then(|| block.at(offsets).collect())
    }

    /// Takes in what somebody has decoded of a block: all that there is of these offsets.
    ///
    /// # Errors
    /// [`Error::Format`]; then it is a bug.
    pub(super) fn offer(&self, key: BlockKey, offsets: &Range<i64>, decoded: &Decoded) -> Result<()> {
        let (start, mut portions) = match self.kept.peek(&key) {
            Some(Kept::Dear) => return Ok(()),
            Some(Kept::Rows(known)) if known.offsets.end >= offsets.end => return Ok(()),
            Some(Kept::Rows(known)) if (known.offsets.start..=known.offsets.end).contains(&offsets.start) => {
                (known.offsets.start, known.portions.clone())
            }
            _ => (offsets.start, Vec::new()),
        };
        let known_end = portions.last().map_or(start, |last| end_of(last).max(start));
        portions.push(Arc::new(part_of(decoded, &(known_end..offsets.end))));
        let grown = Block::of(start..offsets.end, portions)?;
        self.keep(key, grown.as_ref());
        Ok(())
    }

    fn keep(&self, key: BlockKey, grown: Option<&Arc<Block>>) {
        let Some(block) = grown else {
            self.kept.insert(key, Kept::Dear, DEAR_BYTES);
            return;
        };
        // Somebody with a newer snapshot may have been faster.
        let is_longer = |kept: &Kept| match kept {
            Kept::Rows(kept) => kept.offsets.start <= block.offsets.start && kept.offsets.end > block.offsets.end,
            Kept::Dear => false,
        };
        if !self.kept.peek(&key).is_some_and(|kept| is_longer(&kept)) {
            self.kept.insert(key, Kept::Rows(Arc::clone(block)), block.bytes);
        }
    }
}

/// Decodes what is readable of a block and not known.
async fn grow(
    source: &Source,
    format: &Arc<RecordFormat>,
    known: Option<Arc<Block>>,
    readable: Range<i64>,
) -> Result<Option<Arc<Block>>> {
    let declared = DeclaredScan { format: Arc::clone(format), wanted: (0..format.columns.len()).collect() };
    let (raw, mut decoder) = decoder(&CARRIED, &declared)?;
    let (from, mut portions) = match &known {
        Some(known) => (known.offsets.end, known.portions.clone()),
        None => (readable.start, Vec::new()),
    };
    let start = known.as_ref().map_or(readable.start, |known| known.offsets.start);
    let mut bytes = known.as_ref().map_or(0, |known| known.bytes);
    let batch_rows = usize::try_from(BLOCK_OFFSETS).unwrap_or(usize::MAX);
    let rows = hot::rows(&source.hot, &raw, Wanted::offsets(from, readable.end), batch_rows, source.limits);
    futures::pin_mut!(rows);
    while let Some(rows) = rows.try_next().await? {
        let decoded = decoder.decode(&rows)?;
        bytes += bytes_of(&decoded);
        if bytes > BLOCK_BYTES_MAX {
            return Ok(None);
        }
        portions.push(Arc::new(decoded));
    }
    Block::of(start..readable.end, portions)
}

/// Portions without empty ones, each more than twice as long as the next: a row is copied a few times however many
/// portions its block grows by.
fn put_together(portions: Vec<Arc<Decoded>>) -> Result<Vec<Arc<Decoded>>> {
    let mut shorter: Vec<Arc<Decoded>> = Vec::new();
    for portion in portions {
        if portion.rows.num_rows() == 0 && portion.errors.is_empty() {
            continue;
        }
        let mut last = portion;
        while let Some(before) = shorter.pop_if(|before| length_of(before) <= 2 * length_of(&last)) {
            let rows = concat_batches(&before.rows.schema(), [&before.rows, &last.rows])
                .map_err(Error::format("put decoded rows together"))?;
            last = Arc::new(Decoded { rows, errors: before.errors.iter().chain(&last.errors).cloned().collect() });
        }
        shorter.push(last);
    }
    Ok(shorter)
}

/// Records that it tells of.
fn length_of(decoded: &Decoded) -> usize {
    decoded.rows.num_rows() + decoded.skipped().count()
}

/// The offset behind the last one that it tells of.
fn end_of(decoded: &Decoded) -> i64 {
    let offsets = decoded.rows.column(0).as_primitive::<Int64Type>().values();
    let error = decoded.errors.last().map(|error| error.offset);
    offsets.last().copied().max(error).map_or(i64::MIN, |last| last + 1)
}

fn bytes_of(decoded: &Decoded) -> usize {
    let said = |error: &crate::record::format::DecodeError| size_of_val(error) + error.error.len();
    decoded.rows.get_array_memory_size() + decoded.errors.iter().map(said).sum::<usize>()
}
