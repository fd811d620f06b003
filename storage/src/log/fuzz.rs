//! The readers of the log's files, fed with whatever bytes: what the fuzz targets and their corpus call. No answer is
//! wrong here but a panic, an endless loop or an allocation that the input does not justify.
//!
//! Checksums keep a fuzzer out of everything behind them. So each input says in its first byte whether it stands as it
//! is, or has its checksums made right first: then it is what a faulty writer might have written.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use crate::envelope::{self, ENVELOPE_BYTES};
use crate::error::Result;
use crate::ids::{TopicId, TopicPartition, WriterEpoch};
use crate::log::disk::{Access, Disk, DiskFile, Held};
use crate::log::frame::{
    EncodedFrame, FRAME_ALIGN, FRAME_HEADER_BYTES, FrameHeader, FrameNumbers, PlacedBatch, decode_directory,
    read_directory, reconstruct,
};
use crate::log::recover::{RecoveryOptions, recover};
use crate::log::segment::{Extent, Origin, SEGMENT_HEADER_BYTES, Segment, encode_header, segment_path};
use crate::log::snapshot::{LogSnapshot, snapshot_path};
use crate::record::batch::{BatchBuilder, BatchLimits, Compression, TimestampType};

const ORIGIN: Origin = Origin { cluster_id: Uuid::nil(), epoch: WriterEpoch(1) };
const LIMITS: BatchLimits = BatchLimits { decompressed_bytes_max: 1 << 20 };
const FOLDER: &str = "log";

/// Splits off the byte that says whether checksums are made right.
pub(crate) fn split_mode(input: &[u8]) -> Option<(bool, Vec<u8>)> {
    let (mode, bytes) = input.split_first()?;
    Some((mode & 1 == 1, bytes.to_vec()))
}

/// Makes the checksums of an envelope right.
pub(crate) fn mend_envelope(bytes: &mut [u8]) {
    let Some((header, payload)) = bytes.split_at_mut_checked(ENVELOPE_BYTES) else { return };
    header[12..20].copy_from_slice(&(payload.len() as u64).to_le_bytes());
    header[20..24].copy_from_slice(&crc_fast::crc32_iscsi(payload).to_le_bytes());
    let crc = crc_fast::crc32_iscsi(&header[..24]);
    header[24..28].copy_from_slice(&crc.to_le_bytes());
}

/// Makes the checksums of the frames at the front of `bytes` right, as far as their lengths lead from one to the next.
fn mend_frames(bytes: &mut [u8], base: u64) {
    let mut at = 0;
    while let Some(frame) = bytes.get_mut(at..).filter(|rest| rest.len() >= FRAME_HEADER_BYTES) {
        let number = |from: usize| u32::from_le_bytes([frame[from], frame[from + 1], frame[from + 2], frame[from + 3]]);
        let body_bytes = number(8) as usize;
        if let Some(body) = frame.get(FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + body_bytes) {
            let crc = crc_fast::crc32_iscsi(body);
            frame[56..60].copy_from_slice(&crc.to_le_bytes());
        }
        frame[48..56].copy_from_slice(&(base + at as u64).to_le_bytes());
        let crc = crc_fast::crc32_iscsi(&frame[..60]);
        frame[60..64].copy_from_slice(&crc.to_le_bytes());
        at += (FRAME_HEADER_BYTES + body_bytes).next_multiple_of(FRAME_ALIGN as usize);
    }
}

/// One frame: header, directory, and the way back when the header is gone.
pub(crate) fn frame(input: &[u8]) {
    let Some((mend, mut bytes)) = split_mode(input) else { return };
    if mend {
        mend_frames(&mut bytes, 0);
    }
    if let Ok(header) = FrameHeader::decode(&bytes, 0)
        && let Some(body) = bytes.get(FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + header.body_bytes as usize)
    {
        let _ = decode_directory(&header, body);
        let _ = read_directory(&header, body);
    }
    let _ = reconstruct(&bytes, 0, None);
}

/// A segment's frames, as the last one of a log that is recovered.
pub(crate) fn segment(input: &[u8]) {
    let Some((mend, mut bytes)) = split_mode(input) else { return };
    if mend {
        mend_frames(&mut bytes, 0);
    }
    let file = [&encode_header(0, ORIGIN)[..], &bytes].concat();
    recover_from(vec![(segment_path(Path::new(FOLDER), 0), file)]);
}

