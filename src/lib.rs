//! Aquifer's process: what stands between `main` and the crates that do the work.
//!
//! 1. [`Args`] reads the command line.
//! 2. `config` turns flags, environment and file into one checked [`config::Config`], or names every problem at once.
//! 3. `telemetry` starts logs (standard error) and metrics.
//! 4. `node` opens storage, then SQL, then the listeners, prints the `ready` line and serves.
//! 5. `shutdown` turns signals into a drain with a deadline.
//! 6. `verify` looks at what is stored while no node runs.
//! 7. `demo` adds a small shop that writes through the Kafka port.

mod args;
mod config;
mod demo;
mod failure;
mod files;
mod node;
mod shutdown;
mod telemetry;
mod verify;

pub use args::{Args, Command, DemoFlags, ServeFlags, StoredFlags, VerifyFlags};
pub use failure::Failure;

/// `aquifer serve`: runs a node until a signal ends it.
///
/// # Errors
/// What kept it from starting or from stopping in order.
pub fn serve(flags: &ServeFlags) -> Result<(), Failure> {
    shutdown::run(flags, None)
}

/// `aquifer demo`: a node and a shop that writes into it.
///
/// # Errors
/// As [`serve`].
pub fn demo(flags: &DemoFlags) -> Result<(), Failure> {
    shutdown::run(&flags.serve, Some(demo::DemoOptions { events_per_second: flags.rate }))
}

/// `aquifer verify`: looks at what is stored; whether all of it is whole.
///
/// # Errors
/// What kept it from looking.
pub fn verify(flags: &VerifyFlags) -> Result<bool, Failure> {
    verify::run(flags)
}
