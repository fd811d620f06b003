//! A scheduler for simulations: on one thread, one seed decides who goes on next and what time it is.
//!
//! What storage starts through `worker` (tasks, threads made of steps) and what a simulation starts beside it are the
//! actors. As long as one of them can go on, one that the seed chooses does; when none can, time moves to the next pause
//! that ends. A process may die between any two steps, or within one (`crash_point`): then its actors are dropped and
//! nothing they still try reaches disk or store.
//!
//! Actors belong to groups: whoever an actor starts is of its own. A group may be paused, at a named point, as a process
//! is whose machine is suspended, and go on much later: its requests may have arrived meanwhile, its deadlines have passed.
//!
//! It does not know what it drives, and it is not fair: an actor may have to wait as long as chance will have it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::Clock;
use crate::testing::chance::Chance;
use crate::worker::{Patience, Step};

/// A step of a simulated thread.
pub(crate) type ThreadStep = Box<dyn FnMut(Patience) -> Step>;
type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Longest time one step takes, us.
const STEP_US_MAX: u64 = 40;
/// One in so many chances a thread gets behaves as if it had waited long.
const ELAPSED_ONCE_IN: u64 = 24;
/// Steps after which a simulation is taken to go in circles.
const STEPS_MAX: u64 = 20_000_000;

thread_local! {
    static CURRENT: RefCell<Option<Rc<Scheduler>>> = const { RefCell::new(None) };
}

/// Simulated time: a steady part, which pauses are measured by, and what the wall clock shows beside it.
#[derive(Debug)]
pub struct SimClock {
    steady_us: AtomicI64,
    wall_offset_us: AtomicI64,
}

impl SimClock {
    /// Time since the simulation began, us.
    #[must_use]
    pub fn steady_us(&self) -> i64 {
        self.steady_us.load(Ordering::Relaxed)
    }

    /// Sets the wall clock forward, or back if negative; pauses are not touched.
    pub fn jump_us(&self, by_us: i64) {
        self.wall_offset_us.fetch_add(by_us, Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn now_us(&self) -> i64 {
        self.steady_us().saturating_add(self.wall_offset_us.load(Ordering::Relaxed))
    }
}

/// Whose end an actor shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// The simulated process.
    Process,
    /// What goes on when the process dies: disk, network, store.
    World,
}

/// A number that actors share; those that a run begins with are of group 0.
pub type Group = u32;

/// What goes on step by step; nothing while it does so.
struct Actor<T> {
    owner: Owner,
    group: Group,
    body: Option<T>,
}

/// How a run of a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending<T> {
    /// The future that was run has ended.
    Done(T),
    /// The process died.
    Died,
}

/// A simulation: time and the actors of the world. Processes run in it one after another.
#[derive(Debug)]
pub struct Simulation {
    scheduler: Rc<Scheduler>,
}

struct Scheduler {
    chance: Chance,
    clock: Arc<SimClock>,
    tasks: RefCell<BTreeMap<u64, Actor<Task>>>,
    threads: RefCell<BTreeMap<u64, Actor<ThreadStep>>>,
    /// Of whoever goes on now.
    group: Cell<Group>,
    paused: RefCell<BTreeSet<Group>>,
    /// A group is paused when it reaches this point for the n-th time.
    pauses_at_point: RefCell<Option<(Group, String, u32)>>,
    /// Threads that had nothing to do when they were last asked, and nothing has happened since.
    resting: RefCell<BTreeSet<u64>>,
    ready: Arc<Mutex<Vec<u64>>>,
    timers: RefCell<BTreeMap<(i64, u64), Waker>>,
    next_id: Cell<u64>,
    steps: Cell<u64>,
    /// The process dies before the step with this number.
    dies_at_step: Cell<Option<u64>>,
    /// The process dies when this point is reached for the n-th time.
    dies_at_point: RefCell<Option<(String, u32)>>,
    dead: Cell<bool>,
    reached: RefCell<BTreeMap<&'static str, u64>>,
}

impl std::fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scheduler").field("steps", &self.steps).field("dead", &self.dead).finish_non_exhaustive()
    }
}

/// Puts a task among those that can go on.
struct Rouse {
    task: u64,
    ready: Arc<Mutex<Vec<u64>>>,
}

impl Wake for Rouse {
    fn wake(self: Arc<Self>) {
        let mut ready = self.ready.lock();
        if !ready.contains(&self.task) {
            ready.push(self.task);
        }
    }
}

