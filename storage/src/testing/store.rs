//! An object store in memory that behaves as badly as stores over a network may, by seed: it answers late, with 500 or
//! 503, not for a day, with an error although it has done what was asked, or it does what was asked a day later.
//!
//! What it does not do is lie: a list and a get show whatever was put and not removed, as S3 promises.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;

use crate::clock::Clock;
use crate::testing::chance::Chance;
use crate::testing::schedule;

const STORE: &str = "simulated store";
/// How long a call stalls, ms: a day.
const STALL_MS: u64 = 86_400_000;

/// How often calls go wrong: once in so many; 0 is never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreFaults {
    /// 500 or 503; nothing was done.
    pub refuse_once_in: u64,
    /// It was done, but the answer is an error.
    pub lose_answer_once_in: u64,
    /// No answer for a day.
    pub stall_once_in: u64,
    /// A put that arrives up to a day after whoever sent it has given up.
    pub late_once_in: u64,
    /// Longest time an answer takes, ms.
    pub latency_ms_max: u64,
}

/// What was asked of the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreCalls {
    /// Puts.
    pub puts: u64,
    /// Puts of objects of records.
    pub object_puts: u64,
    /// Puts of roots of manifests.
    pub root_puts: u64,
    /// Puts of chunks of manifests.
    pub chunk_puts: u64,
    /// Gets, of ranges too.
    pub gets: u64,
    /// Lists.
    pub lists: u64,
    /// Removals.
    pub deletes: u64,
    /// Bytes put.
    pub put_bytes: u64,
}

/// The store. Clones are the same one.
#[derive(Clone, Debug)]
pub struct SimStore {
    state: Arc<Mutex<State>>,
    clock: Arc<dyn Clock>,
}

#[derive(Debug)]
struct State {
    chance: Chance,
    objects: BTreeMap<Path, Stored>,
    faults: StoreFaults,
    /// Puts of names with these words are refused.
    refused_words: Option<String>,
    calls: StoreCalls,
    dies_at_put: Option<u64>,
}

#[derive(Clone, Debug)]
struct Stored {
    bytes: Bytes,
    modified_us: i64,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Answer,
    Refuse,
    LoseAnswer,
    Stall,
    Late,
}

fn refused(code: &str) -> Error {
    Error::Generic { store: STORE, source: code.to_owned().into() }
}

impl StoreCalls {
    fn count_put(&mut self, path: &Path, bytes: u64) {
        self.puts += 1;
        self.put_bytes += bytes;
        // topics/<topic id>/<kind>/<name>
        match path.as_ref().split('/').nth(2) {
            Some("data") => self.object_puts += 1,
            Some("manifest") => self.root_puts += 1,
            Some("chunk") => self.chunk_puts += 1,
            _ => {}
        }
    }
}

impl State {
    fn fate(&mut self) -> Fate {
        let faults = self.faults;
        if self.chance.once_in(faults.refuse_once_in) {
            Fate::Refuse
        } else if self.chance.once_in(faults.lose_answer_once_in) {
            Fate::LoseAnswer
        } else if self.chance.once_in(faults.stall_once_in) {
            Fate::Stall
        } else if self.chance.once_in(faults.late_once_in) {
            Fate::Late
        } else {
            Fate::Answer
        }
    }

    fn refusal(&self) -> Error {
        refused(if self.chance.once_in(2) { "500 internal server error" } else { "503 slow down" })
    }

    fn put(&mut self, path: &Path, bytes: Bytes, mode: &PutMode, now_us: i64) -> Result<PutResult> {
        match mode {
            PutMode::Create if self.objects.contains_key(path) => {
                return Err(Error::AlreadyExists { path: path.to_string(), source: "it is there".into() });
            }
            PutMode::Update(_) => {
                return Err(Error::NotImplemented { operation: "update".into(), implementer: STORE.into() });
            }
            _ => {}
        }
        self.objects.insert(path.clone(), Stored { bytes, modified_us: now_us });
        Ok(PutResult { e_tag: None, version: None })
    }

    fn meta(path: &Path, stored: &Stored) -> ObjectMeta {
        ObjectMeta {
            location: path.clone(),
            last_modified: chrono::DateTime::from_timestamp_micros(stored.modified_us).unwrap_or_default(),
            size: stored.bytes.len() as u64,
            e_tag: None,
            version: None,
        }
    }
}

