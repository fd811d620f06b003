//! The object store: whose it is, what each topic's manifest says, whether it is there, and the seam to the log.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use futures::{FutureExt, StreamExt, stream};
use object_store::path::Path;

use crate::error::Result;
use crate::ids::{Takeover, TopicId, TopicPartition, WriterEpoch};
use crate::manifest::codec::Content;
use crate::manifest::model::{ChunkRef, Entry, Gone, TopicManifest};
use crate::manifest::publish;
use crate::object::bucket::Bucket;
use crate::object::claim::{self, Claim};
use crate::object::paths;
use crate::storage::OpenOptions;
use crate::tier::checkpoint::{self, CHECKPOINTS_KEPT};
use crate::tier::cold::{Cold, Writer};
use crate::verify::log::{Hot, LogView};
use crate::verify::{Findings, object};
use crate::view::Topic;

/// Objects looked at at once.
const OBJECTS_MAX: usize = 8;

/// The walk through a bucket.
struct Look<'a> {
    cold: Arc<Cold>,
    view: &'a LogView,
    /// Every name in the bucket, and how many bytes stand under it.
    listed: BTreeMap<Path, u64>,
    /// What somebody names.
    named: HashSet<Path>,
    /// Chunks and objects that were looked at: older manifests share most of theirs with the newest.
    looked: HashSet<Path>,
    /// Of checkpoints.
    older: Vec<Arc<TopicManifest>>,
    /// As the newest claim says.
    takeover: Option<Takeover>,
    sample: f64,
    /// How much of an object has been left out so far: at 1 the next one is read.
    owed: f64,
    findings: &'a mut Findings,
}