fn current() -> Option<Rc<Scheduler>> {
    CURRENT.with(|current| current.borrow().clone())
}

/// Whether this thread runs a simulation.
#[must_use]
pub fn is_on() -> bool {
    CURRENT.with(|current| current.borrow().is_some())
}

/// Whether the simulated process has died: what it still tries must have no effect.
#[must_use]
pub fn is_dead() -> bool {
    current().is_some_and(|scheduler| scheduler.dead.get())
}

/// The simulated time since the world began, us.
pub(crate) fn steady_us() -> u64 {
    current().map_or(0, |scheduler| u64::try_from(scheduler.clock.steady_us()).unwrap_or(0))
}

/// The simulated process dies here and now.
pub fn die() {
    if let Some(scheduler) = current() {
        scheduler.dead.set(true);
    }
}

/// A named point at which a simulated process may die.
pub(crate) fn reach(point: &'static str) {
    if let Some(scheduler) = current() {
        scheduler.reach(point);
    }
}

/// Starts a task of the simulated process.
///
/// # Panics
/// Outside of a simulation.
pub fn spawn(work: impl Future<Output = ()> + 'static) {
    start(Owner::Process, Box::pin(work));
}

/// Starts a task that goes on when the process dies.
///
/// # Panics
/// Outside of a simulation.
pub fn spawn_in_world(work: impl Future<Output = ()> + 'static) {
    start(Owner::World, Box::pin(work));
}

#[expect(clippy::expect_used, reason = "a simulation that is not there is a bug of the test")]
fn start(owner: Owner, work: Task) {
    current().expect("a simulation runs on this thread").start(owner, work);
}

pub(crate) fn add_thread(step: ThreadStep) -> u64 {
    let Some(scheduler) = current() else { return 0 };
    let id = scheduler.new_id();
    let thread = Actor { owner: Owner::Process, group: scheduler.group.get(), body: Some(step) };
    scheduler.threads.borrow_mut().insert(id, thread);
    id
}

/// Starts a task of the simulated process as the first of a group.
///
/// # Panics
/// Outside of a simulation.
pub fn spawn_in_group(group: Group, work: impl Future<Output = ()> + 'static) {
    let Some(scheduler) = current() else { return spawn(work) };
    let before = scheduler.group.replace(group);
    start(Owner::Process, Box::pin(work));
    scheduler.group.set(before);
}

/// A group is paused when it comes to a named point for the `times`-th time.
pub fn pause_at_point(group: Group, point: &str, times: u32) {
    if let Some(scheduler) = current() {
        *scheduler.pauses_at_point.borrow_mut() = Some((group, point.to_owned(), times));
    }
}

/// Whether a group is paused.
#[must_use]
pub fn is_paused(group: Group) -> bool {
    current().is_some_and(|scheduler| scheduler.paused.borrow().contains(&group))
}

/// A paused group goes on.
pub fn resume(group: Group) {
    if let Some(scheduler) = current() {
        scheduler.paused.borrow_mut().remove(&group);
        *scheduler.pauses_at_point.borrow_mut() = None;
    }
}

/// Drops the tasks of a group where they stand; whoever calls is of another one.
pub fn stop_group(group: Group) {
    let Some(scheduler) = current() else { return };
    scheduler.drop_tasks(|actor| actor.group == group);
}

/// Runs simulated threads until one of them has ended. One that died with its process has.
pub(crate) fn join(thread: u64) {
    let Some(scheduler) = current() else { return };
    while scheduler.threads.borrow().contains_key(&thread) && !scheduler.dead.get() {
        scheduler.count_step();
        let ids = scheduler.awake_threads();
        if let Some(id) = scheduler.chance.pick(&ids) {
            scheduler.step_thread(*id, Patience::Elapsed);
        }
    }
}

