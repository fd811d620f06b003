//! The oracle of continuous queries: whatever the input, however it was cut into ticks and wherever the queries were
//! stopped, a continuous query's relation equals the same SELECT run as a batch. There is no list of exceptions.
//!
//! `AQUIFER_ORACLE_SEED` repeats one case; `AQUIFER_ORACLE_CASES` asks for more of them.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::node::{Cell, Node, Table};
use super::queries::{COLUMNS, Query, query, record};

/// Cases when nothing else is asked for.
const CASES: u64 = 10;
/// Queries over one stream.
const QUERIES: usize = 8;
/// Looks at all tables per case.
const ROUNDS: usize = 4;
/// Relative difference that float sums and averages may have.
const TOLERANCE: f64 = 1e-9;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_continuous_query_equals_the_batch_however_it_was_cut_and_stopped() {
    match number("AQUIFER_ORACLE_SEED") {
        Some(seed) => {
            case(seed).await;
        }
        None => {
            let mut rows = 0;
            for seed in 0..number("AQUIFER_ORACLE_CASES").unwrap_or(CASES) {
                rows += Box::pin(case(seed)).await;
            }
            assert!(rows > 10_000, "{rows} rows compared: the random queries keep too little to prove anything");
        }
    }
}

/// Runs one case; answers how many rows were compared.
async fn case(seed: u64) -> usize {
    println!("AQUIFER_ORACLE_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::open(dir.path()).await;
    let timestamp = if rng.random_bool(0.5) { ", timestamp = 'ts'" } else { "" };
    let with = format!("kafka_topic = 's', value_format = 'json', partitions = 3{timestamp}");
    node.run(&format!("CREATE STREAM s ({COLUMNS}) WITH ({with})")).await;
    let mut now_ms = [0, 1_000, -5_000];
    let queries: Vec<Query> = (0..QUERIES).map(|_| query(&mut rng)).collect();
    let (mut created, mut compared) = (0, 0);
    for _ in 0..ROUNDS {
        write(&mut rng, &node, &mut now_ms).await;
        // Some queries begin with history, some find it later.
        while created < queries.len() && rng.random_bool(0.7) {
            let Query { kind, with, select } = &queries[created];
            node.run(&format!("CREATE {kind} q{created}{with} AS {select} EMIT CHANGES")).await;
            created += 1;
        }
        write(&mut rng, &node, &mut now_ms).await;
        node = restarted(&mut rng, node, dir.path()).await;
        write(&mut rng, &node, &mut now_ms).await;
        node.caught_up().await;
        for (index, query) in queries.iter().enumerate().take(created) {
            let continuous = sorted(node.run(&format!("SELECT * FROM q{index}")).await);
            let batch = sorted(node.run(&query.select).await);
            assert_same(
                &continuous,
                &batch,
                &format!("AQUIFER_ORACLE_SEED={seed}\n{query:?}\ncontinuous (left) and batch (right)"),
            );
            compared += batch.len();
        }
    }
    node.close().await;
    compared
}

/// Random commits; queries run meanwhile, so where a tick ends is chance.
async fn write(rng: &mut StdRng, node: &Node, now_ms: &mut [i64; 3]) {
    for _ in 0..rng.random_range(0..6) {
        let partition = rng.random_range(0..3);
        let amount = rng.random_range(1..60);
        let records: Vec<_> = (0..amount).map(|_| record(rng, &mut now_ms[partition])).collect();
        node.append("s", i32::try_from(partition).unwrap(), &records).await;
    }
}

async fn restarted(rng: &mut StdRng, node: Node, dir: &std::path::Path) -> Node {
    match rng.random_range(0..3) {
        0 => return node,
        1 => node.close().await,
        _ => node.cut_off().await,
    }
    Node::open(dir).await
}

pub(crate) fn sorted(mut table: Table) -> Table {
    let key = |row: &Vec<Cell>| {
        let exact: Vec<String> = row.iter().filter(|cell| !is_float(cell)).map(|cell| format!("{cell:?}")).collect();
        let floats: Vec<String> = row.iter().filter(|cell| is_float(cell)).map(|cell| format!("{cell:?}")).collect();
        (exact, floats)
    };
    table.sort_by_key(key);
    table
}

fn is_float(cell: &Cell) -> bool {
    matches!(cell, Cell::Float(_))
}

/// One content, whatever its order; floats to a relative difference.
pub(crate) fn assert_same(continuous: &Table, batch: &Table, what: &str) {
    let same = |(left, right): (&Cell, &Cell)| match (left, right) {
        (Cell::Float(left), Cell::Float(right)) => {
            left == right || (left - right).abs() <= TOLERANCE * left.abs().max(right.abs())
        }
        _ => left == right,
    };
    let difference = continuous.iter().zip(batch).find(|(left, right)| !left.iter().zip(*right).all(same));
    assert_eq!(difference, None, "{what} differ");
    assert_eq!(continuous.len(), batch.len(), "{what}\n{continuous:?}\n{batch:?}");
}
