//! The house rules, kept by a test: how files open and how long they grow, which way imports point, what is not said.
//!
//! It reads text, not syntax: a rule that needs a parser is the linter's. Every exception stands here as data with its
//! reason.

use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a file without its tests.
const FILE_LINES_MAX: usize = 600;
/// Lines of a function, signature and closing brace included.
const FUNCTION_LINES_MAX: usize = 70;

/// Rooms of each crate from the bottom up: a room may import those before it, itself, and what is not listed.
/// Several rooms in one string are one level and may know each other. The doors of a crate (`storage`; `engine` and
/// `session`; `server`) are not listed: their plain data are everybody's words.
const ROOMS: [(&str, &[&str]); 3] = [
    (
        "storage/src",
        &[
            "error ids clock settings worker",
            "traffic",
            "envelope",
            "record",
            "object",
            "log",
            "manifest",
            "scan tier",
            "state",
            "verify",
        ],
    ),
    (
        "sql/src",
        &[
            "error settings types written",
            "limit",
            "statement",
            "catalog function",
            "operator",
            "table plan",
            "run stream",
        ],
    ),
    ("server/src", &["listen identity settings", "kafka postgres http"]),
];

/// (file, room it may import against the order, why).
const AGAINST_THE_ORDER: &[(&str, &str, &str)] = &[
    ("sql/src/catalog/system.rs", "stream", "aquifer.queries shows what runs, and only the supervisor knows it"),
    ("sql/src/types.rs", "catalog", "pg_type is the one table of names and OIDs of the types that metadata marks"),
];

/// Words that name no room, and words that are no business of the repository.
const NO_ROOMS: [&str; 5] = ["utils", "util", "common", "manager", "helpers"];

struct Source {
    /// Relative to the workspace, with `/`.
    path: String,
    text: String,
}

