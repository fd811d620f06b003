//! The README's first session, line for line: what a newcomer types works as it stands there.

use crate::support::foreign::Foreign;
use crate::support::node::Node;
use crate::support::wait::until_now;

/// The fenced blocks of a language, with the node's ports in place of the default ones.
fn blocks(node: &Node, language: &str) -> Vec<String> {
    let readme = include_str!("../../README.md");
    let mut blocks = Vec::new();
    let mut rest = readme;
    while let Some((_, after)) = rest.split_once(&format!("```{language}\n")) {
        let (block, remainder) = after.split_once("```").expect("a fence that ends");
        let kafka = format!("127.0.0.1:{}", node.ports.kafka.port());
        let postgres = format!("port={}", node.ports.postgres.port());
        blocks.push(block.replace("localhost:9092", &kafka).replace("port=5433", &postgres));
        rest = remainder;
    }
    blocks
}

/// The block's kcat line, run by a shell.
fn shell(block: &str) -> String {
    Foreign::Shell.run(&["-c", block]).expect("there is a shell").expect_success(block)
}

#[test]
fn the_first_session_works_line_for_line() {
    let node = Node::start();
    if Foreign::Kcat.find().is_none() || Foreign::Psql.find().is_none() || Foreign::Python.find().is_none() {
        return;
    }
    let commands = blocks(&node, "sh");
    let kcat: Vec<_> = commands.iter().filter(|block| block.contains("kcat")).collect();
    let [write, read] = kcat[..] else { panic!("two commands for kcat: {commands:?}") };
    shell(write);

    // The one statement that does not end is tried by another test.
    let [session] = &blocks(&node, "sql")[..] else { panic!("one session") };
    let (before, after) = session.split_once("COPY (SELECT").expect("a live one");
    let after = after.split_once(";\n").expect("its end").1;
    let file = node.scratch().join("session.sql");
    std::fs::write(&file, format!("{before}\n{after}")).expect("written");
    let session = ["-v", "ON_ERROR_STOP=1", "-A", "-t", "-f", file.to_str().expect("UTF-8")];
    let answers = Foreign::psql(&node, &session).expect("installed").expect_success("the session");
    assert!(answers.contains("ada|/tea|120|"), "what kcat wrote: {answers}");
    assert!(answers.contains("INSERT 0 2"), "{answers}");
    assert!(answers.contains("visits_per_page|"), "its continuous query: {answers}");
    assert!(answers.contains("CHECKPOINT") && answers.contains(".parquet"), "{answers}");

    let python = blocks(&node, "python").concat();
    let counted = Foreign::Python.run(&["-c", &python]).expect("installed").expect_success("the Python program");
    assert!(counted.contains("('/tea', 3)") && counted.contains("('/cups', 1)"), "{counted}");

    until_now("the continuous table to have the newest visit", || {
        shell(read).lines().any(|line| line.starts_with("/tea ") && line.contains("\"visits\":3"))
    });
}
