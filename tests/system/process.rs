//! The process keeps its contract: one ready line, ports in the right hands, errors in one line, an end in order.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use rdkafka::consumer::Consumer;
use tempfile::TempDir;

use crate::support::kafka::{Wire, consumer};
use crate::support::node::{Node, command};
use crate::support::sql::Sql;

/// Runs the binary to its end, which must be soon.
fn run(arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let output = command(arguments).envs(environment.iter().copied()).output().expect("the binary runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// A start that must fail with 1, and the one line it says about it (log lines before it aside).
fn refused_start(arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let (code, stdout, stderr) = run(arguments, environment);
    assert_eq!(code, Some(1), "{stderr}");
    assert_eq!(stdout, "", "nothing is ready");
    let said: Vec<_> = stderr.lines().filter(|line| line.starts_with("aquifer: ")).collect();
    assert_eq!(said.len(), 1, "one line says why: {stderr}");
    assert_eq!(stderr.lines().last(), Some(said[0]), "and it is the last one");
    said[0].to_owned()
}

const FREE_PORTS: [&str; 7] =
    ["serve", "--kafka-addr", "127.0.0.1:0", "--postgres-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0"];

/// An HTTP answer: status and body.
pub(crate) fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("the HTTP port answers");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status, body.to_owned())
}

#[test]
fn version_names_version_and_commit() {
    let (code, stdout, _) = run(&["--version"], &[]);
    assert_eq!(code, Some(0));
    let (name, rest) = stdout.trim().split_once(' ').expect("two words");
    let (version, commit) = rest.split_once(' ').expect("two words");
    assert_eq!((name, version), ("aquifer", env!("CARGO_PKG_VERSION")));
    let commit = commit.trim_matches(['(', ')']);
    assert!(commit == "unknown" || commit.len() >= 7, "{stdout}");
}

#[test]
fn bad_usage_exits_with_2_and_help_with_0() {
    for arguments in [&["serve", "--no-such-flag"][..], &["no-such-command"], &[], &["demo", "--rate", "0"]] {
        let (code, _, stderr) = run(arguments, &[]);
        assert_eq!(code, Some(2), "{arguments:?}");
        assert!(stderr.contains("Usage") || stderr.contains("--help"), "{stderr}");
    }
    let (code, stdout, _) = run(&["serve", "--help"], &[]);
    assert_eq!(code, Some(0));
    for flag in ["config", "data-dir", "object-store", "kafka-addr", "kafka-advertised", "postgres-addr", "http-addr"] {
        assert!(stdout.contains(&format!("--{flag} ")), "{flag} in {stdout}");
    }
}

#[test]
fn a_bad_configuration_is_refused_in_one_line_with_every_problem() {
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("aquifer.toml");
    std::fs::write(&file, "[tier]\nage_maximum = 1\nbytes_min = 'lots'\n").expect("written");
    let line = refused_start(
        &["serve", "--config", file.to_str().expect("UTF-8"), "--http-addr", "nowhere"],
        &[("AQUIFER_WAL_SYNC_INTERVAL_MAX", "often")],
    );
    for part in ["4 problems", "tier.age_maximum", "tier.bytes_min", "http_addr", "AQUIFER_WAL_SYNC_INTERVAL_MAX"] {
        assert!(line.contains(part), "no {part} in {line}");
    }
    let line = refused_start(&["serve"], &[("RUST_LOG", "=[{"), ("AQUIFER_KAFKA_ADDR", "127.0.0.1:0")]);
    assert!(line.contains("RUST_LOG"), "{line}");
    let line = refused_start(&["serve", "--config", "/no/such/aquifer.toml"], &[]);
    assert!(line.contains("cannot read the configuration file /no/such/aquifer.toml"), "{line}");
}

#[test]
fn a_wildcard_address_needs_an_advertised_one() {
    let line = refused_start(&["serve", "--kafka-addr", "0.0.0.0:0"], &[]);
    assert!(line.contains("--kafka-advertised"), "{line}");
}

#[test]
fn a_busy_port_is_named() {
    let directory = TempDir::new().expect("a directory");
    let holder = TcpListener::bind("127.0.0.1:0").expect("a port");
    let busy = holder.local_addr().expect("bound").to_string();
    for (flag, protocol) in [("--kafka-addr", "kafka"), ("--postgres-addr", "postgres"), ("--http-addr", "http")] {
        let mut arguments: Vec<&str> = FREE_PORTS.to_vec();
        let at = arguments.iter().position(|word| *word == flag).expect("a flag");
        arguments[at + 1] = &busy;
        let data_dir = directory.path().join("data");
        let line = refused_start(&arguments, &[("AQUIFER_DATA_DIR", data_dir.to_str().expect("UTF-8"))]);
        assert!(line.contains(&format!("cannot listen for {protocol} on {busy}")), "{line}");
        assert!(line.contains(flag), "{line}");
    }
}

