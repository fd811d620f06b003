//! The bytes of the keyed state: what stands under a key, and the mark that says how far it was built. Pure.
//!
//! | key | value |
//! |---|---|
//! | `0x00` | [`Mark`]: format version, topic, writer epoch, what its keys are like, per partition the position and the swept start |
//! | `0x01`, partition (u32), record's key | [`Entry`]: offset, timestamp, its type, commit time, the value if it is small |
//!
//! Numbers are big-endian, so that a partition's entries lie side by side. Whatever does not read is an error, never a
//! guess: state is made again from its topic.

use crate::ids::TopicId;

/// Version of these bytes; another one is made again.
const FORMAT_VERSION: u8 = 2;
/// Key of the mark.
pub(crate) const MARK_KEY: [u8; 1] = [0];
/// First byte of an entry's key.
const ENTRY: u8 = 1;
/// Longer keys have no entry (the store takes 64 KiB): who looks one up scans.
pub(crate) const KEY_BYTES_MAX: usize = 32 << 10;
/// Longer values stay where they are, and are read by their offset.
pub(crate) const VALUE_BYTES_MAX: usize = 1 << 10;
/// Bytes of an entry before its value.
const ENTRY_HEAD_BYTES: usize = 26;

/// The latest record of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    /// Its offset.
    pub(crate) offset: i64,
    /// Its timestamp, ms.
    pub(crate) timestamp_ms: i64,
    /// Who set the timestamp, as its column has it.
    pub(crate) timestamp_type: i8,
    /// Its commit time, us.
    pub(crate) committed_at_us: i64,
    /// Its value; `None`: it is to be read by its offset.
    pub(crate) value: Option<&'a [u8]>,
}

impl<'a> Entry<'a> {
    /// As bytes; a value larger than [`VALUE_BYTES_MAX`] is left out.
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let value = self.value.filter(|value| value.len() <= VALUE_BYTES_MAX);
        let mut bytes = Vec::with_capacity(ENTRY_HEAD_BYTES + value.map_or(0, <[u8]>::len));
        bytes.extend(self.offset.to_be_bytes());
        bytes.extend(self.timestamp_ms.to_be_bytes());
        bytes.extend(self.timestamp_type.to_be_bytes());
        bytes.extend(self.committed_at_us.to_be_bytes());
        bytes.push(u8::from(value.is_some()));
        bytes.extend(value.unwrap_or_default());
        bytes
    }

    /// From bytes; `None` if they are no entry.
    pub(crate) fn from_bytes(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let (offset, timestamp_ms) = (reader.i64()?, reader.i64()?);
        let (timestamp_type, committed_at_us) = (reader.u8()?.cast_signed(), reader.i64()?);
        let value = match reader.u8()? {
            0 if reader.0.is_empty() => None,
            1 => Some(reader.0),
            _ => return None,
        };
        Some(Self { offset, timestamp_ms, timestamp_type, committed_at_us, value })
    }
}

/// Where the entry of a partition's key stands.
pub(crate) fn entry_key(partition: i32, key: &[u8]) -> Vec<u8> {
    let mut bytes = entries_of(partition);
    bytes.extend(key);
    bytes
}

/// How the keys of a partition's entries begin.
pub(crate) fn entries_of(partition: i32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(5);
    bytes.push(ENTRY);
    bytes.extend(partition.to_be_bytes());
    bytes
}

/// How far a topic's state was built, and of what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The topic it is made of.
    pub(crate) topic: TopicId,
    /// The newest process that has written to it.
    pub(crate) epoch: u64,
    /// Declaration of the key by which its other spellings are told, as JSON; empty if there are none.
    pub(crate) key_form: Vec<u8>,
    /// Per partition: the records below this offset are in it.
    pub(crate) positions: Vec<i64>,
    /// Per partition: no entry is of a record below this offset.
    pub(crate) swept: Vec<i64>,
}

impl Mark {
    /// Of a state without entries.
    pub(crate) fn new(topic: TopicId, epoch: u64, key_form: Vec<u8>) -> Self {
        Self { topic, epoch, key_form, positions: Vec::new(), swept: Vec::new() }
    }

    /// Up to where a partition is in it.
    pub(crate) fn position(&self, partition: i32) -> i64 {
        Self::of(&self.positions, partition)
    }

