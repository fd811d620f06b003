//! What outlives a simulated process: disk, store, time, the model, the clients' memory, and the account of what happened.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::{Arc, Weak};

use aquifer_storage::clock::Clock;
use aquifer_storage::settings::StorageSettings;
use aquifer_storage::testing::chance::Chance;
use aquifer_storage::testing::schedule::{self, SimClock, Simulation};
use aquifer_storage::testing::{MemoryDisk, SimStore};
use aquifer_storage::{Error, ErrorKind, HoldsBack, OpenOptions, Result, Storage, TopicPartition};
use parking_lot::Mutex;

use crate::model::{Checked, Model, Violation};
use crate::remains::WallSpan;

/// Holds any one batch of a simulation; commits of several become transactions of the log.
const COMMIT_BYTES_MIN: u64 = 4_608;
/// Wall clock at the beginning, us: some day in 2026.
const WALL_US: i64 = 1_780_000_000_000_000;

/// What goes wrong at the moment, so that errors of that kind are no surprise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Weather {
    /// The store fails or stalls.
    pub(crate) store: bool,
    /// The disk fails to read, write or sync.
    pub(crate) disk: bool,
    /// Syncs have failed or the process ends: commits may end without a verdict.
    pub(crate) full: bool,
}

/// What is done to a life, so that a shrunk history can leave it out: (life or client, number).
pub(crate) type Skipped = BTreeSet<(u64, u64)>;

/// What queries would say that they still need, by partition.
#[derive(Debug, Default)]
pub(crate) struct Needed(pub(crate) Mutex<BTreeMap<TopicPartition, i64>>);

impl HoldsBack for Needed {
    fn needed_from(&self, partition: TopicPartition) -> Option<i64> {
        self.0.lock().get(&partition).copied()
    }
}

/// One simulation.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) chance: Chance,
    pub(crate) simulation: Simulation,
    pub(crate) clock: Arc<SimClock>,
    /// The disk that the next process gets.
    pub(crate) disk: RefCell<MemoryDisk>,
    pub(crate) store: SimStore,
    pub(crate) settings: StorageSettings,
    pub(crate) model: RefCell<Model>,
    pub(crate) weather: Cell<Weather>,
    pub(crate) skipped: Skipped,
    pub(crate) violation: RefCell<Option<Violation>>,
    /// Counts openings, so that each has chances of its own.
    pub(crate) lives: Cell<u64>,
    /// Where the wall clock has been.
    wall: Rc<Cell<WallSpan>>,
    pub(crate) needed: Arc<Needed>,
    /// Whose a transaction is.
    pub(crate) owners: RefCell<BTreeMap<u64, u64>>,
    account: RefCell<Account>,
}

/// What happened, line by line.
#[derive(Debug, Default)]
struct Account {
    lines: Vec<String>,
    keep: bool,
    hash: u64,
}

impl World {
    /// The world of a seed.
    pub(crate) fn new(seed: u64, skipped: Skipped, keep_account: bool) -> Rc<Self> {
        let chance = Chance::new(seed);
        let simulation = Simulation::new(seed, WALL_US);
        let clock = simulation.clock();
        let of_store: Arc<dyn Clock> = simulation.clock();
        let wall = Rc::new(Cell::new(WallSpan { earliest_ms: clock.now_ms(), latest_ms: clock.now_ms() }));
        let model = Model { wall: Rc::clone(&wall), ..Model::default() };
        Rc::new(Self {
            disk: RefCell::new(MemoryDisk::new(chance.fork("disk"))),
            store: SimStore::new(chance.fork("store"), of_store),
            settings: settings(&chance.fork("settings")),
            chance,
            simulation,
            clock,
            model: RefCell::new(model),
            wall,
            needed: Arc::default(),
            weather: Cell::default(),
            skipped,
            violation: RefCell::default(),
            lives: Cell::new(0),
            owners: RefCell::default(),
            account: RefCell::new(Account { keep: keep_account, ..Account::default() }),
        })
    }

    /// Writes a line into the account.
    pub(crate) fn note(&self, line: impl FnOnce() -> String) {
        let (now_ms, wall) = (self.clock.now_ms(), self.wall.get());
        let (earliest_ms, latest_ms) = (wall.earliest_ms.min(now_ms), wall.latest_ms.max(now_ms));
        self.wall.set(WallSpan { earliest_ms, latest_ms });
        let mut account = self.account.borrow_mut();
        let line = format!("{:>12} {}", self.clock.steady_us(), line());
        for byte in line.bytes() {
            account.hash = (account.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3).rotate_left(5);
        }
        if account.keep {
            account.lines.push(line);
        }
    }