impl SimStore {
    /// An empty store that works until told otherwise.
    #[must_use]
    pub fn new(chance: Chance, clock: Arc<dyn Clock>) -> Self {
        let state = State {
            chance,
            objects: BTreeMap::new(),
            faults: StoreFaults::default(),
            refused_words: None,
            calls: StoreCalls::default(),
            dies_at_put: None,
        };
        Self { state: Arc::new(Mutex::new(state)), clock }
    }

    /// From now on calls go wrong so often.
    pub fn set_faults(&self, faults: StoreFaults) {
        self.state.lock().faults = faults;
    }

    /// From now on puts under names that contain these words are refused.
    pub fn refuse_puts_of(&self, words: Option<String>) {
        self.state.lock().refused_words = words;
    }

    /// The process dies of the put with this number from now on, before or after its effect.
    pub fn die_after_puts(&self, puts: Option<u64>) {
        let mut state = self.state.lock();
        state.dies_at_put = puts.map(|puts| state.calls.puts + puts);
    }

    /// What was asked so far.
    #[must_use]
    pub fn calls(&self) -> StoreCalls {
        self.state.lock().calls
    }

    /// Names and sizes of what is there.
    #[must_use]
    pub fn objects(&self) -> Vec<(String, u64)> {
        let state = self.state.lock();
        state.objects.iter().map(|(path, stored)| (path.to_string(), stored.bytes.len() as u64)).collect()
    }

    /// Flips one bit of an object whose name contains these words; gives its name.
    #[must_use]
    pub fn flip_bit(&self, words: &str) -> Option<String> {
        let mut state = self.state.lock();
        let state = &mut *state;
        let fitting = |path: &&Path| path.as_ref().contains(words);
        let paths: Vec<Path> = state.objects.keys().filter(fitting).cloned().collect();
        let path = state.chance.pick(&paths)?.clone();
        let stored = state.objects.get_mut(&path).filter(|stored| !stored.bytes.is_empty())?;
        let mut bytes = stored.bytes.to_vec();
        let at = state.chance.index(bytes.len());
        bytes[at] ^= 1 << state.chance.below(8);
        stored.bytes = bytes.into();
        Some(path.to_string())
    }

    /// The way of a call: how it goes, after the time it takes.
    async fn travel(&self) -> Fate {
        let (fate, took_ms) = {
            let mut state = self.state.lock();
            let latency = state.faults.latency_ms_max;
            (state.fate(), state.chance.below(latency + 1))
        };
        schedule::sleep(Duration::from_millis(took_ms)).await;
        never_if_dead().await;
        if fate == Fate::Stall {
            schedule::sleep(Duration::from_millis(STALL_MS)).await;
            never_if_dead().await;
        }
        fate
    }

    async fn read<T>(&self, read: impl FnOnce(&State) -> Result<T>) -> Result<T> {
        let fate = self.travel().await;
        let mut state = self.state.lock();
        state.calls.gets += 1;
        match fate {
            Fate::Answer | Fate::Stall => read(&state),
            Fate::Refuse | Fate::LoseAnswer | Fate::Late => Err(state.refusal()),
        }
    }
}

/// A dead process gets no answers.
async fn never_if_dead() {
    if schedule::is_dead() {
        std::future::pending::<()>().await;
    }
}

impl fmt::Display for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(STORE)
    }
}

fn range_of(range: Option<&GetRange>, length: u64) -> Result<std::ops::Range<u64>> {
    match range {
        None => Ok(0..length),
        Some(range) => range.as_range(length).map_err(|error| Error::Generic { store: STORE, source: Box::new(error) }),
    }
}

fn slice(bytes: &Bytes, range: &std::ops::Range<u64>) -> Bytes {
    let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    bytes.slice(at(range.start)..at(range.end))
}

