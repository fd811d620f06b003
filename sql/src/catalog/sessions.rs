//! Who is connected and what they do: behind `aquifer.sessions` and `pg_stat_activity`.

use std::collections::BTreeMap;
use std::sync::Arc;

use aquifer_storage::clock::Clock;
use parking_lot::Mutex;

use crate::statement::Parsed;

/// Characters of a statement that are shown.
const QUERY_CHARS_MAX: usize = 1024;

/// All open sessions.
#[derive(Debug, Default)]
pub struct Sessions {
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    sessions: BTreeMap<u64, Arc<Mutex<Activity>>>,
}

// A view of the catalog is compared as the values it holds; who is connected is none of them.
impl PartialEq for Sessions {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

/// A session as it was when asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SessionRow {
    /// `pg_backend_pid()` there.
    pub(crate) pid: i32,
    pub(crate) user: String,
    pub(crate) application_name: String,
    /// Address and port; empty if it is no connection.
    pub(crate) client_addr: String,
    pub(crate) started_at_us: i64,
    /// As in `pg_stat_activity`: `active`, `idle`, `idle in transaction`, `idle in transaction (aborted)`.
    pub(crate) state: &'static str,
    pub(crate) state_changed_at_us: i64,
    /// When the block began that is open.
    pub(crate) block_started_at_us: Option<i64>,
    pub(crate) query_started_at_us: Option<i64>,
    /// The statement that runs, or the last one that did.
    pub(crate) query: String,
}

#[derive(Debug)]
struct Activity {
    row: SessionRow,
    statement: Option<Arc<Parsed>>,
    /// Statements that run, or whose rows are being read.
    running: usize,
    idle: &'static str,
}

impl Activity {
    fn show(&mut self, now_us: i64) {
        let state = if self.running > 0 { "active" } else { self.idle };
        if state != self.row.state {
            (self.row.state, self.row.state_changed_at_us) = (state, now_us);
        }
    }
}

/// A session's place among the others; left when dropped.
#[derive(Debug)]
pub(crate) struct Presence {
    sessions: Arc<Sessions>,
    activity: Arc<Mutex<Activity>>,
    clock: Arc<dyn Clock>,
    id: u64,
}

impl Sessions {
    /// A new session's place.
    pub(crate) fn enter(
        self: &Arc<Self>,
        clock: &Arc<dyn Clock>,
        pid: i32,
        user: &str,
        application_name: &str,
        client_addr: &str,
    ) -> Presence {
        let now_us = clock.now_us();
        let row = SessionRow {
            pid,
            user: user.to_owned(),
            application_name: application_name.to_owned(),
            client_addr: client_addr.to_owned(),
            started_at_us: now_us,
            state: "idle",
            state_changed_at_us: now_us,
            block_started_at_us: None,
            query_started_at_us: None,
            query: String::new(),
        };
        let activity = Arc::new(Mutex::new(Activity { row, statement: None, running: 0, idle: "idle" }));
        let mut open = self.open.lock();
        let id = open.next;
        open.next += 1;
        open.sessions.insert(id, Arc::clone(&activity));
        Presence { sessions: Arc::clone(self), activity, clock: Arc::clone(clock), id }
    }

    /// All of them, first come first.
    pub(crate) fn rows(&self) -> Vec<SessionRow> {
        let activities: Vec<_> = self.open.lock().sessions.values().cloned().collect();
        let row = |activity: Arc<Mutex<Activity>>| {
            let activity = activity.lock();
            let text = activity.statement.as_ref().map_or("", |statement| statement.text.as_str());
            SessionRow { query: text.chars().take(QUERY_CHARS_MAX).collect(), ..activity.row.clone() }
        };
        activities.into_iter().map(row).collect()
    }
}

impl Presence {
    /// A statement begins; it ends when what is returned is dropped.
    pub(crate) fn begin(&self, statement: &Arc<Parsed>, application_name: &str) -> Active {
        let now_us = self.clock.now_us();
        let mut activity = self.activity.lock();
        activity.running += 1;
        activity.statement = Some(Arc::clone(statement));
        activity.row.query_started_at_us = Some(now_us);
        if activity.row.application_name != application_name {
            application_name.clone_into(&mut activity.row.application_name);
        }
        activity.show(now_us);
        Active { activity: Arc::clone(&self.activity), clock: Arc::clone(&self.clock) }
    }

    /// What the session is between statements.
    pub(crate) fn set_idle(&self, idle: &'static str) {
        let mut activity = self.activity.lock();
        if activity.idle == idle {
            return;
        }
        let now_us = self.clock.now_us();
        activity.idle = idle;
        if idle == "idle" {
            activity.row.block_started_at_us = None;
        } else if activity.row.block_started_at_us.is_none() {
            activity.row.block_started_at_us = Some(now_us);
        }
        activity.show(now_us);
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.sessions.open.lock().sessions.remove(&self.id);
    }
}

/// A statement that runs, or whose rows are being read.
#[derive(Debug)]
pub(crate) struct Active {
    activity: Arc<Mutex<Activity>>,
    clock: Arc<dyn Clock>,
}

impl Drop for Active {
    fn drop(&mut self) {
        let now_us = self.clock.now_us();
        let mut activity = self.activity.lock();
        activity.running = activity.running.saturating_sub(1);
        activity.show(now_us);
    }
}
