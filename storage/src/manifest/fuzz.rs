//! The readers of manifests, fed with whatever bytes; see [`crate::log::fuzz`].

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use crate::error::Result;
use crate::ids::{TopicId, WriterEpoch};
use crate::log::fuzz::{mend_envelope, split_mode};
use crate::manifest::codec::{self, Content, Root};
use crate::manifest::invariant;
use crate::manifest::model::{ChunkName, ChunkRef, Cover, Ends, Entry, Object, RowGroup, TopicManifest};

const TOPIC: TopicId = TopicId(Uuid::nil());
const NAME: ChunkName = ChunkName { epoch: WriterEpoch(1), id: Uuid::nil() };

fn mended(input: &[u8]) -> Option<Vec<u8>> {
    let (mend, mut bytes) = split_mode(input)?;
    if mend {
        mend_envelope(&mut bytes);
    }
    Some(bytes)
}

/// A root, up to the manifest that readers get.
pub(crate) fn root(input: &[u8]) {
    let Some(bytes) = mended(input) else { return };
    if let Ok(root) = codec::decode_root(TOPIC, &bytes, "x") {
        let manifest = root.into_manifest();
        let _ = invariant::root_is_sound(&manifest);
        let _ = invariant::never_goes_back(&TopicManifest::empty(TOPIC), &manifest);
    }
}

/// A chunk, up to what planning asks of it.
pub(crate) fn chunk(input: &[u8]) {
    let Some(bytes) = mended(input) else { return };
    if let Ok(content) = codec::decode_chunk(TOPIC, &bytes, "x") {
        let summary = content.summary();
        let reference = ChunkRef { name: NAME, level: content.level(), stored_bytes: 100, summary };
        let _ = codec::check_chunk(&reference, &content, "x");
        let ends = Ends { start: 0, end: i64::MAX };
        let partitions = (0..4).map(|partition| (partition, ends)).collect::<BTreeMap<_, _>>();
        let manifest = TopicManifest { partitions, ..TopicManifest::empty(TOPIC) };
        let _ = invariant::chunk_is_sound(&manifest, &content, "x");
    }
}

/// What a corpus begins with.
pub(crate) fn seeds() -> Result<Vec<(&'static str, Vec<u8>)>> {
    let row_group = RowGroup {
        partition: 0,
        first_offset: 0,
        last_offset: 9,
        rows: 10,
        min_timestamp_ms: 1,
        max_timestamp_ms: 2,
        min_committed_at_us: 3,
        max_committed_at_us: 4,
    };
    let object = Object {
        path: "topics/x/data/1.parquet".to_owned(),
        bytes: 100,
        footer_bytes: 10,
        footer_crc: 7,
        chunk_crcs: vec![1, 2],
        row_groups: vec![row_group],
    };
    let covers = vec![Cover { partition: 0, start: 0, end: 10 }];
    let entry = Entry { covers, object: Some(object), lost: vec![] };
    let content = Content::Entries(vec![Arc::new(entry.clone())]);
    let reference = ChunkRef { name: NAME, level: content.level(), stored_bytes: 100, summary: content.summary() };
    let root = Root {
        topic: TOPIC,
        version: 1,
        epoch: WriterEpoch(1),
        attempt: Uuid::nil(),
        history_start_us: 0,
        partitions: vec![(0, Ends { start: 0, end: 20 })],
        chunks: vec![reference],
        tail: vec![Entry { covers: vec![Cover { partition: 0, start: 10, end: 20 }], object: None, lost: vec![] }],
        garbage: vec![],
        orphans_checked: WriterEpoch(0),
    };
    let with_mode = |bytes: Vec<u8>| [vec![1], bytes].concat();
    Ok(vec![
        ("manifest_root", with_mode(codec::encode_root(&root)?)),
        ("manifest_chunk", with_mode(codec::encode_chunk(TOPIC, &content)?)),
    ])
}
