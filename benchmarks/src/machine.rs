//! Which machine the numbers are of, as Linux tells it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde::Serialize;

use crate::failure::Result;

/// The machine.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    cpu: String,
    cores: usize,
    memory_bytes: u64,
    kernel: String,
}

impl Machine {
    pub(crate) fn this() -> Result<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
        let meminfo = fs::read_to_string("/proc/meminfo")?;
        let memory_kib = field(&meminfo, "MemTotal").and_then(|text| text.trim_end_matches("kB").trim().parse().ok());
        Ok(Self {
            cpu: field(&cpuinfo, "model name").unwrap_or("unknown").to_owned(),
            cores: std::thread::available_parallelism()?.get(),
            memory_bytes: memory_kib.unwrap_or(0u64) * 1024,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        })
    }
}

/// The text behind `name:` in one of /proc's lists.
fn field<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim_start().strip_prefix(':')?.trim())
}

/// A command that runs on these processors only, as `taskset` numbers them; on all where there is no `taskset`.
pub(crate) fn pinned(processors: Option<&str>, program: &Path) -> Command {
    match processors.zip(crate::peer::installed("taskset")) {
        Some((processors, taskset)) => {
            let mut command = Command::new(taskset);
            command.args(["-c", processors]).arg(program);
            command
        }
        None => Command::new(program),
    }
}

/// Resident memory of a process, as the kernel counts it.
pub(crate) fn resident_bytes(process: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS in /proc")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}

/// Linux tells CPU time in these, whatever the machine.
const TICK: Duration = Duration::from_millis(10);
/// Where the times of user and kernel stand in `stat`, counted behind the program's name.
const USER_TICKS_AT: usize = 11;

/// CPU time that a process has used so far, with all its threads. A busy neighbour changes it little, unlike the clock.
pub(crate) fn cpu_time(process: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name may hold anything, also blanks and parentheses.
    let (_, numbers) = stat.rsplit_once(')').ok_or("no name in /proc's stat")?;
    let ticks = numbers.split_whitespace().skip(USER_TICKS_AT).take(2).map(str::parse::<u32>);
    let ticks = ticks.sum::<std::result::Result<u32, _>>()?;
    Ok(TICK * ticks)
}