#[test]
fn a_data_directory_that_cannot_be_one_is_named() {
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("data");
    std::fs::write(&file, "in the way").expect("written");
    // The second is refused to root too, who may write everywhere else.
    for path in [file.to_str().expect("UTF-8"), "/proc/aquifer-data"] {
        let line = refused_start(&FREE_PORTS, &[("AQUIFER_DATA_DIR", path)]);
        assert!(line.contains(path), "{line}");
    }
    assert_eq!(std::fs::read_to_string(&file).expect("still there"), "in the way");
}

#[test]
fn an_object_store_of_an_unknown_kind_is_refused_by_name() {
    let directory = TempDir::new().expect("a directory");
    let data_dir = directory.path().join("data");
    for url in ["ftp://host/", "hdfs://host/path"] {
        let environment = [("AQUIFER_DATA_DIR", data_dir.to_str().expect("UTF-8")), ("AQUIFER_OBJECT_STORE", url)];
        let line = refused_start(&FREE_PORTS, &environment);
        let scheme = url.split_once(':').expect("a scheme").0;
        assert!(line.contains(scheme), "{line}");
        assert!(line.contains("file:///") && line.contains("memory:"), "what is taken is said: {line}");
    }
}

#[test]
fn a_second_process_on_the_same_directory_is_refused_by_name() {
    let node = Node::start();
    let data_dir = node.data_dir();
    let path = data_dir.to_str().expect("UTF-8");
    let line = refused_start(&FREE_PORTS, &[("AQUIFER_DATA_DIR", path)]);
    assert!(line.contains(path), "{line}");
    assert!(line.contains("in use") || line.contains("another process"), "{line}");
}

#[test]
fn localhost_reaches_every_port_by_both_addresses() {
    let node = Node::start();
    let has_v6 = TcpListener::bind("[::1]:0").is_ok();
    for address in [node.ports.kafka, node.ports.postgres, node.ports.http] {
        TcpStream::connect(address).expect("127.0.0.1 answers");
        if has_v6 {
            TcpStream::connect(("::1", address.port())).expect("::1 answers");
        }
    }
}

#[test]
fn http_tells_health_readiness_and_metrics() {
    let node = Node::start();
    assert_eq!(get(node.ports.http, "/health").0, 200);
    assert_eq!(get(node.ports.http, "/ready").0, 200);
    let (status, metrics) = get(node.ports.http, "/metrics");
    assert_eq!(status, 200);
    assert!(metrics.contains("aquifer_build_info{version="), "{metrics}");
    assert_eq!(get(node.ports.http, "/no-such-path").0, 404);
}

#[test]
fn terminate_and_interrupt_drain_and_exit_with_0() {
    for signal in ["TERM", "INT"] {
        let mut node = Node::start();
        node.signal(signal);
        assert_eq!(node.wait_for_exit().code(), Some(0), "after SIG{signal}");
        assert!(node.log().contains("draining"), "{}", node.log());
    }
}

#[test]
fn a_listener_beyond_this_machine_is_warned_of() {
    let node = Node::start_as(&["serve", "--kafka-addr", "0.0.0.0:0", "--kafka-advertised", "127.0.0.1:9092"], &[]);
    let log = node.log();
    let warned =
        |line: &str| line.contains("WARN") && line.contains("without authentication") && line.contains("kafka");
    assert!(log.lines().any(warned), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn open_connections_and_endless_queries_do_not_keep_a_node_from_its_end() {
    let mut node = Node::start();
    let sql = Sql::connect(&node).await;
    sql.run("CREATE STREAM s (k STRING KEY) WITH (kafka_topic = 's', value_format = 'json')").await;
    let idle = Sql::connect(&node).await;
    let mut half = Wire::connect(&node);
    half.send(&100_i32.to_be_bytes());
    // A fetch that waits for records as long as it may.
    let reader = consumer(&node, "waiting");
    reader.subscribe(&["s"]).expect("subscribed");
    let endless = sql.client.simple_query_raw("SELECT k FROM s EMIT CHANGES").await.expect("a push query");
    let status = tokio::task::block_in_place(|| node.terminate());
    assert_eq!(status.code(), Some(0));
    drop((endless, idle, reader));
}

#[test]
fn a_second_signal_leaves_at_once() {
    let mut node = Node::start();
    node.signal("TERM");
    node.signal("TERM");
    // Whoever is first: the end of the drain or the second signal.
    let code = node.wait_for_exit().code();
    assert!(code == Some(0) || code == Some(128 + 15), "{code:?}");
}