/// A sealed segment's end: footer and trailer.
pub(crate) fn footer(input: &[u8]) {
    let Some((mend, mut bytes)) = split_mode(input) else { return };
    if mend {
        mend_envelope(&mut bytes);
    }
    let trailer = crate::log::segment::encode_trailer(bytes.len() as u64, 0);
    let file = [&encode_header(0, ORIGIN)[..], &bytes, &trailer].concat();
    let file: Arc<dyn DiskFile> = Arc::new(MemoryFile(file));
    let _ = Segment::new(PathBuf::from("x"), 0, file, Extent::default()).read_footer();
}

/// A snapshot, as the only file of a log that is recovered.
pub(crate) fn snapshot(input: &[u8]) {
    let Some((mend, mut bytes)) = split_mode(input) else { return };
    if mend {
        mend_envelope(&mut bytes);
    }
    // Its name says its position, the first number in it.
    let position = envelope::open::<LogSnapshot>(crate::log::snapshot::SNAPSHOT, &bytes, "x");
    let position = position.map_or(0, |snapshot| snapshot.position);
    recover_from(vec![(snapshot_path(Path::new(FOLDER), position), bytes)]);
}

fn recover_from(files: Vec<(PathBuf, Vec<u8>)>) {
    let options = RecoveryOptions {
        disk: Arc::new(MemoryDisk(files)),
        dir: PathBuf::from(FOLDER),
        origin: ORIGIN,
        segment_bytes: SEGMENT_HEADER_BYTES,
        limits: LIMITS,
    };
    let _ = recover(&options);
}

/// What a corpus begins with: for each target something whole.
pub(crate) fn seeds() -> Result<Vec<(&'static str, Vec<u8>)>> {
    let partition = TopicPartition { topic: TopicId::from_bytes([3; 16]), partition: 0 };
    let mut frames = Vec::new();
    for (sequence, position) in [(0_u64, 0), (1, 256)] {
        let mut builder = BatchBuilder::new(0, TimestampType::CreateTime);
        builder.push(7, Some(b"key"), Some(b"value"), &[(b"h", None)]);
        let batches = builder.build(Compression::None).into_iter();
        let base_offset = sequence.cast_signed();
        let batches = batches.map(|batch| PlacedBatch { partition, base_offset, batch, carried_us: None });
        let numbers = FrameNumbers { writer_epoch: 1, sequence, commit_time_us: 5, durable_end: position, position };
        if let Some(frame) = EncodedFrame::new(numbers, batches.collect()) {
            frames.resize(usize::try_from(position).unwrap_or(0), 0);
            frame.slices().iter().for_each(|slice| frames.extend_from_slice(slice));
        }
    }
    let snapshot = LogSnapshot { position: 64, ..LogSnapshot::default() };
    let with_mode = |bytes: Vec<u8>| [vec![1], bytes].concat();
    Ok(vec![
        ("frame", with_mode(frames[..256].to_vec())),
        ("segment", with_mode(frames)),
        ("footer", with_mode(envelope::seal(crate::log::footer::FOOTER, &crate::log::footer::Footer::default())?)),
        ("snapshot", with_mode(envelope::seal(crate::log::snapshot::SNAPSHOT, &snapshot)?)),
    ])
}

/// A disk that holds a few files and takes every write without keeping it.
#[derive(Debug)]
struct MemoryDisk(Vec<(PathBuf, Vec<u8>)>);

#[derive(Debug)]
struct MemoryFile(Vec<u8>);

impl Disk for MemoryDisk {
    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, _: &Path) -> io::Result<Vec<String>> {
        let names = self.0.iter().filter_map(|(path, _)| path.file_name());
        Ok(names.map(|name| name.to_string_lossy().into_owned()).collect())
    }

    fn open(&self, path: &Path, _: Access) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.0.iter().find(|(known, _)| known == path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(MemoryFile(file.1.clone())))
    }

    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, _: &Path, _: &str) -> io::Result<Result<Box<dyn Held>, String>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl DiskFile for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.len());
        let read = buffer.len().min(self.0.len() - from);
        buffer[..read].copy_from_slice(&self.0[from..from + read]);
        Ok(read)
    }

    fn write_at(&self, _: &mut [IoSlice<'_>], _: u64) -> io::Result<()> {
        Ok(())
    }

    fn allocate(&self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn truncate(&self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        Ok((offset < self.0.len() as u64).then_some(offset))
    }

    fn bytes_len(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }
}