/// Lets others go first, if chance will have it.
pub async fn pass() {
    let mut passed = false;
    std::future::poll_fn(|context| {
        if passed {
            return Poll::Ready(());
        }
        passed = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Waits in simulated time.
pub async fn sleep(pause: Duration) {
    let mut due = None;
    std::future::poll_fn(move |context| {
        let Some(scheduler) = current() else { return Poll::Ready(()) };
        let now = scheduler.clock.steady_us();
        let (at, _) = *due.get_or_insert_with(|| {
            let pause_us = i64::try_from(pause.as_micros()).unwrap_or(i64::MAX);
            (now.saturating_add(pause_us), scheduler.new_id())
        });
        if now >= at {
            return Poll::Ready(());
        }
        if let Some(key) = due {
            scheduler.timers.borrow_mut().insert(key, context.waker().clone());
        }
        Poll::Pending
    })
    .await;
}

impl Simulation {
    /// The simulation of a seed, its wall clock at `wall_us`.
    #[must_use]
    pub fn new(seed: u64, wall_us: i64) -> Self {
        let clock = SimClock { steady_us: AtomicI64::new(0), wall_offset_us: AtomicI64::new(wall_us) };
        let scheduler = Scheduler {
            chance: Chance::new(seed).fork("schedule"),
            clock: Arc::new(clock),
            tasks: RefCell::default(),
            threads: RefCell::default(),
            group: Cell::new(0),
            paused: RefCell::default(),
            pauses_at_point: RefCell::new(None),
            resting: RefCell::default(),
            ready: Arc::default(),
            timers: RefCell::default(),
            next_id: Cell::new(1),
            steps: Cell::new(0),
            dies_at_step: Cell::new(None),
            dies_at_point: RefCell::new(None),
            dead: Cell::new(false),
            reached: RefCell::default(),
        };
        Self { scheduler: Rc::new(scheduler) }
    }

    /// Its time.
    #[must_use]
    pub fn clock(&self) -> Arc<SimClock> {
        Arc::clone(&self.scheduler.clock)
    }

    /// Steps taken so far.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.scheduler.steps.get()
    }

    /// How often each named point was reached.
    #[must_use]
    pub fn reached(&self) -> BTreeMap<&'static str, u64> {
        self.scheduler.reached.borrow().clone()
    }

    /// The next process dies after so many steps; `None`: not by itself.
    pub fn die_after_steps(&self, steps: Option<u64>) {
        self.scheduler.dies_at_step.set(steps.map(|steps| self.steps() + steps));
    }

    /// The next process dies when it comes to a named point for the `times`-th time.
    pub fn die_at_point(&self, point: &str, times: u32) {
        *self.scheduler.dies_at_point.borrow_mut() = Some((point.to_owned(), times));
    }

    /// Runs a process until `whole` has ended or the process dies. What else the process has started is dropped then.
    ///
    /// # Panics
    /// If nobody can go on, or it never ends.
    pub fn run<T: 'static>(&self, whole: impl Future<Output = T> + 'static) -> Ending<T> {
        let scheduler = &self.scheduler;
        let before = CURRENT.with(|current| current.borrow_mut().replace(Rc::clone(scheduler)));
        assert!(before.is_none(), "simulations do not run within each other");
        let _leave = Leave;
        scheduler.dead.set(false);
        let done: Rc<RefCell<Option<T>>> = Rc::default();
        let answer = Rc::clone(&done);
        scheduler.start(Owner::Process, Box::pin(async move { *answer.borrow_mut() = Some(whole.await) }));
        while done.borrow().is_none() && !scheduler.dead.get() {
            scheduler.turn();
        }
        let died = scheduler.dead.get();
        // Whatever they do while they are dropped has no effect any more.
        scheduler.dead.set(true);
        scheduler.drop_process();
        scheduler.dies_at_step.set(None);
        *scheduler.dies_at_point.borrow_mut() = None;
        *scheduler.pauses_at_point.borrow_mut() = None;
        scheduler.paused.borrow_mut().clear();
        scheduler.group.set(0);
        let done = done.borrow_mut().take();
        match done {
            Some(done) if !died => Ending::Done(done),
            _ => Ending::Died,
        }
    }
}

/// Leaves the simulation, also when a test panics.
struct Leave;

impl Drop for Leave {
    fn drop(&mut self) {
        if let Some(scheduler) = CURRENT.with(|current| current.borrow().clone()) {
            scheduler.dead.set(true);
            scheduler.drop_process();
        }
        CURRENT.with(|current| current.borrow_mut().take());
    }
}

impl Scheduler {
    fn new_id(&self) -> u64 {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        id
    }

    fn start(&self, owner: Owner, work: Task) {
        let id = self.new_id();
        let actor = Actor { owner, group: self.group.get(), body: Some(work) };
        self.tasks.borrow_mut().insert(id, actor);
        self.ready.lock().push(id);
    }

    fn reach(&self, point: &'static str) {
        if self.dead.get() {
            return;
        }
        *self.reached.borrow_mut().entry(point).or_default() += 1;
        if let Some((group, name, times)) = self.pauses_at_point.borrow_mut().as_mut()
            && *group == self.group.get()
            && name == point
        {
            *times = times.saturating_sub(1);
            if *times == 0 {
                self.paused.borrow_mut().insert(*group);
            }
        }
        let mut plan = self.dies_at_point.borrow_mut();
        let Some((name, times)) = plan.as_mut() else { return };
        if name == point {
            *times = times.saturating_sub(1);
            if *times == 0 {
                self.dead.set(true);
            }
        }
    }

