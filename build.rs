//! Names the commit a binary was built from, and never fails a build for it: outside a checkout it is `unknown`.
//!
//! Packagers say it with `AQUIFER_COMMIT`. A repository that merely encloses this one does not count.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=AQUIFER_COMMIT");
    let told = std::env::var("AQUIFER_COMMIT").ok().filter(|commit| !commit.is_empty());
    let commit = told.or_else(checked_out_commit).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=AQUIFER_COMMIT={commit}");
}

fn checked_out_commit() -> Option<String> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).canonicalize().ok()?;
    let top = Path::new(&git(&["rev-parse", "--show-toplevel"])?).canonicalize().ok()?;
    if here != top {
        return None;
    }
    // HEAD moves with a switch of branches, its log with a commit; a path that is absent would rebuild every time.
    for name in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", name])?;
        if Path::new(&path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
