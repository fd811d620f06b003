//! `aquifer verify`: looks at a data directory and its object store while no node runs, and says what is wrong.
//!
//! One line per finding and a summary at the end, all on standard output. The process ends with 0 if nothing is wrong, 1 if
//! anything is, 2 if it could not look.

use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use aquifer_storage::clock::{SystemClock, SystemRandom};
use aquifer_storage::{Finding, OpenOptions, VerifyReport};

use crate::args::{ServeFlags, VerifyFlags};
use crate::config::Config;
use crate::failure::Failure;

/// Looks, tells; whether nothing is wrong.
pub(crate) fn run(flags: &VerifyFlags) -> Result<bool, Failure> {
    let config = Config::load(&ServeFlags { stored: flags.stored.clone(), ..ServeFlags::default() })?;
    let data_dir = config.data_dir.display().to_string();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|source| Failure::Process { action: "start the threads", source })?;
    let options = OpenOptions {
        data_dir: config.data_dir,
        object_store_url: config.object_store,
        object_store: config.object_store_options,
        settings: config.storage,
        clock: Arc::new(SystemClock),
        random: Arc::new(SystemRandom),
    };
    let began = Instant::now();
    let looked = runtime.block_on(Box::pin(aquifer_storage::verify(options, flags.sample, Arc::new(tell))));
    let report = looked.map_err(|source| Failure::Verify { data_dir, source })?;
    say(&summary(&report, began.elapsed().as_secs_f64()))?;
    Ok(report.violations == 0)
}

/// A finding that cannot be written is counted all the same, and the summary tells of the closed output.
fn tell(finding: &Finding) {
    let _ = writeln!(std::io::stdout(), "{finding}");
}

fn say(line: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    let said = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    said.map_err(|source| Failure::Process { action: "print the summary to standard output", source })
}

fn summary(report: &VerifyReport, seconds: f64) -> String {
    let VerifyReport { violations, notes, files, frames, batches, records, objects, objects_read, rows, bytes } =
        report;
    let verdict = if *violations == 0 { "clean" } else { "damaged" };
    format!(
        "{verdict}: violations={violations} notes={notes} files={files} frames={frames} batches={batches} \
         records={records} objects={objects} objects_read={objects_read} rows={rows} bytes={bytes} seconds={seconds:.2}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_one_line_that_a_script_can_read() {
        let report = VerifyReport { violations: 2, frames: 7, ..VerifyReport::default() };
        let line = summary(&report, 1.5);
        assert!(line.starts_with("damaged: violations=2 notes=0 files=0 frames=7 "), "{line}");
        assert!(line.ends_with("seconds=1.50"), "{line}");
        assert!(summary(&VerifyReport::default(), 0.0).starts_with("clean: "));
    }
}