    /// Moves a partition's position.
    pub(crate) fn set_position(&mut self, partition: i32, offset: i64) {
        Self::set(&mut self.positions, partition, offset);
    }

    /// Below where a partition has no entries.
    pub(crate) fn swept(&self, partition: i32) -> i64 {
        Self::of(&self.swept, partition)
    }

    /// Moves what [`Mark::swept`] says.
    pub(crate) fn set_swept(&mut self, partition: i32, offset: i64) {
        Self::set(&mut self.swept, partition, offset);
    }

    fn of(offsets: &[i64], partition: i32) -> i64 {
        usize::try_from(partition).ok().and_then(|index| offsets.get(index)).copied().unwrap_or(0)
    }

    fn set(offsets: &mut Vec<i64>, partition: i32, offset: i64) {
        let Ok(index) = usize::try_from(partition) else { return };
        if offsets.len() <= index {
            offsets.resize(index + 1, 0);
        }
        offsets[index] = offset;
    }

    /// As bytes.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![FORMAT_VERSION];
        bytes.extend(self.topic.as_bytes());
        bytes.extend(self.epoch.to_be_bytes());
        bytes.extend(u32::try_from(self.key_form.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend(&self.key_form);
        for offsets in [&self.positions, &self.swept] {
            bytes.extend(u32::try_from(offsets.len()).unwrap_or(u32::MAX).to_be_bytes());
            bytes.extend(offsets.iter().flat_map(|offset| offset.to_be_bytes()));
        }
        bytes
    }

    /// From bytes; `None` if they are no mark of this version.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        if reader.u8()? != FORMAT_VERSION {
            return None;
        }
        let topic = TopicId::from_bytes(reader.take(16)?.try_into().ok()?);
        let epoch = reader.i64()?.cast_unsigned();
        let length = reader.length()?;
        let key_form = reader.take(length)?.to_vec();
        let (positions, swept) = (reader.offsets()?, reader.offsets()?);
        reader.0.is_empty().then_some(Self { topic, epoch, key_form, positions, swept })
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn i64(&mut self) -> Option<i64> {
        Some(i64::from_be_bytes(self.take(8)?.try_into().ok()?))
    }

    fn length(&mut self) -> Option<usize> {
        usize::try_from(u32::from_be_bytes(self.take(4)?.try_into().ok()?)).ok()
    }

    fn offsets(&mut self) -> Option<Vec<i64>> {
        let bytes = self.length()?.checked_mul(8)?;
        Some(
            self.take(bytes)?
                .chunks_exact(8)
                .filter_map(|chunk| Some(i64::from_be_bytes(chunk.try_into().ok()?)))
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_and_large_values_stay_in_the_log() {
        let large = vec![7; VALUE_BYTES_MAX + 1];
        for (value, kept) in [(Some(&b""[..]), true), (Some(&b"v"[..]), true), (Some(&large[..]), false)] {
            let entry = Entry { offset: 5, timestamp_ms: -1, timestamp_type: 1, committed_at_us: i64::MAX, value };
            let bytes = entry.to_bytes();
            let read = Entry::from_bytes(&bytes).unwrap();
            assert_eq!(read, Entry { value: value.filter(|_| kept), ..entry });
        }
    }

    #[test]
    fn a_mark_comes_back_and_what_is_cut_or_of_another_version_does_not() {
        let mut mark = Mark::new(TopicId::from_bytes([3; 16]), 9, b"form".to_vec());
        mark.set_position(2, 40);
        mark.set_swept(0, 7);
        let bytes = mark.to_bytes();
        assert_eq!(Mark::from_bytes(&bytes), Some(mark.clone()));
        assert_eq!((mark.position(0), mark.position(2), mark.position(9), mark.swept(0)), (0, 40, 0, 7));
        for length in 0..bytes.len() {
            assert_eq!(Mark::from_bytes(&bytes[..length]), None, "cut at {length}");
        }
        let mut newer = bytes;
        newer[0] += 1;
        assert_eq!(Mark::from_bytes(&newer), None);
    }

    #[test]
    fn entries_of_a_partition_lie_side_by_side() {
        let keys = [entry_key(0, b"z"), entry_key(1, b""), entry_key(1, b"a"), entry_key(256, b"a")];
        assert!(keys.is_sorted() && keys[2].starts_with(&entries_of(1)) && !keys[3].starts_with(&entries_of(1)));
    }
}
