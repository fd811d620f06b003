//! HTTP's port towards clients that say nothing, or that are too many.

use aquifer_server::settings::ServerSettings;
use aquifer_storage::settings::StorageSettings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::kafka::{DEADLINE, Node};

/// What comes until the other side closes.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset is an end too.
    let _end = timeout(DEADLINE, stream.read_to_end(&mut bytes)).await.expect("the connection ends in time");
    String::from_utf8(bytes).unwrap()
}

async fn ask(node: &Node) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(node.http).await.unwrap();
    let _sent = stream.write_all(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    let answer = rest(&mut stream).await;
    (stream, answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_says_nothing_whole_is_closed_and_no_more_than_allowed_are_open() {
    let settings =
        ServerSettings { http_connections_max: 1, http_request_timeout_ms: 500, ..ServerSettings::default() };
    let node = Node::start_with(settings, StorageSettings::default()).await;
    let mut silent = TcpStream::connect(node.http).await.unwrap();
    silent.write_all(b"GET /hea").await.unwrap();
    // Until the first one is accepted another may take its place.
    let refused = async {
        while !ask(&node).await.1.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, refused).await.expect("the second is closed without an answer");
    assert_eq!(rest(&mut silent).await, "", "the first one's time is over");
    let served = async {
        while !ask(&node).await.1.starts_with("HTTP/1.1 200") {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, served).await.expect("the place is free again");
    node.stop().await;
}
