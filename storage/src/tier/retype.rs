//! Objects from before a declaration, or from another one, are written anew with the topic's declared columns, a few at a
//! time: until then scans decode their raw values.
//!
//! Whether an object is typed its footer says. What was looked at once is remembered, and so is what was written: an object
//! whose records Parquet has no words for stays as it is, and is not tried again and again.

use futures::TryStreamExt;

use crate::error::Result;
use crate::ids::TopicId;
use crate::record::format::RecordFormat;
use crate::scan::read_footer;
use crate::tier::declared::{Declared, declaration_of};
use crate::tier::upkeep::{Effort, Upkeep};
use crate::tier::write::ObjectFile;
use crate::view::{Topic, VacuumReport};

/// Objects of one topic written anew in one look; the next look goes on.
const REWRITES_MAX: u32 = 4;

/// Footers of one topic looked at in one look.
const LOOKS_MAX: u32 = 64;

impl Upkeep {
    /// Rewrites objects of a topic whose declared columns are not those it has now.
    ///
    /// # Errors
    /// Of the first object that cannot be read or replaced.
    pub(super) async fn retype(&self, topic: &Topic, effort: Effort, report: &mut VacuumReport) -> Result<()> {
        let Some((format, declaration)) = self.declared(topic.id) else { return Ok(()) };
        let manifest = self.runner.cold.manifests.get(topic.id);
        if self.known.is_typed_topic(topic.id, (manifest.version, declaration)) {
            return Ok(());
        }
        let mut entries = self.runner.cold.entries(&manifest);
        let (mut looks, mut rewrites) = (0, 0);
        while let Some(entry) = entries.try_next().await? {
            let Some(object) = &entry.object else { continue };
            // What is dead is not worth it, what is damaged cannot be.
            let stays = manifest.is_below_starts(&entry.covers) || self.spoiled.holds(&object.path);
            if stays || self.known.is_typed(&object.path, declaration) {
                continue;
            }
            if effort == Effort::Due && (looks >= LOOKS_MAX || rewrites >= REWRITES_MAX) {
                return Ok(());
            }
            looks += 1;
            let footer = read_footer(&self.runner.cold, object).await?;
            if declaration_of(footer.metadata().file_metadata().key_value_metadata()).as_ref() == Some(&format) {
                self.known.note_typed(&object.path, declaration);
                continue;
            }
            rewrites += 1;
            self.rewrite_alone(&manifest, entry, report).await?;
        }
        if rewrites == 0 {
            self.known.note_typed_topic(topic.id, (manifest.version, declaration));
        }
        Ok(())
    }

    /// The topic's declaration, and a number for it; `None` if there is none that objects can have.
    pub(super) fn declared(&self, topic: TopicId) -> Option<(RecordFormat, u64)> {
        let format = self.runner.format_of(topic)?;
        let declared = Declared::new(&format).ok()?;
        let said = declared.metadata().value.unwrap_or_default();
        ObjectFile::new(topic.to_string(), Some(declared)).ok()?;
        Some((format, crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, said.as_bytes())))
    }
}