#[async_trait]
impl ObjectStore for SimStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let bytes = Bytes::from(payload);
        let (early, dies) = {
            let mut state = self.state.lock();
            state.calls.count_put(location, bytes.len() as u64);
            if state.refused_words.as_ref().is_some_and(|words| location.as_ref().contains(words.as_str())) {
                return Err(Error::PermissionDenied { path: location.to_string(), source: "403 forbidden".into() });
            }
            let dies = state.dies_at_put.is_some_and(|at| state.calls.puts >= at);
            if dies {
                state.dies_at_put = None;
            }
            (state.chance.once_in(2), dies)
        };
        never_if_dead().await;
        if dies {
            if early {
                // The answer is of no use to the dead.
                let _ = self.state.lock().put(location, bytes, &opts.mode, self.clock.now_us());
            }
            schedule::die();
            return std::future::pending().await;
        }
        // The request may arrive at once and only its answer take long: a process that dies meanwhile has put it.
        let fate = if early { self.state.lock().fate() } else { self.travel().await };
        let outcome = match fate {
            Fate::Refuse => return Err(self.state.lock().refusal()),
            Fate::Late => {
                let (store, path) = (self.clone(), location.clone());
                let late_ms = self.state.lock().chance.below(STALL_MS);
                schedule::spawn_in_world(async move {
                    schedule::sleep(Duration::from_millis(late_ms)).await;
                    // Whoever sent it has long given up.
                    let _ = store.state.lock().put(&path, bytes, &opts.mode, store.clock.now_us());
                });
                return std::future::pending().await;
            }
            Fate::Answer | Fate::LoseAnswer | Fate::Stall => {
                self.state.lock().put(location, bytes, &opts.mode, self.clock.now_us())
            }
        };
        if early && self.travel().await != Fate::Answer || fate == Fate::LoseAnswer {
            return Err(refused("the connection was reset"));
        }
        outcome
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::NotImplemented { operation: "multipart upload".into(), implementer: STORE.into() })
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.read(|state| {
            let Some(stored) = state.objects.get(location) else {
                return Err(Error::NotFound { path: location.to_string(), source: "404".into() });
            };
            let range = range_of(options.range.as_ref(), stored.bytes.len() as u64)?;
            let bytes = slice(&stored.bytes, &range);
            let half = bytes.slice(..bytes.len() / 2);
            let broken = state.chance.once_in(state.faults.refuse_once_in);
            let parts = if broken { vec![Ok(half), Err(refused("the connection was reset"))] } else { vec![Ok(bytes)] };
            Ok(GetResult {
                payload: GetResultPayload::Stream(stream::iter(parts).boxed()),
                meta: State::meta(location, stored),
                range,
                attributes: Attributes::default(),
            })
        })
        .await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[std::ops::Range<u64>]) -> Result<Vec<Bytes>> {
        self.read(|state| {
            let Some(stored) = state.objects.get(location) else {
                return Err(Error::NotFound { path: location.to_string(), source: "404".into() });
            };
            Ok(ranges.iter().map(|range| slice(&stored.bytes, range)).collect())
        })
        .await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let removed = locations.then(move |location| {
            let store = store.clone();
            async move {
                let location = location?;
                let fate = store.travel().await;
                let mut state = store.state.lock();
                state.calls.deletes += 1;
                if matches!(fate, Fate::Refuse | Fate::Late) {
                    return Err(state.refusal());
                }
                let gone = state.objects.remove(&location);
                match (fate, gone) {
                    (Fate::LoseAnswer, _) => Err(state.refusal()),
                    // S3 does not say whether there was anything.
                    _ => Ok(location),
                }
            }
        });
        removed.boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.cloned());
        let listed = async move {
            let fate = store.travel().await;
            let mut state = store.state.lock();
            state.calls.lists += 1;
            let within = |path: &Path| prefix.as_ref().is_none_or(|prefix| path.prefix_match(prefix).is_some());
            let found = state.objects.iter().filter(|(path, _)| within(path));
            let mut found: Vec<_> = found.map(|(path, stored)| Ok(State::meta(path, stored))).collect();
            if !matches!(fate, Fate::Answer | Fate::Stall) {
                // Some of the pages came before one failed.
                found.truncate(found.len() / 2);
                found.push(Err(state.refusal()));
            }
            stream::iter(found)
        };
        stream::once(listed).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.read(|state| {
            let mut result = ListResult { common_prefixes: Vec::new(), objects: Vec::new() };
            let root = Path::default();
            let prefix = prefix.unwrap_or(&root);
            for (path, stored) in &state.objects {
                let Some(mut parts) = path.prefix_match(prefix) else { continue };
                let (Some(first), more) = (parts.next(), parts.next().is_some()) else { continue };
                if more {
                    let folder = prefix.clone().join(first);
                    if result.common_prefixes.last() != Some(&folder) {
                        result.common_prefixes.push(folder);
                    }
                } else {
                    result.objects.push(State::meta(path, stored));
                }
            }
            Ok(result)
        })
        .await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(Error::NotImplemented { operation: "copy".into(), implementer: STORE.into() })
    }
}
