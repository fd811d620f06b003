//! Ranges of objects read lately, on the local disk: what a far store was asked for once is not asked for again.
//!
//! An object is kept in blocks of [`BLOCK_BYTES`], a file each, under names made of the object's name and the block's
//! number. Objects never change under their name, so nothing is ever invalidated. Every file carries its checksum and
//! whose it is; nothing is synced: what a crash leaves torn does not match, is removed and read from the store again.
//! At most `cache.bytes_max` bytes; what was used longest ago goes first, over a restart by the time of writing.
//!
//! A cache that cannot be written (a full disk) is a slow cache, never an error.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use object_store::path::Path;
use tokio::sync::Semaphore;

use crate::object::bucket::Bucket;
use crate::object::cache::Cache;
use crate::view::CacheInfo;
use crate::worker;

/// Bytes of an object in one file.
const BLOCK_BYTES: u64 = 256 << 10;

/// Blocks waiting to be written; what comes on top is not kept.
const WRITES_MAX: usize = 64;

const MAGIC: [u8; 4] = *b"AQRC";
/// Magic, checksum, length of the name, number of the block.
const HEADER_BYTES: usize = 4 + 4 + 2 + 8;

/// A block: the checksum of its object's name, and its number.
type BlockKey = (u64, u64);

/// See the top of this file. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct RangeCache {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    /// Which blocks are there, with the bytes of their files.
    blocks: Cache<BlockKey, ()>,
    writes: Arc<Semaphore>,
    /// Numbers files being written.
    staged: AtomicU64,
}

impl RangeCache {
    /// Opens the directory, makes it if it is not there, forgets what no longer fits. Blocks on the disk.
    pub(crate) fn open(dir: &FilePath, bytes_max: u64) -> std::io::Result<Self> {
        fs::create_dir_all(dir)?;
        let blocks = Cache::new(usize::try_from(bytes_max).unwrap_or(usize::MAX));
        let shared = Shared {
            dir: dir.to_owned(),
            blocks,
            writes: Arc::new(Semaphore::new(WRITES_MAX)),
            staged: AtomicU64::new(0),
        };
        let mut found = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            match key_of(&entry.file_name()) {
                Some(key) => {
                    let meta = entry.metadata()?;
                    found.push((meta.modified().ok(), key, usize::try_from(meta.len()).unwrap_or(usize::MAX)));
                }
                // A file that was being written when the process ended.
                None => remove(&entry.path()),
            }
        }
        found.sort_unstable();
        for (_, key, bytes) in found {
            shared.keep(key, bytes);
        }
        Ok(Self { shared: Arc::new(shared) })
    }

    /// How it does.
    pub(crate) fn info(&self) -> CacheInfo {
        self.shared.blocks.info("ranges")
    }

    /// Ranges of an object of `object_bytes`, in the order asked for; what is not here comes from the bucket and stays.
    pub(crate) async fn get_ranges(
        &self,
        bucket: &Bucket,
        path: &Path,
        object_bytes: u64,
        ranges: &[Range<u64>],
    ) -> Result<Vec<Bytes>, object_store::Error> {
        let object = checksum64(path.as_ref());
        let mut blocks: BTreeMap<u64, Option<Bytes>> = BTreeMap::new();
        for range in ranges.iter().filter(|range| range.start < range.end) {
            blocks.extend((range.start / BLOCK_BYTES..=(range.end - 1) / BLOCK_BYTES).map(|block| (block, None)));
        }
        self.read_kept(object, path, &mut blocks).await;
        self.read_missing(bucket, path, object, object_bytes, &mut blocks).await?;
        let cut: Option<Vec<Bytes>> = ranges.iter().map(|range| cut(&blocks, range)).collect();
        cut.ok_or_else(|| object_store::Error::Generic {
            store: "range cache",
            source: format!("{path} is shorter than the ranges asked for").into(),
        })
    }

    /// Fills in what lies on the disk.
    async fn read_kept(&self, object: u64, path: &Path, blocks: &mut BTreeMap<u64, Option<Bytes>>) {
        let kept: Vec<u64> =
            blocks.keys().copied().filter(|block| self.shared.blocks.get(&(object, *block)).is_some()).collect();
        if kept.is_empty() {
            return;
        }
        let (shared, path) = (Arc::clone(&self.shared), path.clone());
        let read = worker::blocking(move || {
            Ok(kept.into_iter().map(|block| (block, shared.read((object, block), &path))).collect::<Vec<_>>())
        });
        // Without an answer the runtime is going down; the store is asked then, and says so too.
        for (block, bytes) in read.await.unwrap_or_default() {
            blocks.insert(block, bytes);
        }
    }

    /// Fills in what does not, and keeps it.
    async fn read_missing(
        &self,
        bucket: &Bucket,
        path: &Path,
        object: u64,
        object_bytes: u64,
        blocks: &mut BTreeMap<u64, Option<Bytes>>,
    ) -> Result<(), object_store::Error> {
        let missing: Vec<u64> = blocks.iter().filter(|(_, bytes)| bytes.is_none()).map(|(block, _)| *block).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let range = |block: &u64| block * BLOCK_BYTES..((block + 1) * BLOCK_BYTES).min(object_bytes);
        let ranges: Vec<_> = missing.iter().map(range).collect();
        let parts = bucket.get_ranges(path, &ranges).await?;
        for (block, bytes) in missing.into_iter().zip(parts) {
            self.write((object, block), path, bytes.clone());
            blocks.insert(block, Some(bytes));
        }
        Ok(())
    }

    /// Keeps a block, unless too many are on their way already.
    fn write(&self, key: BlockKey, path: &Path, bytes: Bytes) {
        let Ok(permit) = Arc::clone(&self.shared.writes).try_acquire_owned() else { return };
        let (shared, path) = (Arc::clone(&self.shared), path.clone());
        let write = worker::blocking(move || {
            if let Err(error) = shared.write(key, &path, &bytes) {
                tracing::debug!(%error, "a range of an object is not cached");
            }
            drop(permit);
            Ok(())
        });
        drop(worker::spawn(async move {
            let _ = write.await;
        }));
    }
}

