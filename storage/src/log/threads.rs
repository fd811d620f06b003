//! The two threads of the log: how they start, what a panic of one of them means, how they end.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::{Error, Result};
use crate::log::closed;
use crate::log::shared::Shared;
use crate::log::writer::{Writer, step_syncer};
use crate::worker::{Step, Thread};

/// Waits until they have ended, each with what it had to do.
pub(crate) fn join(threads: Vec<Thread>) {
    threads.into_iter().for_each(Thread::join);
}

/// Lets them end in order, and notes how far the log went. Whoever closes again finds no threads, and maybe somebody else's
/// log.
pub(crate) fn end(threads: Vec<Thread>, shared: &Shared) {
    let ran = !threads.is_empty();
    join(threads);
    // After a failed sync nobody knows what is there.
    if ran && shared.read_only().is_none() {
        closed::note(shared.disk.as_ref(), &shared.dir, shared.durable_end.load(Ordering::Acquire));
    }
}

/// Starts writer and syncer.
///
/// # Errors
/// [`Error::Io`] if the system has no thread left; none runs then.
pub(crate) fn start(shared: &Arc<Shared>, mut writer: Writer) -> Result<Vec<Thread>> {
    let failed = |name: &str| Error::io(format!("start thread {name}"));
    let of_syncer = Arc::clone(shared);
    let syncer = Thread::start("log-syncer", move |patience| {
        let step = guard(&of_syncer, "syncer", || step_syncer(&of_syncer, patience));
        if step == Step::Done {
            of_syncer.pipe.syncer_gone();
        }
        step
    })
    .map_err(failed("log-syncer"))?;
    let of_writer = Arc::clone(shared);
    let writer = Thread::start("log-writer", move |patience| {
        let step = guard(&of_writer, "writer", || writer.step(patience));
        if step == Step::Done {
            of_writer.pipe.writer_gone();
        }
        step
    });
    match writer {
        Ok(writer) => Ok(vec![writer, syncer]),
        Err(error) => {
            shared.pipe.writer_gone();
            join(vec![syncer]);
            Err(failed("log-writer")(error))
        }
    }
}

/// A panic of a thread of the log is a bug of ours; what is on disk is not known then.
fn guard(shared: &Shared, thread: &str, step: impl FnOnce() -> Step) -> Step {
    std::panic::catch_unwind(AssertUnwindSafe(step)).unwrap_or_else(|_| {
        shared.set_read_only(&format!("the log's {thread} panicked; this is a bug, see the log output"));
        Step::Done
    })
}
