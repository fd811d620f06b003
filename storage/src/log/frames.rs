//! Walking over the frames of a segment's file: which are whole, which are damaged, and where a torn tail begins.
//!
//! A bad frame at p is a torn tail only if no valid frame further on says `durable_end > p`: then a write was cut short
//! that nobody was told of. Otherwise what is at p was once durable and is damaged: the walk names the range and goes
//! on behind it. A frame of which the header or the body is damaged is still shown, marked, if its directory can be read:
//! each batch in it has a checksum of its own. Where one flipped bit is all the damage, `flip` says what is certain all the
//! same.

use crate::envelope::newer;
use crate::error::{Error, Result};
use crate::log::flip::{Told, mended_header, read_body};
use crate::log::frame::{
    DirectoryEntry, FRAME_ALIGN, FRAME_HEADER_BYTES, FRAME_MAGIC, FrameDefect, FrameHeader, decode_directory,
    reconstruct,
};
use crate::log::segment::Segment;

/// Bytes read ahead at once.
const WINDOW_BYTES: usize = 1 << 20;
/// The largest damaged range looked through for a frame without its header; frames are at most a commit and its directory.
const RECONSTRUCTED_BYTES_MAX: usize = 64 << 20;

/// A frame as found.
#[derive(Debug)]
pub(crate) struct FoundFrame<'a> {
    pub(crate) header: FrameHeader,
    pub(crate) entries: Vec<DirectoryEntry>,
    /// Header, directory and payload.
    pub(crate) bytes: &'a [u8],
    /// The payload is what was written, by the body's checksum.
    pub(crate) whole: bool,
    /// The entries are what was written.
    pub(crate) directory_whole: bool,
}

/// What the walk came upon.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Walked {
    /// Position after the last frame.
    pub(crate) end: u64,
    /// Damaged ranges: position and end.
    pub(crate) damaged: Vec<(u64, u64)>,
}

/// A sliding window over a file.
struct Window<'a> {
    segment: &'a Segment,
    /// First position that is not read.
    limit: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    fn new(segment: &'a Segment, limit: u64) -> Self {
        Self { segment, limit, start: segment.base, bytes: Vec::new() }
    }

    /// `length` bytes from a position on; `None` beyond the limit.
    fn get(&mut self, position: u64, length: usize) -> Result<Option<&[u8]>> {
        if position + length as u64 > self.limit {
            return Ok(None);
        }
        let held = position >= self.start && position + length as u64 <= self.start + self.bytes.len() as u64;
        if !held {
            let left = usize::try_from(self.limit - position).unwrap_or(usize::MAX);
            self.bytes.resize(length.max(WINDOW_BYTES).min(left), 0);
            self.start = position;
            let at = self.segment.file_offset(position);
            let action = || format!("read {}", self.segment.place(position, length as u64));
            let read = self.segment.file.read_at(&mut self.bytes, at).map_err(|error| Error::io(action())(error))?;
            self.bytes[read..].fill(0);
        }
        let from = usize::try_from(position - self.start).unwrap_or(usize::MAX);
        Ok(self.bytes.get(from..from + length))
    }

    /// The header at a position, if there is one and its frame fits.
    fn header(&mut self, position: u64) -> Result<Option<FrameHeader>> {
        let Some(bytes) = self.get(position, FRAME_HEADER_BYTES)? else { return Ok(None) };
        let header = match FrameHeader::decode(bytes, position) {
            Ok(header) => header,
            Err(FrameDefect::Damaged) => return Ok(None),
            Err(FrameDefect::Newer(version)) => {
                let place = self.segment.place(position, FRAME_HEADER_BYTES as u64);
                return Err(newer("frame", &place, version, u32::from(crate::log::frame::FRAME_VERSION)));
            }
        };
        Ok(Some(header).filter(|header| position + header.frame_bytes() <= self.limit))
    }

    /// The header at a position if its whole frame is valid.
    fn valid(&mut self, position: u64) -> Result<Option<FrameHeader>> {
        let Some(header) = self.header(position)? else { return Ok(None) };
        let length = FRAME_HEADER_BYTES + header.body_bytes as usize;
        let Some(bytes) = self.get(position, length)? else { return Ok(None) };
        let whole = decode_directory(&header, &bytes[FRAME_HEADER_BYTES..]).is_ok();
        Ok(Some(header).filter(|_| whole))
    }

    /// The header at a position if but one bit of it has flipped, and its frame fits.
    fn mended(&mut self, position: u64) -> Result<Option<FrameHeader>> {
        let mended = self.get(position, FRAME_HEADER_BYTES)?.and_then(|bytes| mended_header(bytes, position));
        Ok(mended.filter(|header| position + header.frame_bytes() <= self.limit))
    }

    /// The header of the frame between two positions, told from what its own damage has left.
    fn reconstructed(&mut self, position: u64, end: u64, next: Option<FrameHeader>) -> Result<Option<FrameHeader>> {
        let length = usize::try_from(end - position).unwrap_or(usize::MAX);
        if length > RECONSTRUCTED_BYTES_MAX {
            return Ok(None);
        }
        let bytes = self.get(position, length)?;
        Ok(bytes.and_then(|bytes| reconstruct(bytes, position, next.as_ref())))
    }

    /// The first valid frame at or after a position.
    fn next_valid(&mut self, from: u64) -> Result<Option<(u64, FrameHeader)>> {
        let mut position = from;
        while let Some(candidate) = self.next_magic(position)? {
            if let Some(header) = self.valid(candidate)? {
                return Ok(Some((candidate, header)));
            }
            position = candidate + FRAME_ALIGN;
        }
        Ok(None)
    }

    /// The next place where a frame might begin. What is reserved and never written is skipped without reading.
    fn next_magic(&mut self, from: u64) -> Result<Option<u64>> {
        let mut position = from;
        while position < self.limit {
            let action = || format!("seek in {}", self.segment.path.display());
            let data = self.segment.file.next_data(self.segment.file_offset(position));
            let Some(data) = data.map_err(|error| Error::io(action())(error))? else { return Ok(None) };
            let skipped = data - self.segment.file_offset(position);
            position += skipped - skipped % FRAME_ALIGN;
            let left = self.limit.saturating_sub(position);
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(WINDOW_BYTES);
            let Some(bytes) = self.get(position, length)? else { return Ok(None) };
            let stride = FRAME_ALIGN as usize;
            if let Some(index) = bytes.chunks(stride).position(|bytes| bytes.starts_with(&FRAME_MAGIC)) {
                return Ok(Some(position + (index * stride) as u64));
            }
            position += length.next_multiple_of(stride) as u64;
        }
        Ok(None)
    }

    /// Whether a valid frame from a position on says that what is at `bad` was durable.
    fn was_durable(&mut self, bad: u64, from: u64) -> Result<bool> {
        let mut position = from;
        while let Some((found, header)) = self.next_valid(position)? {
            if header.durable_end > bad {
                return Ok(true);
            }
            position = found + header.frame_bytes();
        }
        Ok(false)
    }
}