impl Shared {
    fn file(&self, key: BlockKey) -> PathBuf {
        self.dir.join(format!("{:016x}-{:010x}", key.0, key.1))
    }

    /// The block, if its file is whole; what is not is removed.
    fn read(&self, key: BlockKey, path: &Path) -> Option<Bytes> {
        let file = self.file(key);
        let block = fs::read(&file).ok().and_then(|bytes| unwrap_block(key.1, path, &Bytes::from(bytes)));
        if block.is_none() {
            self.blocks.remove(&key);
            remove(&file);
        }
        block
    }

    fn write(&self, key: BlockKey, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
        let staged = self.dir.join(format!("staged-{}", self.staged.fetch_add(1, Ordering::Relaxed)));
        let wrapped = wrap_block(key.1, path, bytes);
        let written = fs::write(&staged, &wrapped).and_then(|()| fs::rename(&staged, self.file(key)));
        if written.is_err() {
            remove(&staged);
            return written;
        }
        self.keep(key, wrapped.len());
        Ok(())
    }

    /// Notes a block that lies on the disk and removes what has to go for it.
    fn keep(&self, key: BlockKey, bytes: usize) {
        for (gone, ()) in self.blocks.insert(key, (), bytes) {
            remove(&self.file(gone));
        }
    }
}

fn remove(file: &FilePath) {
    // What stays behind is found at the next start.
    let _ = fs::remove_file(file);
}

fn key_of(name: &OsStr) -> Option<BlockKey> {
    let (object, block) = name.to_str()?.split_once('-')?;
    let number = |text: &str, digits: usize| (text.len() == digits).then(|| u64::from_str_radix(text, 16).ok())?;
    Some((number(object, 16)?, number(block, 10)?))
}

fn checksum64(name: &str) -> u64 {
    crc_fast::checksum(CrcAlgorithm::Crc64Nvme, name.as_bytes())
}

fn checksum(parts: [&[u8]; 2]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    for part in parts {
        digest.update(part);
    }
    // A CRC-32 fits; the digest's type is wider for its 64-bit kin.
    digest.finalize() as u32
}

fn wrap_block(block: u64, path: &Path, bytes: &[u8]) -> Vec<u8> {
    let name = path.as_ref().as_bytes();
    let mut head = Vec::with_capacity(10 + name.len());
    head.extend_from_slice(&u16::try_from(name.len()).unwrap_or(u16::MAX).to_le_bytes());
    head.extend_from_slice(&block.to_le_bytes());
    head.extend_from_slice(name);
    let crc = checksum([&head, bytes]);
    [&MAGIC[..], &crc.to_le_bytes(), &head, bytes].concat()
}

/// The bytes, if all of it is as it was written and belongs to this object.
fn unwrap_block(block: u64, path: &Path, file: &Bytes) -> Option<Bytes> {
    let name_bytes = path.as_ref().len();
    let body = HEADER_BYTES + name_bytes;
    let crc = u32::from_le_bytes(*file.get(4..8)?.first_chunk()?);
    let (head, bytes) = (file.get(8..body)?, file.get(body..)?);
    let ours = file.get(..4)? == MAGIC
        && head.get(2..10)? == block.to_le_bytes()
        && head.get(10..)? == path.as_ref().as_bytes()
        && checksum([head, bytes]) == crc;
    ours.then(|| file.slice(body..))
}

/// A range out of the blocks it lies in; without a copy where it lies in one.
fn cut(blocks: &BTreeMap<u64, Option<Bytes>>, range: &Range<u64>) -> Option<Bytes> {
    if range.start >= range.end {
        return Some(Bytes::new());
    }
    let (first, last) = (range.start / BLOCK_BYTES, (range.end - 1) / BLOCK_BYTES);
    let part = |block: u64| {
        let bytes = blocks.get(&block)?.as_ref()?;
        let base = block * BLOCK_BYTES;
        let start = usize::try_from(range.start.max(base) - base).ok()?;
        let end = usize::try_from(range.end.min(base + BLOCK_BYTES) - base).ok()?;
        (start <= end && end <= bytes.len()).then(|| bytes.slice(start..end))
    };
    if first == last {
        return part(first);
    }
    let mut whole = Vec::with_capacity(usize::try_from(range.end - range.start).ok()?);
    for block in first..=last {
        whole.extend_from_slice(&part(block)?);
    }
    Some(Bytes::from(whole))
}