/// Looks at everything in the bucket.
///
/// # Errors
/// [`crate::Error::Config`] for what a newer program wrote, [`crate::Error::ObjectStore`].
pub(super) async fn look(
    bucket: &Bucket,
    options: &OpenOptions,
    view: &LogView,
    sample: f64,
    findings: &mut Findings,
) -> Result<()> {
    let writer = Writer {
        epoch: view.origin.epoch,
        random: Arc::clone(&options.random),
        clock: Arc::clone(&options.clock),
        memory_bytes: options.settings.memory_limit,
    };
    // Another place of the sequence each time, so that in the end every object has its turn.
    let owed = (options.random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
    let mut look = Look {
        cold: Arc::new(Cold::new(bucket.clone(), writer)),
        view,
        listed: bucket.sizes(&Path::default()).await?,
        named: HashSet::new(),
        looked: HashSet::new(),
        older: Vec::new(),
        takeover: None,
        sample,
        owed,
        findings,
    };
    look.claims().await?;
    look.checkpoints().await?;
    let topics = view.topics();
    let folders = look.listed.keys().filter_map(topic_of);
    let known: BTreeSet<TopicId> = folders.chain(topics.keys().copied()).collect();
    for topic in known {
        match topics.get(&topic) {
            None if view.own.is_some() => look.not_there(topic),
            known => look.topic(topic, known.map(AsRef::as_ref)).await?,
        }
    }
    // The newest have had what is theirs.
    for manifest in std::mem::take(&mut look.older) {
        look.entries(&manifest).await?;
    }
    let orphans: Vec<_> = look.listed.keys().filter(|path| !look.named.contains(*path)).cloned().collect();
    for path in orphans {
        look.findings.note(path, "nobody names it; put and never published, or waiting to be swept");
    }
    Ok(())
}

/// The topic in whose folder a name stands.
fn topic_of(path: &Path) -> Option<TopicId> {
    let mut parts = path.parts();
    let in_topics = parts.next().is_some_and(|part| part.as_ref() == "topics");
    let id = parts.next().filter(|_| in_topics)?;
    id.as_ref().parse().ok().map(TopicId)
}

impl Look<'_> {
    /// Names that stand below a folder.
    fn below(&self, folder: &Path) -> Vec<Path> {
        let from = self.listed.range(folder.clone()..);
        from.map(|(path, _)| path).take_while(|path| path.as_ref().starts_with(folder.as_ref())).cloned().collect()
    }

    fn size(&self, path: &Path) -> Option<u64> {
        self.listed.get(path).copied()
    }

    /// One more file that was read.
    fn count(&mut self, path: &Path) {
        self.findings.report.files += 1;
        self.findings.report.bytes += self.size(path).unwrap_or(0);
    }

    async fn claims(&mut self) -> Result<()> {
        let claims = self.below(&paths::claims());
        if claims.is_empty() {
            if self.view.past.has_claimed() {
                let what = "no node has claimed this object store, but one with this data directory has claimed one: it is not \
                            the one that was used together with it";
                self.findings.violation(paths::claims(), what);
            } else {
                self.findings.note(paths::claims(), "no node has claimed this object store");
            }
        }
        let newest = claims.iter().filter(|path| paths::number(path).is_some()).max().cloned();
        let origin = self.view.origin;
        for path in claims {
            self.count(&path);
            self.named.insert(path.clone());
            let read = claim::read(&self.cold.bucket, path.clone()).await;
            let Some(claim) = self.findings.judged(path.as_ref(), read)? else { continue };
            let Claim { cluster, epoch, takeover, .. } = claim;
            self.takeover = takeover;
            if cluster != origin.cluster_id {
                let what = format!("it belongs to cluster {cluster}, the data directory to {}", origin.cluster_id);
                self.findings.violation(&path, what);
            } else if paths::number(&path) != Some(epoch.0) {
                self.findings.violation(&path, format!("it claims epoch {}", epoch.0));
            } else if epoch > origin.epoch {
                let what = format!(
                    "claimed with epoch {}, the data directory is at {}: another copy of it has been in use",
                    epoch.0, origin.epoch.0
                );
                self.findings.violation(&path, what);
            } else if newest.as_ref() == Some(&path) && !self.view.past.knows(&claim) {
                let what = "the newest claim is not one of this data directory: another copy of it has been in use";
                self.findings.violation(&path, what);
            }
        }
        Ok(())
    }

    /// What a node could begin from, and that what it names is there; its objects are looked at behind the newest ones.
    async fn checkpoints(&mut self) -> Result<()> {
        let counting = checkpoint::list(&self.cold.bucket, self.takeover).await?;
        for id in counting.into_iter().take(CHECKPOINTS_KEPT) {
            let path = paths::checkpoint(id);
            self.count(&path);
            self.named.insert(path.clone());
            let tails: Vec<_> =
                self.below(&paths::tails()).into_iter().filter(|path| paths::tail_of(path) == Some(id)).collect();
            self.named.extend(tails);
            let read = checkpoint::read(&self.cold.bucket, id).await;
            let Some(found) = self.findings.judged(path.as_ref(), read)? else { continue };
            if found.cluster != self.view.origin.cluster_id {
                self.findings.violation(&path, format!("it belongs to cluster {}", found.cluster));
            }
            for part in 0..found.tail.len() {
                self.count(&paths::tail(id, part));
                let read = found.tail_part(&self.cold.bucket, part).await;
                self.findings.judged(paths::tail(id, part).as_ref(), read)?;
            }
            for (topic, root) in &found.roots {
                let Some((epoch, version)) = root else { continue };
                let root = paths::root(*topic, *epoch, *version);
                self.named.insert(root.clone());
                if self.size(&root).is_none() {
                    self.findings.violation(&path, format!("it names {root}, which is not there"));
                    continue;
                }
                let read = publish::read_root(&self.cold.bucket, *topic, &root).await;
                let root = self.findings.judged(root.as_ref(), read)?.flatten();
                self.older.extend(root.map(|root| Arc::new(root.into_manifest())));
            }
        }
        Ok(())
    }

    /// A folder of a topic that is not there.
    fn not_there(&mut self, topic: TopicId) {
        let names = self.below(&Path::from(format!("topics/{topic}/")));
        let is_deleted = self.view.own.as_ref().is_some_and(|own| own.deleted.contains(&topic));
        let what = if is_deleted {
            format!("{} files of a topic that was deleted; the sweep removes them", names.len())
        } else {
            format!(
                "{} files of a topic of which the log knows nothing, not even that it was deleted; nobody removes them: if you \
                 do not miss it, remove the folder by hand",
                names.len()
            )
        };
        self.findings.note(format!("topics/{topic}"), what);
        self.named.extend(names);
    }

    async fn topic(&mut self, topic: TopicId, known: Option<&Topic>) -> Result<()> {
        let roots = self.below(&paths::roots(topic));
        let mut newest_is_whole = true;
        for path in roots.iter().filter(|path| paths::root_number(path).is_some()) {
            self.count(path);
            self.named.insert(path.clone());
            let read = publish::read_root(&self.cold.bucket, topic, path).await;
            newest_is_whole = self.findings.judged(path.as_ref(), read)?.flatten().is_some();
        }
        let loaded = if newest_is_whole {
            let read = publish::load(&self.cold.bucket, WriterEpoch(u64::MAX), topic).await;
            self.findings.judged(paths::roots(topic).as_ref(), read)?
        } else {
            None
        };
        let Some(manifest) = loaded else {
            // What it names is not known, so neither is what nobody names.
            self.named.extend(self.below(&Path::from(format!("topics/{topic}/"))));
            return Ok(());
        };
        if manifest.epoch > self.view.origin.epoch {
            let (theirs, ours) = (manifest.epoch.0, self.view.origin.epoch.0);
            let what = format!("published with epoch {theirs}, the data directory is at {ours}");
            self.findings.violation(paths::root(topic, manifest.epoch, manifest.version), what);
        }
        let manifest = Arc::new(manifest);
        self.entries(&manifest).await?;
        self.garbage(&manifest).await?;
        if let Some(known) = known {
            self.seams(known, &manifest);
        }
        Ok(())
    }

    /// All chunks and entries, in the order of their offsets; a damaged chunk does not keep from the next one.
    async fn entries(&mut self, manifest: &Arc<TopicManifest>) -> Result<()> {
        let mut waiting: Vec<Arc<ChunkRef>> = manifest.chunks.iter().rev().map(Arc::clone).collect();
        while let Some(chunk) = waiting.pop() {
            let path = paths::chunk(manifest.topic, chunk.name.epoch, chunk.name.id);
            self.named.insert(path.clone());
            if !self.looked.insert(path.clone()) {
                continue;
            }
            self.count(&path);
            if let Some(size) = self.size(&path).filter(|size| *size != chunk.stored_bytes) {
                let what = format!("it has {size} bytes where {} are known of it", chunk.stored_bytes);
                self.findings.violation(&path, what);
            }
            let read = self.cold.chunks().read(manifest, &chunk).await;
            match self.findings.judged(path.as_ref(), read)?.as_deref() {
                Some(Content::Entries(entries)) => self.objects(manifest.topic, entries).await?,
                Some(Content::Chunks(below)) => waiting.extend(below.iter().rev().map(Arc::clone)),
                Some(Content::Gone(_)) | None => {}
            }
        }
        self.objects(manifest.topic, &manifest.tail).await
    }

    async fn objects(&mut self, topic: TopicId, entries: &[Arc<Entry>]) -> Result<()> {
        let mut looks = Vec::new();
        for entry in entries {
            let path = entry.object.as_ref().map(|object| Path::from(object.path.as_str()));
            if path.is_some_and(|path| !self.looked.insert(path)) {
                continue;
            }
            for lost in &entry.lost {
                let (start, end, partition) = (lost.start, lost.end, lost.partition);
                self.findings
                    .note(&lost.place, format!("offsets {start}..{end} of {topic}/{partition} are known lost"));
            }
            let Some(object) = &entry.object else { continue };
            let path = Path::from(object.path.as_str());
            let size = self.size(&path);
            self.named.insert(path);
            self.owed += self.sample;
            let whole = self.owed >= 1.0;
            self.owed -= f64::from(u8::from(whole));
            let (cold, entry) = (Arc::clone(&self.cold), Arc::clone(entry));
            looks.push(
                async move {
                    let place = entry.object.as_ref().map(|object| object.path.clone()).unwrap_or_default();
                    (place, object::look(&cold, topic, &entry, size, whole).await)
                }
                .boxed(),
            );
        }
        let mut looked = stream::iter(looks).buffered(OBJECTS_MAX);
        while let Some((place, read)) = looked.next().await {
            self.findings.report.objects += 1;
            if let Some(read) = self.findings.judged(&place, read)? {
                self.findings.report.objects_read += u64::from(read.whole);
                self.findings.report.rows += read.rows;
                self.findings.report.bytes += read.bytes;
            }
        }
        Ok(())
    }

    /// What waits to be swept is named, and may be gone already.
    async fn garbage(&mut self, manifest: &TopicManifest) -> Result<()> {
        let topic = manifest.topic;
        let mut waiting: Vec<Gone> = manifest.garbage.iter().flat_map(|garbage| garbage.gone.clone()).collect();
        while let Some(gone) = waiting.pop() {
            let name = match gone {
                Gone::Object(path) => {
                    self.named.insert(Path::from(path));
                    continue;
                }
                Gone::Chunk(name) => {
                    self.named.insert(paths::chunk(topic, name.epoch, name.id));
                    continue;
                }
                Gone::Below(name) | Gone::List(name) => name,
            };
            let path = paths::chunk(topic, name.epoch, name.id);
            self.named.insert(path.clone());
            let found = self.cold.chunks().find(topic, name).await;
            match self.findings.judged(path.as_ref(), found)?.flatten() {
                Some(Content::Gone(below)) => waiting.extend(below),
                Some(Content::Chunks(below)) => waiting.extend(below.iter().map(|chunk| Gone::Below(chunk.name))),
                Some(Content::Entries(entries)) => {
                    let objects = entries.iter().filter_map(|entry| entry.object.as_ref());
                    waiting.extend(objects.map(|object| Gone::Object(object.path.clone())));
                }
                None => {}
            }
        }
        Ok(())
    }

    fn seams(&mut self, topic: &Topic, manifest: &TopicManifest) {
        for partition in 0..topic.partitions {
            let at = TopicPartition { topic: topic.id, partition };
            let (hot, log_start) = (self.view.hot(at), self.view.log_start(at));
            if let Some(wrong) = seam_is_wrong(manifest.tiered_end(partition), hot, log_start) {
                self.findings.violation(format!("topic {} partition {partition}", topic.name), wrong);
            }
        }
        for partition in manifest.partitions.keys().filter(|partition| **partition >= topic.partitions) {
            let what = format!("the manifest has partition {partition}, the topic only {}", topic.partitions);
            self.findings.violation(format!("topic {}", topic.name), what);
        }
    }
}

/// Between the end of the cold part and the beginning of the hot one nothing is missing, unless nobody wants it any more.
fn seam_is_wrong(tiered_end: i64, hot: Hot, log_start: i64) -> Option<String> {
    let wanted = tiered_end.max(log_start);
    if tiered_end > hot.end {
        return Some(format!("objects have offsets up to {tiered_end}, the log knows only those below {}", hot.end));
    }
    (hot.start > wanted).then(|| format!("offsets {wanted}..{} are neither in an object nor in the log", hot.start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_missing_between_cold_and_hot() {
        let hot = |start, end| Hot { start, end };
        assert_eq!(seam_is_wrong(10, hot(0, 20), 0), None);
        assert_eq!(seam_is_wrong(10, hot(10, 20), 0), None);
        assert_eq!(seam_is_wrong(20, hot(20, 20), 0), None);
        assert!(seam_is_wrong(10, hot(12, 20), 0).is_some_and(|said| said.contains("10..12")));
        assert_eq!(seam_is_wrong(10, hot(12, 20), 12), None, "deleted by its owner");
        assert!(seam_is_wrong(21, hot(12, 20), 0).is_some_and(|said| said.contains("up to 21")));
    }
}