    fn count_step(&self) {
        self.steps.set(self.steps.get() + 1);
        assert!(self.steps.get() < STEPS_MAX, "the simulation goes in circles");
        if self.dies_at_step.get().is_some_and(|at| self.steps.get() >= at) {
            self.dead.set(true);
        }
        let took = i64::try_from(self.chance.below(STEP_US_MAX)).unwrap_or(0);
        self.clock.steady_us.fetch_add(took, Ordering::Relaxed);
    }

    /// One actor goes on, or time does.
    fn turn(&self) {
        self.count_step();
        self.wake_due();
        let mut awake = self.awake_threads();
        awake.retain(|id| !self.resting.borrow().contains(id));
        let ready = self.ready_places();
        let choice = self.chance.index(ready.len() + awake.len());
        if let Some(place) = ready.get(choice) {
            let task = self.ready.lock().swap_remove(*place);
            self.poll(task);
            self.resting.borrow_mut().clear();
        } else if let Some(thread) = awake.get(choice.saturating_sub(ready.len())) {
            let patience = if self.chance.once_in(ELAPSED_ONCE_IN) { Patience::Elapsed } else { Patience::None };
            self.step_thread(*thread, patience);
        } else {
            self.let_time_pass();
        }
    }

    /// Threads that are not paused.
    fn awake_threads(&self) -> Vec<u64> {
        let (threads, paused) = (self.threads.borrow(), self.paused.borrow());
        threads.iter().filter(|(_, thread)| !paused.contains(&thread.group)).map(|(id, _)| *id).collect()
    }

    /// Where those stand in the list of who can go on that are not paused.
    fn ready_places(&self) -> Vec<usize> {
        let (ready, tasks, paused) = (self.ready.lock(), self.tasks.borrow(), self.paused.borrow());
        let may = |id: &u64| tasks.get(id).is_none_or(|task| !paused.contains(&task.group));
        ready.iter().enumerate().filter(|(_, id)| may(id)).map(|(place, _)| place).collect()
    }

    /// Nobody can go on: those who wait for a silence have it, then pauses end.
    fn let_time_pass(&self) {
        for thread in self.awake_threads() {
            if self.step_thread(thread, Patience::Elapsed) == Step::Worked {
                return;
            }
        }
        let next = self.timers.borrow().keys().next().map(|(due, _)| *due);
        #[expect(clippy::panic, reason = "a simulation that stands still is what a test must show")]
        let Some(due) = next else { panic!("nobody can go on, and nobody waits for a time") };
        self.clock.steady_us.fetch_max(due, Ordering::Relaxed);
    }

    fn wake_due(&self) {
        let now = self.clock.steady_us();
        loop {
            let mut timers = self.timers.borrow_mut();
            let Some(first) = timers.first_entry().filter(|first| first.key().0 <= now) else { return };
            let waker = first.remove();
            drop(timers);
            waker.wake();
        }
    }

    fn poll(&self, id: u64) {
        let taken = self.tasks.borrow_mut().get_mut(&id).and_then(|task| Some((task.group, task.body.take()?)));
        let Some((group, mut task)) = taken else { return };
        let waker = Waker::from(Arc::new(Rouse { task: id, ready: Arc::clone(&self.ready) }));
        let before = self.group.replace(group);
        let is_over = task.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        self.group.set(before);
        if is_over {
            self.tasks.borrow_mut().remove(&id);
        } else if let Some(actor) = self.tasks.borrow_mut().get_mut(&id) {
            actor.body = Some(task);
        }
    }

    fn step_thread(&self, id: u64, patience: Patience) -> Step {
        let taken = self.threads.borrow_mut().get_mut(&id).and_then(|thread| Some((thread.group, thread.body.take()?)));
        let Some((group, mut thread)) = taken else { return Step::Idle };
        let before = self.group.replace(group);
        let step = thread(patience);
        self.group.set(before);
        match step {
            Step::Done => drop(self.threads.borrow_mut().remove(&id)),
            Step::Worked | Step::Idle => {
                if let Some(actor) = self.threads.borrow_mut().get_mut(&id) {
                    actor.body = Some(thread);
                }
            }
        }
        match step {
            Step::Idle => drop(self.resting.borrow_mut().insert(id)),
            Step::Worked | Step::Done => self.resting.borrow_mut().clear(),
        }
        step
    }

