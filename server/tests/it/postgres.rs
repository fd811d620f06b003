//! Postgres's port as a driver meets it (tokio-postgres), and in raw frames where a driver is too polite.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aquifer_server::settings::ServerSettings;
use aquifer_server::{Addresses, BoundAddresses, Components, Server};
use aquifer_sql::engine::{Engine, EngineOptions};
use aquifer_storage::clock::{SystemClock, SystemRandom};
use aquifer_storage::settings::StorageSettings;
use aquifer_storage::{OpenOptions, Storage};
use futures::{StreamExt, pin_mut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};
use tokio_util::sync::CancellationToken;

/// Longest a test waits for anything.
const DEADLINE: Duration = Duration::from_secs(20);
/// How soon a cancelled statement is to be answered, with room for a busy machine.
const CANCEL_MAX: Duration = Duration::from_secs(2);

struct Node {
    storage: Storage,
    addresses: BoundAddresses,
    shutdown: CancellationToken,
    served: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Node {
    async fn start(settings: ServerSettings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = OpenOptions {
            data_dir: dir.path().to_owned(),
            object_store_url: None,
            object_store: Default::default(),
            settings: StorageSettings::default(),
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
        };
        let storage = Storage::open(options).await.unwrap();
        let engine = Engine::open(storage.clone(), EngineOptions::default()).await.unwrap();
        let free = || "127.0.0.1:0".to_owned();
        let wanted = Addresses { kafka: free(), kafka_advertised: None, postgres: free(), http: free() };
        let server = Server::bind(wanted, settings).await.unwrap();
        let addresses = server.addresses();
        let shutdown = CancellationToken::new();
        let metrics = Arc::new(|| "aquifer_up 1\n".to_owned());
        let components = Components { storage: storage.clone(), engine, metrics };
        let served = tokio::spawn(server.run(components, shutdown.clone()));
        Self { storage, addresses, shutdown, served, _dir: dir }
    }

    async fn client(&self) -> Client {
        self.try_client().await.unwrap()
    }

    async fn try_client(&self) -> Result<Client, tokio_postgres::Error> {
        let port = self.addresses.postgres.port();
        let (client, connection) =
            tokio_postgres::connect(&format!("host=127.0.0.1 port={port} user=anybody"), NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(DEADLINE, self.served).await.unwrap().unwrap();
        self.storage.close().await.unwrap();
    }

    async fn http(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.addresses.http).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

fn code(error: &tokio_postgres::Error) -> &SqlState {
    error.code().unwrap_or_else(|| panic!("no code in {error:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_and_results_travel_in_binary_and_keep_their_types() {
    let node = Node::start(ServerSettings::default()).await;
    let client = node.client().await;
    client.batch_execute("CREATE TABLE t (id BIGINT PRIMARY KEY, name TEXT, tags TEXT[], price DOUBLE)").await.unwrap();
    let tags = vec!["a b".to_owned(), "c".to_owned()];
    let insert = "INSERT INTO t VALUES ($1, $2, $3, $4)";
    let inserted = client.execute(insert, &[&7_i64, &"seven", &tags, &1.5_f64]).await.unwrap();
    assert_eq!(inserted, 1);
    let row = client.query_one("SELECT * FROM t WHERE id = $1 AND name = $2", &[&7_i64, &"seven"]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, &str>(1)), (7, "seven"));
    assert_eq!((row.get::<_, Vec<String>>(2), row.get::<_, f64>(3)), (tags, 1.5));
    let null = client.query_one("SELECT count(*), max(name) FROM t WHERE id > $1", &[&100_i64]).await.unwrap();
    assert_eq!((null.get::<_, i64>(0), null.get::<_, Option<String>>(1)), (0, None));
    node.stop().await;
}

/// A value in its binary format, of whatever type.
#[derive(Debug, PartialEq)]
struct Binary(Vec<u8>);

impl ToSql for Binary {
    fn to_sql(
        &self,
        _kind: &Type,
        out: &mut bytes::BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(_kind: &Type) -> bool {
        true
    }

    tokio_postgres::types::to_sql_checked!();
}

impl<'a> FromSql<'a> for Binary {
    fn from_sql(_kind: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(raw.to_vec()))
    }

    fn accepts(_kind: &Type) -> bool {
        true
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_declared_type_has_its_own_oid_as_a_parameter_and_as_a_column() {
    let node = Node::start(ServerSettings::default()).await;
    let client = node.client().await;
    let columns = "id UUID KEY, doc jsonb, address STRUCT<city STRING>, counts MAP<STRING, INT>, \
                   points ARRAY<STRUCT<x INT>>, n DECIMAL(30, 12), v VARCHAR(9), d DATE, at TIMESTAMPTZ, t TIME, \
                   list INT[], b BYTES";
    client.batch_execute(&format!("CREATE STREAM w ({columns}) WITH (partitions = 1)")).await.unwrap();
    let insert =
        client.prepare("INSERT INTO w VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)").await.unwrap();
    let [json, list] = [Type::JSONB, Type::INT4_ARRAY];
    let (date, at, time) = (Type::DATE, Type::TIMESTAMPTZ, Type::TIME);
    let told = |text: Type| {
        let nested = [json.clone(), json.clone(), json.clone(), json.clone()];
        let mut types = vec![Type::UUID];
        types.extend(nested);
        types.extend([Type::NUMERIC, text, date.clone(), at.clone(), time.clone(), list.clone(), Type::BYTEA]);
        types
    };
    assert_eq!(insert.params(), told(Type::VARCHAR));
    let jsonb = |text: &str| Binary([b"\x01", text.as_bytes()].concat());
    // 1234567890.000000000001
    let number = Binary(vec![0, 6, 0, 2, 0, 0, 0, 12, 0, 12, 0x0d, 0x80, 0x1e, 0xd2, 0, 0, 0, 0, 0, 1]);
    let list = Binary([1_i32, 1, 23, 2, 1, 4, 5, -1].iter().flat_map(|number| number.to_be_bytes()).collect());
    let values = [
        Binary((0..16).collect()),
        jsonb("{\"a\": [1,  2]}"),
        jsonb("{\"city\": \"Rome\"}"),
        jsonb("{\"k\": 1}"),
        jsonb("[{\"x\": 1}, {\"x\": null}]"),
        number,
        Binary(b"text".to_vec()),
        Binary(1_i32.to_be_bytes().to_vec()),
        Binary(5_i64.to_be_bytes().to_vec()),
        Binary(1_000_001_i64.to_be_bytes().to_vec()),
        list,
        Binary(vec![0, 255]),
    ];
    let parameters: Vec<&(dyn ToSql + Sync)> = values.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
    assert_eq!(client.execute(&insert, &parameters).await.unwrap(), 1);
    let row = client.query_one("SELECT * FROM w", &[]).await.unwrap();
    let types: Vec<Type> = row.columns().iter().map(|column| column.type_().clone()).collect();
    assert_eq!(types, told(Type::TEXT));
    for (index, value) in values.iter().enumerate() {
        assert_eq!(&row.get::<_, Binary>(index), value, "column {}", row.columns()[index].name());
    }
    let shown = client.simple_query("SELECT address, counts, points, n, list FROM w").await.unwrap();
    let Some(SimpleQueryMessage::Row(row)) = shown.iter().find(|message| matches!(message, SimpleQueryMessage::Row(_)))
    else {
        panic!("{shown:?}")
    };
    let shown: Vec<_> = (0..row.len()).map(|column| row.get(column).unwrap()).collect();
    let expected =
        ["{\"city\": \"Rome\"}", "{\"k\": 1}", "[{\"x\": 1}, {\"x\": null}]", "1234567890.000000000001", "{5,NULL}"];
    assert_eq!(shown, expected);
    let error = client.execute("INSERT INTO w (v) VALUES ($1)", &[&"ten letters"]).await.unwrap_err();
    assert_eq!(error.code().map(SqlState::code), Some("22001"));
    let error = client.execute("INSERT INTO w (address) VALUES ($1)", &[&jsonb("[1]")]).await.unwrap_err();
    assert_eq!(error.code().map(SqlState::code), Some("22P02"));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_stops_the_rest_of_a_message_and_fails_its_block() {
    let node = Node::start(ServerSettings::default()).await;
    let client = node.client().await;
    client.batch_execute("CREATE TABLE t (id BIGINT PRIMARY KEY)").await.unwrap();
    let error =
        client.batch_execute("INSERT INTO t VALUES (1); SELECT nope; INSERT INTO t VALUES (2)").await.unwrap_err();
    assert_eq!(code(&error), &SqlState::UNDEFINED_COLUMN);
    client.batch_execute("BEGIN; INSERT INTO t VALUES (3)").await.unwrap();
    let error = client.query("SELECT 1/0", &[]).await.unwrap_err();
    assert_eq!(code(&error), &SqlState::DIVISION_BY_ZERO);
    let error = client.query("SELECT 1", &[]).await.unwrap_err();
    assert_eq!(code(&error), &SqlState::IN_FAILED_SQL_TRANSACTION);
    client.batch_execute("ROLLBACK").await.unwrap();
    let rows = client.query("SELECT id FROM t ORDER BY id", &[]).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.get::<_, i64>(0)).collect::<Vec<_>>(), [1]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_savepoint_takes_back_what_came_after_it() {
    let node = Node::start(ServerSettings::default()).await;
    let client = node.client().await;
    client.batch_execute("CREATE TABLE t (id BIGINT PRIMARY KEY)").await.unwrap();
    client.batch_execute("BEGIN; INSERT INTO t VALUES (1); SAVEPOINT a; INSERT INTO t VALUES (2)").await.unwrap();
    assert!(client.batch_execute("SELECT nope").await.is_err());
    client.batch_execute("ROLLBACK TO SAVEPOINT a; INSERT INTO t VALUES (3); RELEASE a").await.unwrap();
    let error = client.batch_execute("ROLLBACK TO a").await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "3B001");
    client
        .batch_execute("ROLLBACK; BEGIN; SAVEPOINT a; INSERT INTO t VALUES (4); RELEASE SAVEPOINT a; COMMIT")
        .await
        .unwrap();
    let rows = client.query("SELECT id FROM t ORDER BY id", &[]).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.get::<_, i64>(0)).collect::<Vec<_>>(), [4]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_portal_is_read_in_parts() {
    let node = Node::start(ServerSettings::default()).await;
    let mut client = node.client().await;
    let transaction = client.transaction().await.unwrap();
    let portal = transaction.bind("SELECT * FROM generate_series(1, 25)", &[]).await.unwrap();
    let mut parts = Vec::new();
    loop {
        let rows = transaction.query_portal(&portal, 10).await.unwrap();
        if rows.is_empty() {
            break;
        }
        parts.push(rows.len());
    }
    assert_eq!(parts, [10, 10, 5]);
    transaction.commit().await.unwrap();
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_copy_shows_each_record_and_ends_by_cancel() {
    let node = Node::start(ServerSettings::default()).await;
    let (reader, writer) = (node.client().await, node.client().await);
    writer.batch_execute("CREATE STREAM s (id BIGINT, name TEXT) WITH (kafka_topic = 's')").await.unwrap();
    reader.batch_execute("SET auto_offset_reset = 'earliest'").await.unwrap();
    let lines = reader.copy_out("COPY (SELECT id, name FROM s EMIT CHANGES) TO STDOUT").await.unwrap();
    pin_mut!(lines);
    for id in 1..4 {
        writer.batch_execute(&format!("INSERT INTO s VALUES ({id}, 'a\tb')")).await.unwrap();
        let line = tokio::time::timeout(DEADLINE, lines.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(line, format!("{id}\ta\\tb\n"));
    }
    let begun = Instant::now();
    reader.cancel_token().cancel_query(NoTls).await.unwrap();
    let error = tokio::time::timeout(DEADLINE, lines.next()).await.unwrap().unwrap().unwrap_err();
    assert_eq!(code(&error), &SqlState::QUERY_CANCELED);
    assert!(begun.elapsed() < CANCEL_MAX, "{:?}", begun.elapsed());
    assert_eq!(reader.query_one("SELECT 1", &[]).await.unwrap().len(), 1);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_keeps_its_threads_busy_is_cancelled_all_the_same() {
    let node = Node::start(ServerSettings::default()).await;
    let client = node.client().await;
    let token = client.cancel_token();
    let busy = "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b";
    let running = tokio::spawn(async move { client.simple_query(busy).await });
    // Until the statement has begun there is nothing to cancel; the request is repeated until it is heard.
    let ended = tokio::time::timeout(DEADLINE, async {
        while !running.is_finished() {
            token.cancel_query(NoTls).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        running.await.unwrap()
    });
    assert_eq!(code(&ended.await.unwrap().unwrap_err()), &SqlState::QUERY_CANCELED);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_connections_are_told_so_and_a_free_place_is_taken() {
    let settings = ServerSettings { postgres_connections_max: 1, ..ServerSettings::default() };
    let node = Node::start(settings).await;
    let first = node.client().await;
    let error = node.try_client().await.err().unwrap();
    assert_eq!(code(&error), &SqlState::TOO_MANY_CONNECTIONS);
    drop(first);
    tokio::time::timeout(DEADLINE, async {
        while node.try_client().await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_closes_its_connection_and_no_other() {
    let node = Node::start(ServerSettings::default()).await;
    let client = node.client().await;
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x7f\xff\xff\xff\0\x03\0\0", b"\0\0\0\x09\0\x09\0\0\0"] {
        let mut stream = TcpStream::connect(node.addresses.postgres).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
        assert_eq!(answer.first(), Some(&b'E'));
    }
    let ssl = b"\0\0\0\x08\x04\xd2\x16\x2f";
    let mut stream = TcpStream::connect(node.addresses.postgres).await.unwrap();
    stream.write_all(ssl).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'N');
    let messages = client.simple_query("SELECT 'still here'").await.unwrap();
    assert!(
        messages
            .iter()
            .any(|message| matches!(message, SimpleQueryMessage::Row(row) if row.get(0) == Some("still here")))
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_tells_idle_clients_and_lets_a_running_statement_end() {
    let node = Node::start(ServerSettings::default()).await;
    let (idle, busy) = (node.client().await, node.client().await);
    let running =
        tokio::spawn(
            async move { busy.query_one("SELECT pg_sleep(1), 42", &[]).await.map(|row| row.get::<_, i64>(1)) },
        );
    let shutdown = node.shutdown.clone();
    // The statement is under way once the server has spoken to both clients; one round trip of the other shows it.
    idle.simple_query("SELECT pg_sleep(0.3)").await.unwrap();
    shutdown.cancel();
    assert_eq!(tokio::time::timeout(DEADLINE, running).await.unwrap().unwrap().unwrap(), 42);
    let error = tokio::time::timeout(DEADLINE, idle.simple_query("SELECT 1")).await.unwrap().unwrap_err();
    assert!(error.is_closed() || code(&error) == &SqlState::ADMIN_SHUTDOWN, "{error:?}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_describes_itself_as_psql_asks() {
    let node = Node::start(ServerSettings::default()).await;
    let client = node.client().await;
    client.batch_execute("CREATE TABLE users (id BIGINT PRIMARY KEY, name TEXT)").await.unwrap();
    let oid: u32 = client
        .query_one("SELECT c.oid FROM pg_catalog.pg_class c WHERE c.relname OPERATOR(pg_catalog.~) '^(users)$' COLLATE pg_catalog.default AND pg_catalog.pg_table_is_visible(c.oid)", &[])
        .await
        .unwrap()
        .get(0);
    let columns = format!(
        "SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), \
         (SELECT pg_catalog.pg_get_expr(d.adbin, d.adrelid, true) FROM pg_catalog.pg_attrdef d \
          WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum AND a.atthasdef), a.attnotnull \
         FROM pg_catalog.pg_attribute a WHERE a.attrelid = '{oid}' AND a.attnum > 0 AND NOT a.attisdropped \
         ORDER BY a.attnum"
    );
    let rows = client.query(&columns, &[]).await.unwrap();
    let shown: Vec<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let text = |text: &str| text.to_owned();
    assert_eq!(shown, [(text("id"), text("bigint")), (text("name"), text("text"))]);
    let row = client.query_one("SELECT 'users'::regclass, 'users'::regclass::oid = $1", &[&oid]).await.unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, bool>(1)), ("users", true));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_says_alive_ready_and_what_it_counts() {
    let node = Node::start(ServerSettings::default()).await;
    assert!(node.http("/health").await.ends_with("alive\n"));
    let ready = node.http("/ready").await;
    assert!(ready.starts_with("HTTP/1.1 200") && ready.ends_with("ready\n"), "{ready}");
    assert!(node.http("/metrics").await.ends_with("aquifer_up 1\n"));
    assert!(node.http("/nope").await.starts_with("HTTP/1.1 404"));
    node.stop().await;
}
