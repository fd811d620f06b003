//! UPDATE and DELETE: rows are read, and written back as records, in one act or not at all.
//!
//! A statement begins to watch its table before it reads (`aquifer_storage::Watch`); its commit is refused if somebody else
//! has written one of its rows since. By itself it is then run again, and stands in a queue with others who failed at the
//! same table, so that each has its turn; in a block COMMIT answers 40001. What the block itself has written before is read
//! too (see [`super::reading`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::sql::sqlparser::ast::{self, Expr, Ident, SelectItem, SetExpr, TableFactor};
use tokio::time::Instant;

use super::prepare::{default_of, is_default, type_parameters};
use super::{Outcome, Prepared, Rows, Session};
use crate::catalog::Relation;
use crate::error::{Error, Result, SqlState};
use crate::plan::bind::Bound;
use crate::plan::returning::bind_returning;
use crate::run::insert::{How, PLACE_COLUMNS, Target, pending_bytes_max, target};
use crate::run::query;
use crate::run::returning::{Returned, source_of};
use crate::statement::cursor::{Places, tokenize};
use crate::statement::parse::query_of;
use crate::statement::{Change, Name, RelationKind, Returning, WindowedQuery};
use aquifer_storage::record::format::ColumnRole;

/// Times a statement is run when others change its rows meanwhile.
const ATTEMPTS_MAX: usize = 16;

impl Change {
    fn word(&self) -> &'static str {
        if self.assignments.is_some() { "UPDATE" } else { "DELETE" }
    }

    fn alias(&self) -> Option<&ast::TableAlias> {
        match &self.from.relation {
            TableFactor::Table { alias, .. } => alias.as_ref(),
            _ => None,
        }
    }
}

impl Session {
    /// Binds the query that gives the rows; `known` gets the types of parameters that stand alone behind SET.
    pub(super) async fn bind_change(
        &self,
        change: &Change,
        known: &mut BTreeMap<usize, (DataType, u32)>,
    ) -> Result<Arc<Bound>> {
        let relation = self.engine.catalog.relation(&change.name)?;
        check(&relation, change)?;
        let targets = targets_of(&relation, change)?;
        let mut rows = rows_of(&relation, change, &targets)?;
        type_parameters(&mut rows.query, &relation, &targets, known);
        self.bind(&rows).await
    }

    /// Binds RETURNING over a relation's rows.
    async fn bind_returning(
        &self,
        name: &Name,
        alias: Option<&ast::TableAlias>,
        returning: &Returning,
    ) -> Result<Arc<Bound>> {
        let relation = self.engine.catalog.relation(name)?;
        let source = source_of(&self.engine.catalog, &relation)?;
        let owner = self.ground();
        Ok(Arc::new(bind_returning(&owner.ground(&self.engine), &source, &relation, alias, returning).await?))
    }

    /// What RETURNING of an INSERT is bound to, if there is one.
    pub(super) async fn bind_returning_of_insert(
        &self,
        name: &Name,
        returning: Option<&Returning>,
    ) -> Result<Option<Arc<Bound>>> {
        match returning {
            Some(returning) => self.bind_returning(name, None, returning).await.map(Some),
            None => Ok(None),
        }
    }

    /// The same as it was prepared, if the catalog is still the same.
    pub(super) async fn returning_of(
        &self,
        name: &Name,
        returning: Option<&Returning>,
        prepared: &Prepared,
    ) -> Result<Option<Arc<Bound>>> {
        let current = self.engine.storage.catalog_version();
        match prepared.returning.as_ref().filter(|bound| bound.catalog_version == current) {
            Some(bound) => Ok(Some(Arc::clone(bound))),
            None => self.bind_returning_of_insert(name, returning).await,
        }
    }

    /// What RETURNING of a change is bound to, if there is one.
    pub(super) async fn bind_returning_of(&self, change: &Change) -> Result<Option<Arc<Bound>>> {
        match &change.returning {
            Some(returning) => {
                let bound = self.bind_returning(&change.name, change.alias(), returning).await;
                bound.map(Some).map_err(|error| about_others(change, error))
            }
            None => Ok(None),
        }
    }

