//! Commits larger than a frame: a transaction of the log itself. Data frames first, each like any commit, then one small
//! commit with the markers and everything that is not records. Until that one is durable nobody who reads committed
//! records sees any of it; a process that ends before leaves a transaction that the next one aborts.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::commit::{Append, Appended, Commit, Durability, Receipt, TopicChange, TransactionChange};
use crate::error::{Error, Result};
use crate::ids::{ProducerIdentity, TopicPartition};
use crate::log::Node;
use crate::log::ledger::Request;
use crate::log::producer::advance;
use crate::log::transaction::{check_change, own_id};

/// Bytes of a data frame, about: small enough that others' commits come in between.
const FRAME_BYTES: u64 = 2 << 20;
/// What the estimate of our own topics' records may be short of.
const OWN_SLACK_BYTES: u64 = 1 << 10;

/// A commit of any size; see the top of this file. Dropped without [`LargeCommit::commit`] it is aborted.
#[derive(Debug)]
pub struct LargeCommit {
    node: Arc<Node>,
    id: String,
    producer: ProducerIdentity,
    /// Partitions the transaction has.
    added: HashSet<TopicPartition>,
    /// Next sequence per partition.
    sequences: HashMap<TopicPartition, i32>,
    /// What the next data frame takes.
    waiting: Vec<Append>,
    waiting_bytes: u64,
    appended: Vec<Appended>,
    /// Why not all that was given to it is in the log; then it cannot be committed any more.
    failed: Option<Error>,
}

impl LargeCommit {
    /// Begins one. Topics to be made for it are made now, shown to nobody before its end, and deleted again if it is
    /// aborted. Until then their names are taken.
    pub(crate) async fn begin(node: Arc<Node>, topics: Vec<TopicChange>) -> Result<Self> {
        let id = own_id(node.writer_epoch(), node.random().next_u64());
        // Before anybody can find it open, so that nobody takes it for an abandoned one.
        node.live.lock().insert(id.clone());
        let mut large = Self {
            node,
            id,
            producer: ProducerIdentity { id: -1, epoch: -1 },
            added: HashSet::new(),
            sequences: HashMap::new(),
            waiting: Vec::new(),
            waiting_bytes: 0,
            appended: Vec::new(),
            failed: None,
        };
        // What a topic asks of its batches is known once it is durable.
        let durability = if topics.is_empty() { Durability::Written } else { Durability::Synced };
        let commit = Commit { durability, topics, ..Commit::default() };
        let begin = Request { commit, begin: Some(large.id.clone()), ..Request::default() };
        let begun = large.node.submit(begin).await?;
        large.producer = begun.receipt.transactions.first().copied().ok_or(Error::Closed)?;
        Ok(large)
    }

