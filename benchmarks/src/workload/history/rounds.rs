//! A question asked once to warm and then several times, of ours and of DuckDB in turn, with every answer compared.

use std::time::{Duration, Instant};

use crate::failure::Result;
use crate::peer::duckdb::{DuckDb, Rows};
use crate::sql::Sql;
use crate::statistics::Times;

use super::ROUNDS;
use super::compare::difference;
use super::queries::Query;

/// How long a question took.
#[derive(Debug, Default)]
pub(super) struct Timed {
    pub(super) ours: Times,
    /// Empty without DuckDB.
    pub(super) theirs: Times,
    /// What was answered.
    pub(super) rows: Rows,
}

impl Timed {
    /// Ours over DuckDB's, if it was asked.
    pub(super) fn ratio(&self) -> Option<f64> {
        let theirs = self.theirs.median();
        (theirs > Duration::ZERO).then(|| self.ours.median().as_secs_f64() / theirs.as_secs_f64())
    }
}

/// Asks for all rows.
///
/// # Errors
/// What either says, and an answer that differs from DuckDB's or from one of ours.
pub(super) async fn ask(query: &Query, sql: &Sql, mut duckdb: Option<&mut DuckDb>) -> Result<Timed> {
    let mut timed = Timed::default();
    for round in 0..=ROUNDS {
        let begun = Instant::now();
        let rows = sql.rows(&query.aquifer).await?;
        let time = begun.elapsed();
        if let (Some(duckdb), Some(statement)) = (duckdb.as_deref_mut(), &query.duckdb) {
            let (theirs, their_time) = tokio::task::block_in_place(|| duckdb.ask(statement))?;
            if let Some(difference) = difference(&rows, &theirs) {
                return Err(format!("{}: {difference}", query.aquifer).into());
            }
            if round > 0 {
                timed.theirs.push(their_time);
            }
        }
        if round == 0 {
            timed.rows = rows;
            continue;
        }
        if let Some(difference) = difference(&rows, &timed.rows) {
            return Err(format!("{}: another answer than before: {difference}", query.aquifer).into());
        }
        timed.ours.push(time);
    }
    Ok(timed)
}

/// Asks for the first row alone; the time until it is here.
///
/// # Errors
/// What ours says, or that there is no row.
pub(super) async fn ask_first_row(query: &Query, sql: &Sql) -> Result<Times> {
    let mut times = Times::default();
    for round in 0..=ROUNDS {
        let begun = Instant::now();
        let mut rows = sql.follow(&query.aquifer).await?;
        rows.next().await?.ok_or_else(|| format!("{}: no row", query.aquifer))?;
        if round > 0 {
            times.push(begun.elapsed());
        }
        while rows.next().await?.is_some() {}
    }
    Ok(times)
}