    pub(super) async fn change(
        &mut self,
        change: &Change,
        prepared: &Prepared,
        parameters: &[ScalarValue],
        deadline: Option<Instant>,
    ) -> Result<Outcome> {
        let topic = self.engine.catalog.relation(&change.name)?.topic;
        let queue = self.engine.contended.queue(topic);
        let mut turn = None;
        for _ in 1..ATTEMPTS_MAX {
            match self.try_change(change, prepared, parameters, deadline).await {
                Err(error) if error.state == SqlState::SerializationFailure && self.block.is_none() => {}
                outcome => return outcome,
            }
            if turn.is_none() {
                turn = Some(query::before(deadline, async { Ok(queue.lock().await) }).await?);
            }
        }
        self.try_change(change, prepared, parameters, deadline).await
    }

    async fn try_change(
        &mut self,
        change: &Change,
        prepared: &Prepared,
        parameters: &[ScalarValue],
        deadline: Option<Instant>,
    ) -> Result<Outcome> {
        let current = self.engine.storage.catalog_version();
        let relation = self.engine.catalog.relation(&change.name)?;
        let targets = targets_of(&relation, change)?;
        let is_current = |bound: &&Arc<Bound>| bound.catalog_version == current;
        let bound = match prepared.bound.as_ref().filter(is_current) {
            Some(bound) => Arc::clone(bound),
            None => self.bind_change(change, &mut BTreeMap::new()).await?,
        };
        let answer = match prepared.returning.as_ref().filter(is_current) {
            Some(bound) => Some(Arc::clone(bound)),
            None => self.bind_returning_of(change).await?,
        };
        let mut returned = self.returned(answer.as_ref(), &relation)?;
        let writer = self.writer(&change.name).await?;
        let bound = self.reading(bound)?;
        let watch = async { Ok(self.engine.storage.watch(relation.topic).await?) };
        let watch = query::before(deadline, watch).await.map_err(in_use)?;
        let mut writing = self.writing();
        let rows = self.rows_to_write(&bound, parameters, &change.places);
        let how = How {
            targets: &targets,
            deletes: change.assignments.is_none(),
            once: !change.others.is_empty(),
            watch: &watch,
        };
        let work = async { writer.change(&how, rows.await?, &mut writing, returned.as_mut()).await };
        let count = query::before(deadline, work).await?;
        self.write(writing).await?;
        match (returned, answer, &change.returning) {
            (Some(returned), Some(bound), Some(returning)) => {
                let catalog = &self.engine.catalog;
                let rows = returned.answer(catalog, &bound, returning, change.word(), deadline).await?;
                Ok(Outcome::Rows(rows))
            }
            _ => Ok(Outcome::Done(format!("{} {count}", change.word()))),
        }
    }

    /// Where the rows of a statement with RETURNING are kept.
    pub(super) fn returned(&self, answer: Option<&Arc<Bound>>, relation: &Arc<Relation>) -> Result<Option<Returned>> {
        let Some(_) = answer else { return Ok(None) };
        let bytes_max = pending_bytes_max(&self.engine.storage);
        Ok(Some(Returned::new(source_of(&self.engine.catalog, relation)?, bytes_max)))
    }

    /// What an INSERT answers.
    pub(super) async fn inserted(
        &self,
        (count, returned): (usize, Option<Returned>),
        answer: Option<&Arc<Bound>>,
        returning: Option<&Returning>,
        deadline: Option<Instant>,
    ) -> Result<Outcome> {
        match (returned, answer, returning) {
            (Some(returned), Some(bound), Some(returning)) => {
                let catalog = &self.engine.catalog;
                let rows: Rows = returned.answer(catalog, bound, returning, "INSERT 0", deadline).await?;
                Ok(Outcome::Rows(rows))
            }
            _ => Ok(Outcome::Done(format!("INSERT 0 {count}"))),
        }
    }
}

/// A watch that does not begin, since somebody else's transaction is open: waiting again would not help.
fn in_use(error: Error) -> Error {
    if error.state != SqlState::SerializationFailure {
        return error;
    }
    let error = Error { state: SqlState::ObjectInUse, ..error };
    error.with_hint("wait for that transaction to end, or CALL aquifer.abort_transaction('its id')")
}

/// Columns of other tables stand nowhere in what was written.
fn about_others(change: &Change, error: Error) -> Error {
    let unknown = matches!(error.state, SqlState::UndefinedColumn | SqlState::UndefinedTable);
    if change.others.is_empty() || !unknown {
        return error;
    }
    error.with_hint(format!(
        "RETURNING knows the columns of \"{}\" only, not those of the tables beside it",
        change.name.value
    ))
}