/// Visits the frames of a segment in order, up to `limit`. With `durable`, everything below the limit was synced, so
/// nothing can be torn.
///
/// # Errors
/// Of the file, of `visit`, and [`Error::Config`] for a frame of a newer version.
pub(crate) fn walk(
    segment: &Segment,
    limit: u64,
    durable: bool,
    mut visit: impl FnMut(FoundFrame<'_>) -> Result<()>,
) -> Result<Walked> {
    let mut window = Window::new(segment, limit);
    let mut walked = Walked { end: segment.base, damaged: Vec::new() };
    while walked.end < limit {
        let position = walked.end;
        let mut header = window.header(position)?;
        if let Some(header) = header {
            let length = FRAME_HEADER_BYTES + header.body_bytes as usize;
            let Some(bytes) = window.get(position, length)? else { break };
            if let Ok(entries) = decode_directory(&header, &bytes[FRAME_HEADER_BYTES..]) {
                visit(FoundFrame { header, entries, bytes, whole: true, directory_whole: true })?;
                walked.end += header.frame_bytes();
                continue;
            }
        }
        if header.is_none() {
            header = window.mended(position)?;
        }
        // With a header the frame's end is known, so that nothing inside its payload is taken for a frame.
        let behind = position + header.map_or(FRAME_ALIGN, |header| header.frame_bytes());
        if !durable && !window.was_durable(position, behind)? {
            break;
        }
        let found = window.next_valid(behind)?;
        let next = found.map_or(limit, |(next, _)| next);
        walked.damaged.push((position, next));
        let header = match header {
            None => window.reconstructed(position, next, found.map(|(_, header)| header))?,
            whole => whole,
        };
        if let Some(header) = header {
            let length = FRAME_HEADER_BYTES + header.body_bytes as usize;
            if let Some(bytes) = window.get(position, length)?
                && let Some(told) = read_body(&header, &bytes[FRAME_HEADER_BYTES..])
            {
                let Told { entries, payload_whole: whole, directory_whole } = told;
                visit(FoundFrame { header, entries, bytes, whole, directory_whole })?;
            }
        }
        walked.end = next;
    }
    Ok(walked)
}