impl Source {
    /// The text up to the first `#[cfg(test)]` that opens a module.
    fn without_tests(&self) -> &str {
        let tail = self.text.match_indices("#[cfg(test)]\n").find(|(at, mark)| {
            let after = self.text[at + mark.len()..].trim_start();
            (after.starts_with("mod ") && after.lines().next().is_some_and(|line| line.ends_with('{')))
                || after.starts_with("#[")
        });
        tail.map_or(self.text.as_str(), |(at, _)| &self.text[..at])
    }
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file that git would keep, as far as names tell: no build output, no installed packages, nothing hidden.
fn files(extension: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut waiting: Vec<PathBuf> = vec![workspace().to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).expect("a readable directory") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            let left_out = ["target", "node_modules", "aquifer-data"].contains(&name.as_str());
            if left_out || (name.starts_with('.') && name != ".ci") {
                continue;
            }
            if path.is_dir() {
                waiting.push(path);
            } else if extension.is_empty() || name.ends_with(extension) {
                let relative = path.strip_prefix(workspace()).expect("inside").to_string_lossy().replace('\\', "/");
                // What is not text has no words.
                if let Ok(text) = fs::read_to_string(&path) {
                    found.push(Source { path: relative, text });
                }
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn rust() -> Vec<Source> {
    files(".rs")
}

/// Path and text of every Rust file below these folders.
pub(crate) fn sources(folders: &[&str]) -> Vec<(String, String)> {
    let wanted = |source: &Source| folders.iter().any(|folder| source.path.starts_with(folder));
    rust().into_iter().filter(wanted).map(|source| (source.path, source.text)).collect()
}

fn none(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn every_file_opens_with_its_promise() {
    let opens = |source: &Source| source.text.starts_with("//! ");
    none(&rust().iter().filter(|source| !opens(source)).map(|source| source.path.clone()).collect::<Vec<_>>());
}

#[test]
fn files_stay_short() {
    // A file that is nothing but a module's tests stands apart so that the module stays short.
    let written = rust().into_iter().filter(|source| !source.path.ends_with("/tests.rs"));
    let problems = written.filter_map(|source| {
        let lines = source.without_tests().lines().count();
        (lines > FILE_LINES_MAX).then(|| format!("{}: {lines} lines, at most {FILE_LINES_MAX}", source.path))
    });
    none(&problems.collect::<Vec<_>>());
}

#[test]
fn functions_stay_short() {
    let problems = rust().into_iter().flat_map(|source| {
        let path = source.path.clone();
        let long = functions(source.without_tests()).into_iter().filter(|function| function.is_too_long());
        long.map(move |function| {
            let Function { line, name, lines, .. } = function;
            format!("{path}:{line}: fn {name} has {lines} lines, at most {FUNCTION_LINES_MAX}")
        })
        .collect::<Vec<_>>()
    });
    none(&problems.collect::<Vec<_>>());
}

#[test]
fn nothing_is_left_to_do() {
    let unfinished = ["todo!(", "unimplemented!("].map(|word| word.to_owned());
    let problems = rust().into_iter().filter(|source| source.path != "tests/system/tidy.rs").flat_map(|source| {
        let path = source.path.clone();
        let lines = source.text.lines().enumerate();
        let found = lines.filter(|(_, line)| unfinished.iter().any(|word| line.contains(word.as_str())));
        found.map(|(index, line)| format!("{path}:{}: {}", index + 1, line.trim())).collect::<Vec<_>>()
    });
    none(&problems.collect::<Vec<_>>());
}

#[test]
fn imports_point_one_way_between_crates() {
    let may_not_know = [
        ("storage/", &["aquifer_sql", "aquifer_server", "aquifer::", "datafusion"][..]),
        ("sql/", &["aquifer_server", "aquifer::", "pgwire", "kafka_protocol"][..]),
        ("server/", &["aquifer::", "datafusion::"][..]),
    ];
    let mut problems = Vec::new();
    for source in rust() {
        for (_, above) in may_not_know.iter().filter(|(place, _)| source.path.starts_with(place)) {
            for (index, line) in code_lines(&source.text) {
                let knows = above.iter().find(|name| line.contains(**name));
                problems.extend(knows.map(|name| format!("{}:{index}: knows {name}", source.path)));
            }
        }
    }
    // A type DataFusion shares with us on purpose, at the door of SQL.
    problems.retain(|problem| !problem.starts_with("server/src/postgres/") || !problem.ends_with("datafusion::"));
    none(&problems);
}

#[test]
fn imports_point_one_way_between_rooms() {
    let mut problems = Vec::new();
    for source in rust() {
        let Some((root, order)) = ROOMS.iter().find(|(root, _)| source.path.starts_with(&format!("{root}/"))) else {
            continue;
        };
        let inside = &source.path[root.len() + 1..];
        let room = inside.split(['/', '.']).next().expect("a name");
        let Some(level) = level_of(order, room) else { continue };
        for (line, other) in imported_rooms(source.without_tests()) {
            let above = level_of(order, &other).is_some_and(|other_level| other_level > level);
            let excused = AGAINST_THE_ORDER.iter().any(|(path, name, _)| *path == source.path && *name == other);
            if above && !excused {
                problems.push(format!("{}:{line}: {room} imports {other}, which stands above it", source.path));
            }
        }
    }
    none(&problems);
}

/// Rooms that compute plain values from plain values: no waiting, no files, no sockets, no clock.
const PURE: [&str; 12] = [
    "sql/src/operator/",
    "storage/src/manifest/model.rs",
    "storage/src/scan/plan.rs",
    "storage/src/tier/cleaned.rs",
    "storage/src/tier/latest.rs",
    "storage/src/tier/merge.rs",
    "storage/src/tier/retain.rs",
    "storage/src/tier/seal.rs",
    "storage/src/verify/footers.rs",
    "storage/src/verify/frames.rs",
    "storage/src/verify/spans.rs",
    "server/src/kafka/group/",
];

#[test]
fn pure_rooms_stay_pure() {
    let impure = ["async ", ".await", "tokio::", "std::fs", "std::net", "Instant::now", "SystemTime"];
    let mut problems = Vec::new();
    for source in rust().iter().filter(|source| PURE.iter().any(|room| source.path.starts_with(room))) {
        for (line, text) in code_lines(source.without_tests()) {
            let found = impure.iter().find(|word| text.contains(**word));
            problems.extend(found.map(|word| format!("{}:{line}: {word} in a pure room", source.path)));
        }
    }
    none(&problems);
}

#[test]
fn rooms_are_nouns_of_the_trade() {
    let names_one = |source: &Source| {
        source.path.split(['/', '.']).any(|part| NO_ROOMS.contains(&part)).then(|| source.path.clone())
    };
    none(&rust().iter().filter_map(names_one).collect::<Vec<_>>());
}

#[test]
fn the_repository_speaks_of_the_project_alone() {
    // Written in halves, so that this file does not say them.
    let words = [
        ["/ro", "ot/"],
        ["/ho", "me/"],
        ["/wo", "rk/"],
        ["/opt/wh", "eels"],
        ["registry.npm", "js"],
        ["files.pythonho", "sted"],
        ["index.crates", ".io-"],
        ["FIX", "ME"],
        ["XX", "X "],
    ]
    .map(|halves| halves.concat());
    let problems = files("").into_iter().flat_map(|source| {
        let path = source.path.clone();
        let lines = source.text.lines().enumerate();
        let found = lines.filter(|(_, line)| words.iter().any(|word| line.contains(word.as_str())));
        found.map(|(index, line)| format!("{path}:{}: {}", index + 1, line.trim())).collect::<Vec<_>>()
    });
    none(&problems.collect::<Vec<_>>());
}

#[test]
fn the_readme_shows_the_two_commands() {
    let readme = fs::read_to_string(workspace().join("README.md")).expect("a README");
    assert!(readme.contains("make run") && readme.contains("make test"));
}

#[test]
fn a_bare_cargo_test_covers_every_crate() {
    let manifest = fs::read_to_string(workspace().join("Cargo.toml")).expect("a manifest");
    let list = |key: &str| {
        let line = manifest.lines().find(|line| line.starts_with(key)).expect("the list");
        let inside = line.split_once('[').expect("a list").1.trim_end_matches(']');
        inside.split(',').map(|name| name.trim().trim_matches('"').to_owned()).collect::<Vec<_>>()
    };
    let (members, default_members) = (list("members"), list("default-members"));
    let missing = members.iter().filter(|member| !default_members.contains(member)).cloned().collect::<Vec<_>>();
    none(&missing);
}

fn level_of(order: &[&str], room: &str) -> Option<usize> {
    order.iter().position(|level| level.split(' ').any(|name| name == room))
}

/// Lines that are code rather than comment, with their numbers.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let numbered = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    numbered.filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// `crate::room` wherever it stands in code.
fn imported_rooms(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in code_lines(text) {
        for (at, mark) in line.match_indices("crate::") {
            // `$crate::` is a macro that expands elsewhere.
            let rest = &line[at + mark.len()..];
            if !line[..at].ends_with('$') {
                let name: String = rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
                found.push((number, name));
            }
        }
    }
    found
}

struct Function {
    line: usize,
    name: String,
    lines: usize,
    /// The line above the signature says why it may be long.
    excused: bool,
}

impl Function {
    fn is_too_long(&self) -> bool {
        self.lines > FUNCTION_LINES_MAX && !self.excused
    }
}

/// Functions by counting braces: from the line with `fn name` to the line that closes its body. rustfmt has laid the
/// text out, so a body ends with a `}` at the signature's own indentation.
fn functions(text: &str) -> Vec<Function> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let indentation = &line[..line.len() - line.trim_start().len()];
        let closing = format!("{indentation}}}");
        let ends_here = |candidate: &&str| **candidate == closing || candidate.starts_with(&format!("{closing} "));
        if let Some(body) = body_lines(&lines[index..], ends_here) {
            let above = &lines[index.saturating_sub(3)..index];
            let excused = above.iter().any(|line| line.contains("clippy::too_many_lines") && line.contains("reason"));
            found.push(Function { line: index + 1, name, lines: body, excused });
        }
    }
    found
}

/// Lines of the function that begins here; `None` for one without a body.
fn body_lines(lines: &[&str], ends_here: impl Fn(&&str) -> bool) -> Option<usize> {
    for (index, line) in lines.iter().enumerate() {
        if line.ends_with(';') && !lines[..=index].iter().any(|line| line.ends_with('{')) {
            return None;
        }
        if index == 0 && line.contains('{') && line.trim_end().ends_with('}') {
            return Some(1);
        }
        if index > 0 && ends_here(line) {
            return Some(index + 1);
        }
    }
    None
}

fn function_name(line: &str) -> Option<String> {
    let mut words = line.trim_start().split(' ').peekable();
    while words.peek().is_some_and(|word| {
        word.starts_with("pub") || ["const", "async", "unsafe", "extern", "default", "in", "\"C\""].contains(word)
    }) {
        words.next();
    }
    if words.next()? != "fn" {
        return None;
    }
    let name: String = words.next()?.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!name.is_empty()).then_some(name)
}

mod counting {
    use super::*;

    #[test]
    fn functions_are_measured_from_signature_to_closing_brace() {
        let text = "fn one() { 1 }\n\npub(crate) async fn two(\n    a: i32,\n) {\n    a\n}\nimpl X {\n    fn three(&self);\n    const fn four() {\n        if a {\n        }\n    }\n}\n";
        let measured: Vec<_> = functions(text).into_iter().map(|f| (f.name, f.line, f.lines)).collect();
        let expected = [("one", 1, 1), ("two", 3, 5), ("four", 10, 4)];
        assert_eq!(measured, expected.map(|(name, line, lines)| (name.to_owned(), line, lines)));
    }

    #[test]
    fn imports_are_seen_wherever_they_stand() {
        let text = "use crate::log::Node;\n// crate::tier\nlet x = crate::scan::plan(y);\n$crate::record!()";
        let found = imported_rooms(text);
        assert_eq!(found, [(1, "log".to_owned()), (3, "scan".to_owned())]);
    }
}