    /// The account's hash and its lines, if they were kept.
    pub(crate) fn account(&self) -> (u64, Vec<String>) {
        let account = self.account.borrow();
        (account.hash, account.lines.clone())
    }

    /// Keeps the first violation and ends the process, if there is one.
    pub(crate) fn check<T>(&self, checked: Checked<T>) -> Option<T> {
        match checked {
            Ok(value) => Some(value),
            Err(violation) => {
                self.note(|| format!("VIOLATION {violation:?}"));
                self.violation.borrow_mut().get_or_insert(violation);
                schedule::die();
                None
            }
        }
    }

    /// A rule was broken.
    pub(crate) fn violate(&self, invariant: u32, words: impl Into<String>) {
        self.check::<()>(Err(Violation { invariant, words: words.into() }));
    }

    /// Sets the wall clock forward or back.
    pub(crate) fn jump_s(&self, by_s: i64) {
        self.note(|| format!("the wall clock jumps by {by_s} s"));
        self.clock.jump_us(by_s * 1_000_000);
        self.note(|| "it has jumped".to_owned());
    }

    /// The disk as it is now.
    pub(crate) fn disk(&self) -> MemoryDisk {
        self.disk.borrow().clone()
    }

    /// Who speaks for those who hold topics.
    pub(crate) fn speaker(&self) -> Weak<dyn HoldsBack> {
        let needed: Weak<Needed> = Arc::downgrade(&self.needed);
        needed
    }

    /// Opens the storage, as a process does.
    pub(crate) async fn open(&self) -> Result<Storage> {
        let life = self.lives.get();
        self.lives.set(life + 1);
        let clock: Arc<dyn Clock> = self.simulation_clock();
        let options = OpenOptions {
            data_dir: "/data".into(),
            object_store_url: None,
            object_store: Default::default(),
            settings: self.settings.clone(),
            clock,
            random: Arc::new(self.chance.fork(&format!("random of life {life}"))),
        };
        let disk = self.disk();
        Storage::open_simulated(options, &disk, &self.store).await
    }

    fn simulation_clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock) as Arc<dyn Clock>
    }

    /// Whether an error says that nobody knows what became of a commit.
    pub(crate) fn is_unknown(error: &Error) -> bool {
        matches!(error, Error::ReadOnly { .. } | Error::Closed)
    }

    /// Whether the weather explains an error.
    pub(crate) fn is_weather(&self, error: &Error) -> bool {
        let weather = self.weather.get();
        if schedule::is_dead() {
            return true;
        }
        match error {
            Error::Io { .. } => weather.disk || weather.full,
            Error::ReadOnly { .. } | Error::Closed => weather.disk,
            Error::ObjectStore { .. } => weather.store,
            _ => weather.full && error.kind() == ErrorKind::MakeRoom,
        }
    }
}

/// Small numbers, so that a short history meets every limit.
fn settings(chance: &Chance) -> StorageSettings {
    let pick = |among: &[u64]| chance.pick(among).copied().unwrap_or_default();
    let pick_ms = |among: &[i64]| chance.pick(among).copied().unwrap_or_default();
    StorageSettings {
        wal_segment_bytes: pick(&[4 << 10, 16 << 10, 64 << 10]),
        wal_reserve_bytes: pick(&[0, 8 << 10]),
        wal_commit_bytes_max: pick(&[COMMIT_BYTES_MIN, 128 << 10]),
        wal_queue_bytes_max: pick(&[8 << 10, 1 << 20]),
        tier_bytes_min: pick(&[4 << 10, 64 << 10]),
        tier_age_max_ms: pick_ms(&[500, 5_000, 60_000]),
        tier_run_bytes_max: pick(&[2 << 10, 1 << 20]),
        topic_local_retention_ms: pick_ms(&[0, 3_000, -1]),
        checkpoint_interval_ms: pick(&[0, 2_000, 60_000]),
        sweep_grace_ms: pick(&[0, 2_000, 20_000]),
        housekeeping_interval_ms: pick(&[0, 1_500, 60_000]),
        merge_object_bytes: pick(&[8 << 10, 64 << 10, 128 << 20]),
        compaction_memory_bytes: pick(&[0, 64 << 20]),
        ..StorageSettings::default()
    }
}
