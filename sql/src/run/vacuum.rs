//! VACUUM: storage does at once what its housekeeping would do in time, and a NOTICE says what that was.

use aquifer_storage::{TopicId, VacuumReport};

use crate::catalog::Catalog;
use crate::error::{Error, Result, SqlState};
use crate::statement::VacuumTarget;

/// Tends what the statement names, or everything; answers the notice.
///
/// # Errors
/// 42P01 for a name nobody has; what storage says.
pub(crate) async fn vacuum(catalog: &Catalog, target: Option<&VacuumTarget>) -> Result<Error> {
    let topic = target.map(|target| topic_of(catalog, target)).transpose()?;
    let report = catalog.storage().vacuum(topic).await?;
    Ok(Error::new(SqlState::SuccessfulCompletion, words(&report)))
}

/// The topic under the relation of that name, else the topic of that name.
fn topic_of(catalog: &Catalog, target: &VacuumTarget) -> Result<TopicId> {
    let name = &target.name;
    let relations = catalog.relations();
    if let Some(relation) = relations.by_name.get(&name.value).filter(|_| !target.is_topic) {
        return Ok(catalog.topic_of(relation)?.id);
    }
    if let Some(topic) = catalog.storage().topic(&name.value) {
        return Ok(topic.id);
    }
    let what = if target.is_topic { "topic" } else { "relation or topic" };
    Err(Error::new(SqlState::UndefinedTable, format!("{what} \"{}\" does not exist", name.value))
        .with_position(name.position)
        .with_hint("SHOW STREAMS, SHOW TABLES and SHOW TOPICS list what there is; VACUUM alone takes all of it"))
}

fn words(report: &VacuumReport) -> String {
    let VacuumReport { objects_merged, objects_written, bytes_rewritten, .. } = report;
    let mut words = Vec::new();
    if *objects_merged > 0 {
        words.push(format!("{objects_merged} objects became {objects_written} ({bytes_rewritten} bytes written)"));
    }
    for (count, what) in [
        (report.rows_removed, "records were compacted away"),
        (report.offsets_trimmed, "offsets went by retention"),
        (report.files_swept, "files were swept"),
    ] {
        if count > 0 {
            words.push(format!("{count} {what}"));
        }
    }
    if words.is_empty() { "nothing was to be done".to_owned() } else { words.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_says_what_was_done_and_no_more() {
        assert_eq!(words(&VacuumReport::default()), "nothing was to be done");
        let report = VacuumReport {
            objects_merged: 3,
            objects_written: 1,
            bytes_rewritten: 900,
            rows_removed: 2,
            ..VacuumReport::default()
        };
        assert_eq!(words(&report), "3 objects became 1 (900 bytes written), 2 records were compacted away");
    }
}