#[cfg(test)]
mod tests {
    use object_store::PutPayload;

    use super::*;

    const OBJECT_BYTES: u64 = 3 * BLOCK_BYTES + 1000;

    fn object() -> Vec<u8> {
        (0..OBJECT_BYTES).map(|at| (at / 7 % 251) as u8).collect()
    }

    async fn bucket(path: &Path) -> Bucket {
        let bucket = Bucket::for_test();
        bucket.put_new(path, PutPayload::from(object())).await.unwrap();
        bucket
    }

    fn gets(bucket: &Bucket) -> u64 {
        bucket.meter().requests()[0].requests
    }

    async fn read(cache: &RangeCache, bucket: &Bucket, path: &Path, ranges: &[Range<u64>]) {
        let parts = cache.get_ranges(bucket, path, OBJECT_BYTES, ranges).await.unwrap();
        for (range, part) in ranges.iter().zip(parts) {
            assert!(part == object()[range.start as usize..range.end as usize], "{range:?}");
        }
    }

    /// Writes happen beside; here they are waited for.
    async fn settle(cache: &RangeCache) {
        let all = u32::try_from(WRITES_MAX).unwrap();
        drop(Arc::clone(&cache.shared.writes).acquire_many_owned(all).await.unwrap());
    }

    fn files(dir: &FilePath) -> Vec<PathBuf> {
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    #[tokio::test]
    async fn what_was_read_once_is_not_asked_for_again_also_after_a_restart() {
        let (home, path) = (tempfile::tempdir().unwrap(), Path::from("a/b"));
        let bucket = bucket(&path).await;
        let ranges = [5..9, BLOCK_BYTES - 3..BLOCK_BYTES + 3, OBJECT_BYTES - 8..OBJECT_BYTES, 4..4];
        let cache = RangeCache::open(home.path(), 1 << 30).unwrap();
        read(&cache, &bucket, &path, &ranges).await;
        let asked = gets(&bucket);
        settle(&cache).await;
        read(&cache, &bucket, &path, &ranges).await;
        fs::write(home.path().join("staged-7"), b"half").unwrap();
        let cache = RangeCache::open(home.path(), 1 << 30).unwrap();
        read(&cache, &bucket, &path, &ranges).await;
        assert_eq!(gets(&bucket), asked);
        assert_eq!(files(home.path()).len(), 3);
        read(&cache, &bucket, &path, &[0..OBJECT_BYTES, 0..0]).await;
        assert_eq!(gets(&bucket), asked + 1, "only the block that is missing");
    }

    #[tokio::test]
    async fn a_file_that_is_torn_or_damaged_is_read_from_the_store_again() {
        let (home, path) = (tempfile::tempdir().unwrap(), Path::from("a/b"));
        let bucket = bucket(&path).await;
        let cache = RangeCache::open(home.path(), 1 << 30).unwrap();
        for damage in 0..40 {
            read(&cache, &bucket, &path, &[100..200, 0..0]).await;
            settle(&cache).await;
            let file = files(home.path()).pop().unwrap();
            let mut bytes = fs::read(&file).unwrap();
            match damage {
                0 => bytes.clear(),
                1 => bytes.truncate(HEADER_BYTES + 1),
                2 => bytes.truncate(bytes.len() - 1),
                bit => {
                    let at = (bit * 31) % 60;
                    bytes[at] ^= 1 << (bit % 8);
                }
            }
            fs::write(&file, bytes).unwrap();
            let asked = gets(&bucket);
            read(&cache, &bucket, &path, &[100..200, 0..0]).await;
            assert_eq!(gets(&bucket), asked + 1, "damage {damage} is noticed");
            settle(&cache).await;
        }
        let other = Path::from("a/c");
        let wrapped = Bytes::from(wrap_block(3, &path, b"bytes"));
        assert_eq!(unwrap_block(3, &path, &wrapped).unwrap(), "bytes");
        assert!(unwrap_block(3, &other, &wrapped).is_none() && unwrap_block(2, &path, &wrapped).is_none());
    }

    #[tokio::test]
    async fn it_never_grows_beyond_its_limit() {
        let home = tempfile::tempdir().unwrap();
        let bytes_max = 4 * BLOCK_BYTES;
        let cache = RangeCache::open(home.path(), bytes_max).unwrap();
        let size = || files(home.path()).iter().map(|file| fs::metadata(file).unwrap().len()).sum::<u64>();
        for number in 0..6 {
            let path = Path::from(format!("object-{number}"));
            let bucket = bucket(&path).await;
            read(&cache, &bucket, &path, &[0..OBJECT_BYTES, 0..0]).await;
            settle(&cache).await;
            assert!(size() <= bytes_max, "{} bytes", size());
        }
        drop(cache);
        RangeCache::open(home.path(), BLOCK_BYTES * 2).unwrap();
        assert!(size() <= 2 * BLOCK_BYTES && size() > 0);
    }
}
