//! One libFuzzer target for all readers of stored and received bytes: `AQUIFER_FUZZ_TARGET` names which.
//!
//! An allocator counts what a reader holds: more than [`HELD_BYTES_MAX`] for the few KiB it is given is a finding.

#![no_main]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use aquifer_storage::testing::fuzz::{TARGETS, Target, seeds};
use libfuzzer_sys::fuzz_target;

/// Bytes that may be held at once: the inputs are a few KiB.
const HELD_BYTES_MAX: usize = 64 << 20;

struct Counting;

static HELD_BYTES: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes to the system's allocator as it came; counting beside it touches no memory of the caller.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // Beyond all measure: caught before the system is asked. libFuzzer's own memory is not Rust's and not counted.
        if HELD_BYTES.fetch_add(layout.size(), Ordering::Relaxed) + layout.size() > HELD_BYTES_MAX {
            std::process::abort();
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn target() -> &'static Target {
    static CHOSEN: OnceLock<&Target> = OnceLock::new();
    CHOSEN.get_or_init(|| {
        let name = std::env::var("AQUIFER_FUZZ_TARGET").unwrap_or_default();
        TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| {
            let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
            panic!("AQUIFER_FUZZ_TARGET is '{name}', not one of {names:?}")
        })
    })
}

/// With `AQUIFER_FUZZ_SEEDS` a folder gets the first inputs of every corpus.
fn write_seeds() {
    let Ok(folder) = std::env::var("AQUIFER_FUZZ_SEEDS") else { return };
    for (number, (name, input)) in seeds().expect("seeds can be made").into_iter().enumerate() {
        let folder = std::path::Path::new(&folder).join(name);
        std::fs::create_dir_all(&folder).expect("a folder for seeds");
        std::fs::write(folder.join(format!("seed-{number}")), input).expect("a seed is written");
    }
}

fuzz_target!(init: write_seeds(), |input: &[u8]| {
    (target().read)(input);
});