/// Refuses what has no rows to be changed.
fn check(relation: &Relation, change: &Change) -> Result<()> {
    let preposition = if change.assignments.is_some() { "of" } else { "from" };
    let what = format!("{} {preposition} {} \"{}\"", change.word(), relation.kind.word(), relation.name);
    if let Some(query) = &relation.query {
        let message = format!("{} \"{}\" is written by query \"{query}\"", relation.kind.word(), relation.name);
        return Err(Error::new(SqlState::ReadOnly, message)
            .with_position(change.name.position)
            .with_hint("write to what the query reads"));
    }
    if relation.is_keyed_table() {
        return Ok(());
    }
    let hint = match relation.kind {
        RelationKind::Stream => {
            "a stream's records stay as they are: INSERT another one, or declare a TABLE with a PRIMARY KEY over its topic"
        }
        RelationKind::Table => "only tables with a PRIMARY KEY know which record a row is",
    };
    Err(Error::unsupported(what).with_position(change.name.position).with_hint(hint))
}

/// Where the columns of the rows go: all that are written, in declared order, and rowtime if it is SET.
fn targets_of(relation: &Relation, change: &Change) -> Result<Vec<Target>> {
    let columns = relation.format.columns.iter().enumerate();
    let written = columns.filter(|(_, column)| column.role != ColumnRole::Headers);
    let mut targets: Vec<Target> = written.map(|(index, _)| Target::Declared(index)).collect();
    let mut assigned = Vec::new();
    for (name, _) in change.assignments.iter().flatten() {
        let target = target(relation, name)?;
        if assigned.contains(&target) {
            let message = format!("multiple assignments to same column \"{}\"", name.value);
            return Err(Error::new(SqlState::SyntaxError, message).with_position(name.position));
        }
        if let Target::Declared(index) = target
            && relation.format.columns[index].role == ColumnRole::Key
        {
            return Err(Error::unsupported(format!("SET of primary key column \"{}\"", name.value))
                .with_position(name.position)
                .with_hint("INSERT the row under its new key, and DELETE the old one, in one transaction block"));
        }
        if target == Target::RowTime {
            targets.push(target);
        }
        assigned.push(target);
    }
    Ok(targets)
}

/// The query that gives the rows as they are to be, and where each lies: its partition and its record's key.
fn rows_of(relation: &Relation, change: &Change, targets: &[Target]) -> Result<WindowedQuery> {
    let text = "SELECT * FROM t";
    let mut rows = query_of(&tokenize(text)?, &Arc::new(Places::new(text)))?;
    let qualifier = change.alias().map_or_else(|| Ident::with_quote('"', &relation.name), |alias| alias.name.clone());
    let assigned = |wanted: Target| {
        let mut assignments = change.assignments.iter().flatten();
        assignments.find(|(name, _)| target(relation, name).is_ok_and(|target| target == wanted))
    };
    let item = |target: &Target| {
        let name = match target {
            Target::Declared(index) => relation.format.columns[*index].name.as_str(),
            Target::RowTime => "rowtime",
        };
        let column = Ident::with_quote('"', name);
        Ok(match assigned(*target) {
            Some((_, value)) if is_default(value) => {
                SelectItem::ExprWithAlias { expr: default_of(relation, *target)?, alias: column }
            }
            Some((_, value)) => SelectItem::ExprWithAlias { expr: value.clone(), alias: column },
            None => SelectItem::UnnamedExpr(Expr::CompoundIdentifier(vec![qualifier.clone(), column])),
        })
    };
    let items = targets.iter().map(item).collect::<Result<Vec<_>>>()?;
    if let SetExpr::Select(select) = rows.query.body.as_mut() {
        let place = |column: &str| Expr::CompoundIdentifier(vec![qualifier.clone(), Ident::with_quote('"', column)]);
        let places = PLACE_COLUMNS.map(|column| SelectItem::UnnamedExpr(place(column)));
        select.projection = items.into_iter().chain(places).collect();
        select.from = std::iter::once(&change.from).chain(&change.others).cloned().collect();
        select.selection.clone_from(&change.selection);
    }
    rows.text.clone_from(&change.text);
    rows.places = Arc::clone(&change.places);
    Ok(rows)
}