    /// Drops tasks one by one, without holding anything that they might ask for.
    fn drop_tasks(&self, which: impl Fn(&Actor<Task>) -> bool) {
        loop {
            let found = self.tasks.borrow().iter().find(|(_, actor)| which(actor)).map(|(id, _)| *id);
            let Some(id) = found else { return };
            let task = self.tasks.borrow_mut().remove(&id);
            drop(task);
        }
    }

    /// Drops the actors of the process, without holding anything that they might ask for.
    fn drop_process(&self) {
        let threads = std::mem::take(&mut *self.threads.borrow_mut());
        drop(threads);
        self.drop_tasks(|actor| actor.owner == Owner::Process);
        self.resting.borrow_mut().clear();
        let alive: BTreeSet<u64> = self.tasks.borrow().keys().copied().collect();
        self.ready.lock().retain(|id| alive.contains(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker;

    /// Three tasks and a thread write down the order in which they go on.
    fn history(seed: u64) -> (Vec<String>, i64) {
        let simulation = Simulation::new(seed, 1_000_000);
        let written: Arc<Mutex<Vec<String>>> = Arc::default();
        let of_run = Arc::clone(&written);
        let clock = simulation.clock();
        let ending = simulation.run(async move {
            let mut left = 5;
            let of_thread = Arc::clone(&of_run);
            let thread = worker::Thread::start("counter", move |_| {
                of_thread.lock().push(format!("thread {left}"));
                left -= 1;
                if left == 0 { Step::Done } else { Step::Worked }
            });
            let mut tasks = Vec::new();
            for task in 0..3_u64 {
                let written = Arc::clone(&of_run);
                tasks.push(worker::spawn(async move {
                    for turn in 0..3_u64 {
                        worker::sleep(Duration::from_micros(10 * task)).await;
                        let done = worker::blocking(move || Ok(turn)).await.unwrap();
                        written.lock().push(format!("task {task} turn {done}"));
                    }
                }));
            }
            for task in &mut tasks {
                task.ended().await;
            }
            let never = worker::timeout(Duration::from_secs(3600), std::future::pending::<()>()).await;
            assert_eq!(never, None);
            thread.unwrap().join();
        });
        assert_eq!(ending, Ending::Done(()));
        let written = written.lock().clone();
        (written, clock.now_us())
    }

    #[test]
    fn one_seed_gives_one_history_and_another_seed_another() {
        assert_eq!(history(7), history(7));
        assert!((1..20).any(|seed| history(seed).0 != history(7).0));
        assert!(history(7).1 > 3_600_000_000, "an hour has passed");
    }

    #[test]
    fn a_paused_group_stands_still_and_goes_on_when_it_is_resumed() {
        let simulation = Simulation::new(1, 0);
        let counted = Rc::new(Cell::new(0));
        let of_group = Rc::clone(&counted);
        let ending = simulation.run(async move {
            pause_at_point(7, "here", 3);
            spawn_in_group(7, async move {
                loop {
                    of_group.set(of_group.get() + 1);
                    reach("here");
                    sleep(Duration::from_millis(1)).await;
                }
            });
            reach("here");
            sleep(Duration::from_secs(1)).await;
            assert!(is_paused(7) && counted.get() == 3);
            resume(7);
            sleep(Duration::from_secs(1)).await;
            assert!(counted.get() > 500);
            stop_group(7);
            let before = counted.get();
            sleep(Duration::from_secs(1)).await;
            assert_eq!(counted.get(), before);
        });
        assert_eq!(ending, Ending::Done(()));
    }

    #[test]
    fn a_process_dies_where_it_stands_and_the_world_goes_on() {
        let simulation = Simulation::new(1, 0);
        simulation.die_at_point("here", 2);
        let arrived = Rc::new(Cell::new(0));
        let of_world = Rc::clone(&arrived);
        let ending = simulation.run(async move {
            spawn_in_world(async move {
                sleep(Duration::from_secs(1)).await;
                of_world.set(1);
            });
            for _ in 0..2 {
                reach("here");
                pass().await;
            }
            panic!("it has died before");
        });
        assert_eq!(ending, Ending::<()>::Died);
        assert_eq!(arrived.get(), 0);
        assert_eq!(simulation.run(sleep(Duration::from_secs(2))), Ending::Done(()));
        assert_eq!(arrived.get(), 1);
    }
}
