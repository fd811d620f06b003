//! One libFuzzer target for all readers of stored and received bytes: `AQUIFER_FUZZ_TARGET` names which.
//!
//! An allocator counts what a reader holds: more than its target allows for the few KiB it is given is a finding.

#![no_main]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use aquifer_storage::testing::fuzz::{TARGETS, Target, bombs, seeds};
use libfuzzer_sys::fuzz_target;

/// Bytes that may be held at once; as many as there are until the target is known.
static HELD_BYTES_MAX: AtomicUsize = AtomicUsize::new(usize::MAX);

struct Counting;

static HELD_BYTES: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes to the system's allocator as it came; counting beside it touches no memory of the caller.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // Beyond all measure: caught before the system is asked. libFuzzer's own memory is not Rust's and not counted.
        let held = HELD_BYTES.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        if held > HELD_BYTES_MAX.load(Ordering::Relaxed) {
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
    let write = |target: &str, name: String, input: Vec<u8>| {
        let folder = std::path::Path::new(&folder).join(target);
        std::fs::create_dir_all(&folder).expect("a folder for seeds");
        std::fs::write(folder.join(name), input).expect("a seed is written");
    };
    for (number, (target, input)) in seeds().expect("seeds can be made").into_iter().enumerate() {
        write(target, format!("seed-{number}"), input);
    }
    for (bytes, input) in bombs() {
        write("batch", format!("bomb-{bytes}"), input);
    }
}

fn begin() {
    write_seeds();
    HELD_BYTES_MAX.store(HELD_BYTES.load(Ordering::Relaxed) + target().held_bytes_max(), Ordering::Relaxed);
}

fuzz_target!(init: begin(), |input: &[u8]| {
    (target().read)(input);
});
