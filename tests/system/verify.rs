//! `aquifer verify` as an operator runs it, and what it is for: a copy that is whole can be started elsewhere, one that is
//! not is told so by file.

use std::fs;
use std::path::Path;
use std::process::Output;

use crate::support::kafka::{produce, producer, read_from_start};
use crate::support::node::{Node, command};
use crate::support::sql::Sql;

fn verify(data_dir: &Path) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } =
        command(&["verify", "--data-dir", &data_dir.display().to_string()]).output().expect("the binary runs");
    (status.code(), String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr))
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a readable folder") {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).expect("an entry");
        if path.is_dir() {
            copy(&path, &to.join(name));
        } else {
            fs::copy(&path, to.join(name)).expect("copied");
        }
    }
}

#[test]
fn a_store_that_is_away_is_told_in_one_line_with_what_to_do() {
    let mut node = Node::start();
    assert_eq!(node.terminate().code(), Some(0));
    let data_dir = node.data_dir().display().to_string();
    let output = command(&["verify", "--data-dir", &data_dir, "--object-store", "s3://nowhere"])
        .env("AQUIFER_OBJECT_STORE_ENDPOINT", "http://127.0.0.1:1")
        .env("AQUIFER_OBJECT_STORE_ALLOW_HTTP", "true")
        .env("AQUIFER_OBJECT_STORE_ACCESS_KEY_ID", "me")
        .env("AQUIFER_OBJECT_STORE_SECRET_ACCESS_KEY", "secret")
        .env("AQUIFER_OBJECT_STORE_ATTEMPTS_MAX", "1")
        .output()
        .expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    let last = said.lines().last().expect("a line");
    assert!(last.starts_with("aquifer: ") && last.contains("it does not answer"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_stopped_node_is_whole_and_starts_elsewhere() {
    let mut node = Node::start();
    let kafka = producer(&node);
    for number in 0..40 {
        produce(&kafka, "events", "k", &format!("value-{number:04}")).await;
    }
    Sql::connect(&node).await.run("CHECKPOINT").await;
    for number in 40..60 {
        produce(&kafka, "events", "k", &format!("value-{number:04}")).await;
    }
    let (code, said) = verify(&node.data_dir());
    assert_eq!(code, Some(2), "a node runs: {said}");
    assert!(said.contains("in use by another process"), "{said}");
    assert_eq!(node.terminate().code(), Some(0));
    let backup = node.scratch().join("backup");
    copy(&node.data_dir(), &backup);
    fs::remove_file(backup.join("LOCK")).expect("a lock's file");
    let (code, said) = verify(&backup);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("clean: violations=0") && said.contains("objects=1 objects_read=1 rows=40"), "{said}");

    let mut elsewhere = Node::start();
    assert_eq!(elsewhere.terminate().code(), Some(0));
    fs::remove_dir_all(elsewhere.data_dir()).expect("removed");
    copy(&backup, &elsewhere.data_dir());
    elsewhere.restart();
    assert_eq!(read_from_start(&elsewhere, "events", 60).await.len(), 60);
    assert_eq!(Sql::connect(&elsewhere).await.number("SELECT count(*) FROM topics.events").await, 60);

    // The bucket alone is not taken over by chance, and a directory older than its bucket is refused.
    assert_eq!(elsewhere.terminate().code(), Some(0));
    for file in ["meta", "log"] {
        let path = elsewhere.data_dir().join(file);
        if path.is_dir() {
            fs::remove_dir_all(&path).expect("removed")
        } else {
            fs::remove_file(&path).expect("removed")
        }
    }
    let started = |node: &Node| {
        let dir = node.data_dir().display().to_string();
        let free = ["--kafka-addr=127.0.0.1:0", "--postgres-addr=127.0.0.1:0", "--http-addr=127.0.0.1:0"];
        let output = command(&["serve", "--data-dir", &dir, free[0], free[1], free[2]]).output().expect("it ends");
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = started(&elsewhere);
    assert!(said.contains("belongs to cluster") && said.contains("--take-over"), "{said}");
    copy(&backup.join("log"), &elsewhere.data_dir().join("log"));
    fs::copy(backup.join("meta"), elsewhere.data_dir().join("meta")).expect("copied");
    let said = started(&elsewhere);
    assert!(said.contains("another copy of the data directory has been in use"), "{said}");
}

/// Two topics of twenty cold records each, and the node stopped; gives the object of `hurt`.
async fn hurt_and_well(node: &mut Node) -> String {
    let kafka = producer(node);
    for number in 0..20 {
        produce(&kafka, "hurt", "k", &format!("hurt-{number:04}")).await;
        produce(&kafka, "well", "k", &format!("well-{number:04}")).await;
    }
    let sql = Sql::connect(node).await;
    sql.run("CHECKPOINT").await;
    let object = sql.value("SELECT url FROM aquifer.objects WHERE topic = 'hurt'").await;
    assert_eq!(node.terminate().code(), Some(0));
    object
}

/// Flips a bit in the middle of a file.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).expect("a file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).expect("written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_object_and_a_damaged_snapshot_are_named_and_the_rest_is_served() {
    let mut node = Node::start();
    let object = hurt_and_well(&mut node).await;
    let mut bytes = fs::read(&object).expect("an object");
    bytes[10] ^= 1;
    fs::write(&object, bytes).expect("written");
    let (code, said) = verify(&node.data_dir());
    let name = Path::new(&object).file_name().expect("a name").to_string_lossy().into_owned();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("damaged: violations=1 ") && said.contains(&name), "{said}");

    node.announce_error("corrupt");
    node.announce_error("damaged");
    node.restart();
    let sql = Sql::connect(&node).await;
    assert_eq!(sql.refused("SELECT * FROM topics.hurt").await.state.code(), "XX001");
    assert_eq!(sql.table("SELECT * FROM topics.well").await.len(), 20);
    assert_eq!(node.terminate().code(), Some(0));

    // A snapshot that is damaged costs an older one's time, nothing else.
    let log = node.data_dir().join("log");
    let snapshots = fs::read_dir(&log).expect("the log").map(|entry| entry.expect("an entry").path());
    let snapshot =
        snapshots.filter(|path| path.extension().is_some_and(|end| end == "snap")).max().expect("a snapshot");
    flip(&snapshot);
    let (code, said) = verify(&node.data_dir());
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&snapshot.display().to_string()), "{said}");
    node.restart();
    assert_eq!(Sql::connect(&node).await.table("SELECT * FROM topics.well").await.len(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_root_of_a_manifest_costs_its_topic_the_cold_part_and_nothing_else() {
    let mut node = Node::start();
    let object = hurt_and_well(&mut node).await;
    let topic = Path::new(&object).ancestors().nth(2).expect("the topic's folder");
    let roots = fs::read_dir(topic.join("manifest")).expect("roots").map(|entry| entry.expect("an entry").path());
    let root = roots.max().expect("a root");
    let whole = fs::read(&root).expect("a root");
    flip(&root);
    let name = root.file_name().expect("a name").to_string_lossy().into_owned();
    let (code, said) = verify(&node.data_dir());
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&name), "{said}");

    node.announce_error("a manifest cannot be read");
    node.restart();
    let sql = Sql::connect(&node).await;
    // The log still has all of it: the hour of local retention has not passed.
    assert_eq!(sql.table("SELECT * FROM topics.hurt").await.len(), 20);
    assert_eq!(read_from_start(&node, "hurt", 20).await.len(), 20);
    produce(&producer(&node), "hurt", "k", "hurt-0020").await;
    let refused = sql.refused("CHECKPOINT").await;
    assert_eq!(refused.state.code(), "XX001", "{refused:?}");
    assert!(refused.message.contains(&name), "{refused:?}");
    assert_eq!(sql.table("SELECT * FROM topics.well").await.len(), 20);
    assert_eq!(node.terminate().code(), Some(0));
    fs::write(&root, whole).expect("written");
    node.restart();
    assert_eq!(Sql::connect(&node).await.table("SELECT * FROM topics.hurt").await.len(), 21);
}