    /// Adds a batch; it may be written at once.
    ///
    /// # Errors
    /// [`Error::InvalidBatch`] for a batch with a producer of its own, [`Error::TooLarge`] for one that fits no frame, and
    /// what a commit says. After an error, or when the answer was not waited for, it can only be aborted: every further
    /// step answers with that error.
    pub async fn append(&mut self, append: Append) -> Result<()> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        // If the caller goes away meanwhile, nobody knows what of it is written.
        let reason = "an append of a large commit was not waited for".to_owned();
        self.failed = Some(Error::InvalidTransactionState { reason });
        let appended = self.take(append).await;
        self.failed = appended.as_ref().err().cloned();
        appended
    }

    async fn take(&mut self, append: Append) -> Result<()> {
        let limit_bytes = self.node.settings().wal_commit_bytes_max;
        let bytes = append.batch.bytes().len() as u64;
        if bytes > limit_bytes {
            return Err(Error::TooLarge { what: "batch", bytes, setting: "wal.commit_bytes_max", limit_bytes });
        }
        if append.batch.header().has_producer() {
            let reason = "a batch with a producer id cannot be part of a large commit".to_owned();
            return Err(Error::InvalidBatch { reason });
        }
        let frame_bytes = FRAME_BYTES.min(limit_bytes);
        if self.waiting_bytes > 0 && self.waiting_bytes + bytes > frame_bytes {
            self.flush().await?;
        }
        self.waiting_bytes += bytes;
        self.waiting.push(append);
        Ok(())
    }

    /// Commits what was appended, and this with it: all of it becomes visible and durable in one act. Its preconditions
    /// are looked at now.
    ///
    /// # Errors
    /// As [`crate::Storage::commit`], and that of an append that failed; nothing of it is there then.
    pub async fn commit(mut self, mut commit: Commit) -> Result<Receipt> {
        commit.watches.iter().for_each(|watch| watch.own(self.producer.id));
        if let Err(error) = self.write(std::mem::take(&mut commit.appends)).await {
            // The cause is what the caller has to know; an abort that fails is tried again in the background.
            let _ = self.abort().await;
            return Err(error);
        }
        commit.durability = Durability::Synced;
        commit.transactions.push(self.end(true));
        let mut receipt = self.node.submit(Request { commit, ..Request::default() }).await?.receipt;
        receipt.transactions.pop();
        receipt.appended = std::mem::take(&mut self.appended);
        Ok(receipt)
    }

    /// Takes all of it back; answered when that is durable.
    ///
    /// # Errors
    /// Of the write. It is tried again in the background.
    pub async fn abort(self) -> Result<()> {
        let commit = Commit { transactions: vec![self.end(false)], ..Commit::default() };
        self.node.submit(Request { commit, ..Request::default() }).await.map(drop)
    }

    /// Writes these and all that waits.
    async fn write(&mut self, appends: Vec<Append>) -> Result<()> {
        for append in appends {
            self.append(append).await?;
        }
        match &self.failed {
            Some(error) => Err(error.clone()),
            None => self.flush().await,
        }
    }

    fn end(&self, committed: bool) -> TransactionChange {
        TransactionChange::End { transactional_id: self.id.clone(), producer: self.producer, committed }
    }

    /// Writes what waits as one data frame. It need not be synced: the end's sync covers it.
    async fn flush(&mut self) -> Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let (durability, appends) = (Durability::Written, std::mem::take(&mut self.waiting));
        // A batch that fills a frame leaves no room in it for what the transaction notes of its partitions.
        let apart = std::mem::take(&mut self.waiting_bytes) > self.node.settings().wal_commit_bytes_max / 2;
        let mut commit = Commit { durability, appends, ..Commit::default() };
        self.node.admit(&mut commit)?;
        let mut partitions = Vec::new();
        for append in &mut commit.appends {
            let partition = TopicPartition { topic: append.topic, partition: append.partition };
            if self.added.insert(partition) {
                partitions.push(partition);
            }
            let sequence = self.sequences.entry(partition).or_insert(0);
            append.batch = append.batch.in_transaction(self.producer, *sequence);
            *sequence = advance(*sequence, append.batch.header().last_offset_delta.saturating_add(1));
        }
        let add =
            TransactionChange::AddPartitions { transactional_id: self.id.clone(), producer: self.producer, partitions };
        if apart {
            let added = Commit { durability, transactions: vec![add], ..Commit::default() };
            self.node.submit(Request { commit: added, ..Request::default() }).await?;
        } else {
            commit.transactions = vec![add];
        }
        let done = self.node.submit(Request { commit, ..Request::default() }).await?;
        self.appended.extend(done.receipt.appended);
        Ok(())
    }
}

impl Drop for LargeCommit {
    /// What has not ended is aborted by the look at overdue transactions, which is woken.
    fn drop(&mut self) {
        self.node.live.lock().remove(&self.id);
        self.node.look.notify_one();
    }
}

impl Node {
    /// Whether a commit is to be a transaction of the log: too large for a frame, and made of batches that are not.
    pub(crate) fn is_large(&self, commit: &Commit) -> bool {
        let limit = self.settings().wal_commit_bytes_max;
        let fits =
            |append: &Append| append.batch.bytes().len() as u64 <= limit && !append.batch.header().has_producer();
        // What our own topics take is an estimate: rather a transaction too many than a commit that fits nowhere.
        let own_bytes = Request::own_bytes_of(commit);
        let own_bytes = if own_bytes > 0 { 2 * own_bytes + OWN_SLACK_BYTES } else { 0 };
        let bytes = Request::bytes_of(commit) + own_bytes;
        bytes > limit && !commit.appends.is_empty() && commit.appends.iter().all(fits)
    }

    /// Commits what is too large for a frame.
    pub(crate) async fn commit_large(self: Arc<Self>, mut commit: Commit) -> Result<Receipt> {
        for change in &commit.transactions {
            check_change(change)?;
        }
        let (made, topics) = std::mem::take(&mut commit.topics)
            .into_iter()
            .partition(|change| matches!(change, TopicChange::Create { .. }));
        commit.topics = topics;
        let large = LargeCommit::begin(self, made).await?;
        large.commit(commit).await
    }
}
