//! SQL over history: whatever was produced, committed, aborted, tiered, merged, compacted or let go, before a query or
//! while it runs, its answer equals the same SELECT over a plain list of what its snapshot holds. There is no list of
//! exceptions.
//!
//! The list is an Arrow table in memory and DataFusion by itself is the judge; the list's rows never went through a
//! record, a log or a file. `AQUIFER_HISTORY_SEED` repeats one case, `AQUIFER_HISTORY_CASES` asks for more of them; a case
//! that fails is cut to the fewest steps that still fail (`AQUIFER_HISTORY_STEPS`).

mod model;
mod questions;
mod world;

use futures::TryStreamExt;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::node::{self, Table, cells};
use super::oracle::{assert_same, sorted};
use model::Model;
use world::World;

/// Cases when nothing else is asked for.
const CASES: u64 = 10;
/// Things that happen in a case.
const STEPS: usize = 14;
/// Queries after each of them, and one more while the next one happens.
const QUESTIONS: usize = 3;
/// Rows that must have been compared in all cases, else the random queries keep too little to prove anything.
const ROWS_MIN: usize = 4_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_select_equals_the_same_select_over_a_list_of_what_its_snapshot_holds() {
    let steps = number("AQUIFER_HISTORY_STEPS").map_or(STEPS, |steps| usize::try_from(steps).unwrap());
    if let Some(seed) = number("AQUIFER_HISTORY_SEED") {
        Box::pin(case(seed, steps)).await;
        return;
    }
    let mut rows = 0;
    for seed in 0..number("AQUIFER_HISTORY_CASES").unwrap_or(CASES) {
        match tokio::spawn(Box::pin(case(seed, steps))).await {
            Ok(compared) => rows += compared,
            Err(failed) => {
                let fewest = fewest_steps(seed, steps).await;
                println!("AQUIFER_HISTORY_SEED={seed} AQUIFER_HISTORY_STEPS={fewest} is enough");
                std::panic::resume_unwind(failed.into_panic());
            }
        }
    }
    assert!(rows > ROWS_MIN, "{rows} rows compared: the random queries keep too little to prove anything");
}

/// How many of a case's steps are needed for it to fail.
async fn fewest_steps(seed: u64, steps: usize) -> usize {
    for fewer in 1..steps {
        if tokio::spawn(Box::pin(case(seed, fewer))).await.is_err() {
            return fewer;
        }
    }
    steps
}

/// Runs one case; answers how many rows were compared.
async fn case(seed: u64, steps: usize) -> usize {
    println!("AQUIFER_HISTORY_SEED={seed} AQUIFER_HISTORY_STEPS={steps}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut world = World::begin(&mut rng).await;
    let mut compared = 0;
    for step in 0..steps {
        let told = format!("AQUIFER_HISTORY_SEED={seed} AQUIFER_HISTORY_STEPS={}", step + 1);
        // A query begins, something happens, and its answer is still that of its beginning.
        let question = questions::question(&mut rng, &world.model);
        let before = world.model.clone();
        let mut session = world.node().session();
        let running =
            node::rows(&mut session, &question).await.unwrap_or_else(|error| panic!("{told}\n{question}\n{error:?}"));
        let happened = world.step(&mut rng).await;
        let batches: Vec<_> = running
            .stream
            .try_collect()
            .await
            .unwrap_or_else(|error| panic!("{told}\n{question}\nwhile {happened}\n{error:?}"));
        let found: Table = batches.iter().flat_map(cells).collect();
        compared += judge(&before, &question, found, &format!("{told}\nwhile {happened}")).await;

        let mut told = format!("{told}\nafter {happened}");
        if rng.random_ratio(1, 12) {
            world.restart().await;
            told.push_str(" and a start");
        }
        world.look_at_offsets(&told).await;
        for _ in 0..QUESTIONS {
            let question = questions::question(&mut rng, &world.model);
            let found = match node::run(&mut world.node().session(), &question).await {
                Ok(found) => found,
                Err(error) => panic!("{told}\n{question}\n{error:?}"),
            };
            compared += judge(&world.model, &question, found, &told).await;
        }
    }
    world.end().await;
    compared
}

/// Compares with the plain list; answers how many rows there were.
async fn judge(model: &Model, question: &str, found: Table, told: &str) -> usize {
    let right = match model.answer(question).await {
        Ok(batches) => batches.iter().flat_map(cells).collect::<Table>(),
        Err(error) => panic!("{told}\nthe judge refuses\n{question}\n{error}"),
    };
    let compared = right.len();
    let what = format!("{told}\n{question}\nnode (left) and list (right)");
    assert_same(&sorted(found), &sorted(right), &what);
    compared
}
