//! `INSERT … ON CONFLICT`: rows of a table's key that are there are left, or changed, in one act with the insert of the others.
//!
//! The statement watches its keys before it reads (`aquifer_storage::Watch`), and its commit is refused if somebody else has
//! written one of them since. By itself it runs again then, in a queue with others at the table; in a block COMMIT answers
//! 40001. The block's own rows are there too (see [`super::reading`]).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use aquifer_storage::record::format::ColumnRole;
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt64Array};
use arrow::compute::{filter, filter_record_batch, prep_null_mask_filter};
use arrow::datatypes::{DataType, Field, Schema};
use bytes::Bytes;
use datafusion::common::ScalarValue;
use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::ast::{Expr, Ident, SelectItem, SetExpr};
use futures::TryStreamExt;
use tokio::time::Instant;

use super::prepare::{default_of, is_default, type_parameters};
use super::{Outcome, Prepared, Session};
use crate::catalog::Relation;
use crate::error::{Error, Result, SqlState};
use crate::plan::pair::{Pair, template};
use crate::run::conflict::{Met, Standing, in_order, keys_of, split};
use crate::run::convert::convert;
use crate::run::insert::{PLACE_COLUMNS, Proposed, RowPlaces, Target, Writer, pending_bytes_max, targets};
use crate::run::query::{self, with_parameters};
use crate::run::returning::source_of;
use crate::run::shape::written_schema;
use crate::statement::conflict::{self, Conflict, Update};
use crate::statement::cursor::Places;
use crate::statement::{Insert, Name, Sentence, parse};
use crate::table::SourceColumn;
use crate::table::lookup::{keys_are_bytes, look_up};
use crate::types::oid_of;

/// Times a statement is run when others write its keys meanwhile.
const ATTEMPTS_MAX: usize = 16;
/// Keys that are looked up without a plan.
const LOOK_UPS_MAX: usize = 256;
/// Keys that are looked for one by one; for more the table is read once.
const KEYS_MAX: usize = 1000;
/// Types of [`PLACE_COLUMNS`].
const PLACES: [DataType; 2] = [DataType::Int32, DataType::Binary];

/// An update as it was planned: where its values go, and what computes them, a condition last.
#[derive(Debug)]
pub(super) struct Planned {
    targets: Vec<usize>,
    has_condition: bool,
    pair: Pair,
    catalog_version: u64,
}

impl Session {
    /// Plans what ON CONFLICT changes, if it does, and gives its parameters their types.
    pub(super) async fn prepare_conflict(
        &self,
        insert: &Insert,
        known: &mut BTreeMap<usize, (DataType, u32)>,
    ) -> Result<Option<Arc<Planned>>> {
        let Some(conflict) = &insert.conflict else { return Ok(None) };
        let relation = self.engine.catalog.relation(&insert.name)?;
        check(&relation, &insert.name, conflict)?;
        let Some(update) = &conflict.update else { return Ok(None) };
        let planned = self.plan_update(&relation, update, &insert.source.places, known).await?;
        for (name, kind) in planned.pair.plan.get_parameter_types()? {
            let number = crate::plan::parameters::number(&name)?;
            let kind = kind.unwrap_or(DataType::Utf8);
            let (oid, _) = oid_of(&Field::new("", kind.clone(), true));
            known.entry(number).or_insert((kind, oid));
        }
        Ok(Some(Arc::new(planned)))
    }

    async fn plan_update(
        &self,
        relation: &Relation,
        update: &Update,
        places: &Places,
        known: &mut BTreeMap<usize, (DataType, u32)>,
    ) -> Result<Planned> {
        let catalog_version = self.engine.storage.catalog_version();
        let targets = assigned(relation, update)?;
        let mut query = template(&relation.name)?;
        if let SetExpr::Select(select) = query.body.as_mut() {
            let values = targets.iter().zip(&update.assignments).map(|(target, (_, value))| {
                let value =
                    if is_default(value) { default_of(relation, Target::Declared(*target))? } else { value.clone() };
                Ok(value)
            });
            let mut exprs = values.collect::<Result<Vec<Expr>>>()?;
            exprs.extend(update.selection.clone());
            let named = |(index, expr)| SelectItem::ExprWithAlias { expr, alias: Ident::new(format!("c{index}")) };
            select.projection = exprs.into_iter().enumerate().map(named).collect();
        }
        let declared: Vec<Target> = targets.iter().map(|target| Target::Declared(*target)).collect();
        type_parameters(&mut query, relation, &declared, known);
        let schema = written_schema(relation);
        let pair = Pair::plan(&self.engine.state, &relation.name, &schema, query, places).await?;
        Ok(Planned { targets, has_condition: update.selection.is_some(), pair, catalog_version })
    }

    /// The same as it was prepared, if the catalog is still the same.
    async fn planned(&self, insert: &Insert, update: &Update, prepared: &Prepared) -> Result<Arc<Planned>> {
        let current = self.engine.storage.catalog_version();
        if let Some(planned) = prepared.update.as_ref().filter(|planned| planned.catalog_version == current) {
            return Ok(Arc::clone(planned));
        }
        let relation = self.engine.catalog.relation(&insert.name)?;
        let planned = self.plan_update(&relation, update, &insert.source.places, &mut BTreeMap::new()).await?;
        Ok(Arc::new(planned))
    }

    pub(super) async fn insert_or_change(
        &mut self,
        insert: &Insert,
        conflict: &Conflict,
        prepared: &Prepared,
        parameters: &[ScalarValue],
        deadline: Option<Instant>,
    ) -> Result<Outcome> {
        let topic = self.engine.catalog.relation(&insert.name)?.topic;
        let queue = self.engine.contended.queue(topic);
        let mut turn = None;
        for _ in 1..ATTEMPTS_MAX {
            match Box::pin(self.try_insert_or_change(insert, conflict, prepared, parameters, deadline)).await {
                Err(error) if error.state == SqlState::SerializationFailure && self.block.is_none() => {}
                outcome => return outcome,
            }
            if turn.is_none() {
                turn = Some(query::before(deadline, async { Ok(queue.lock().await) }).await?);
            }
        }
        Box::pin(self.try_insert_or_change(insert, conflict, prepared, parameters, deadline)).await
    }

    async fn try_insert_or_change(
        &mut self,
        insert: &Insert,
        conflict: &Conflict,
        prepared: &Prepared,
        parameters: &[ScalarValue],
        deadline: Option<Instant>,
    ) -> Result<Outcome> {
        let writer = self.writer(&insert.name).await?;
        let relation = Arc::clone(writer.relation());
        check(&relation, &insert.name, conflict)?;
        self.refuse_let_go(&[relation.topic])?;
        let planned = match &conflict.update {
            Some(update) => Some(self.planned(insert, update, prepared).await?),
            None => None,
        };
        let work = async {
            let watch = self.engine.storage.watch(relation.topic).await?;
            let proposals = self.proposals(insert, prepared, parameters, &writer).await?;
            let standing = self.standing(&relation, &proposals, &writer).await?;
            for key in proposals.iter().flat_map(|proposed| &proposed.keys) {
                watch.touch(writer.partition_of(key), key);
            }
            Ok((watch, split(&proposals, &standing, planned.is_some())?))
        };
        let (watch, split) = query::before(deadline, work).await?;
        let answer = self.returning_of(&insert.name, insert.returning.as_ref(), prepared).await?;
        let mut returned = self.returned(answer.as_ref(), &relation)?;
        let mut writing = self.writing();
        let mut count = 0;
        if let Some(new) = &split.new {
            count += writer.write_over((&new.rows, new.times.as_ref()), None, &watch, &mut writing).await?;
        }
        let changed = match (&split.met, &planned) {
            (Some(met), Some(planned)) => Some(changed(&relation, met, planned, parameters)?),
            _ => None,
        };
        if let Some(Changed { rows, places, .. }) = &changed {
            count += writer.write_over((rows, None), Some(places), &watch, &mut writing).await?;
        }
        if let Some(returned) = &mut returned {
            let new = split.new.iter().map(|new| (&new.rows, new.order.as_slice()));
            let changed = changed.iter().map(|changed| (&changed.rows, changed.order.values().as_ref()));
            let parts: Vec<_> = new.chain(changed).collect();
            in_order(&parts)?.map(|rows| returned.take(rows)).transpose()?;
        }
        self.write(writing).await?;
        self.inserted((count, returned), answer.as_ref(), insert.returning.as_ref(), deadline).await
    }

    /// The rows of the statement, as they would be written.
    async fn proposals(
        &self,
        insert: &Insert,
        prepared: &Prepared,
        parameters: &[ScalarValue],
        writer: &Writer,
    ) -> Result<Vec<Proposed>> {
        let mut targets = targets(writer.relation(), &insert.columns)?;
        let current = self.engine.storage.catalog_version();
        let bound = match prepared.bound.as_ref().filter(|bound| bound.catalog_version == current) {
            Some(bound) => Arc::clone(bound),
            None => self.bind_insert(insert, &mut BTreeMap::new()).await?,
        };
        let bound = self.reading(bound)?;
        targets.truncate(bound.plan.schema().fields().len());
        let mut rows = self.rows_to_write(&bound, parameters, &insert.source.places).await?;
        let bytes_max = pending_bytes_max(&self.engine.storage);
        let (mut proposals, mut bytes) = (Vec::new(), 0);
        while let Some(batch) = rows.try_next().await? {
            let proposed = writer.propose(&targets, &batch)?;
            bytes += proposed.rows.get_array_memory_size() as u64;
            if bytes > bytes_max {
                let message = format!("rows of more than {bytes_max} bytes in one INSERT … ON CONFLICT");
                return Err(Error::new(SqlState::ProgramLimitExceeded, message)
                    .with_hint("insert fewer rows at once, or raise memory.limit"));
            }
            proposals.push(proposed);
        }
        Ok(proposals)
    }

    /// The rows that are there under the proposals' keys.
    async fn standing(&self, relation: &Relation, proposals: &[Proposed], writer: &Writer) -> Result<Standing> {
        let keys = keys_of(proposals);
        let mut standing = Standing::default();
        if keys.is_empty() {
            return Ok(standing);
        }
        let mut fields: Vec<Field> = writer.schema().fields().iter().map(|field| field.as_ref().clone()).collect();
        fields.extend(PLACE_COLUMNS.into_iter().zip(PLACES).map(|(name, kind)| Field::new(name, kind, true)));
        let schema = Arc::new(Schema::new(fields));
        let mut add = |batch: &RecordBatch| -> Result<()> {
            let columns = batch.columns().iter().zip(schema.fields());
            let columns =
                columns.map(|(column, field)| convert(column, field.data_type())).collect::<Result<Vec<_>>>()?;
            let batch = RecordBatch::try_new(Arc::clone(&schema), columns).map_err(DataFusionError::from)?;
            let found = writer.keys_of(&RowPlaces::split(&batch)?.0)?;
            standing.add(&batch, found, &keys)
        };
        if let Some(found) = self.found(writer, &keys).await? {
            add(&found)?;
            return Ok(standing);
        }
        let (text, values) = lookup(relation, proposals, writer, &keys)?;
        let Some(Sentence::Query(query)) = parse::parse(&text)?.pop().map(|parsed| parsed.sentence) else {
            return Err(Error::new(SqlState::InternalError, format!("{text} is not a query")));
        };
        let bound = self.reading(self.bind(&query).await?)?;
        let plan = with_parameters(&bound.plan, &values)?;
        let ready = query::prepare(&self.engine.catalog, &bound, plan, &query.places).await?;
        let mut rows = ready.start()?;
        while let Some(batch) = rows.try_next().await? {
            add(&batch)?;
        }
        Ok(standing)
    }

    /// The same by their keys without a plan; `None` if only a plan can tell.
    async fn found(&self, writer: &Writer, keys: &HashMap<Bytes, usize>) -> Result<Option<RecordBatch>> {
        let relation = writer.relation();
        if keys.len() > LOOK_UPS_MAX || !keys_are_bytes(relation) {
            return Ok(None);
        }
        let catalog = &self.engine.catalog;
        let snapshot = self.snapshot_of(relation.topic)?;
        let keys: Vec<Bytes> = keys.keys().cloned().collect();
        let places = [SourceColumn::Partition, SourceColumn::Key];
        let columns = writer.columns().iter().copied().map(SourceColumn::Declared).chain(places);
        let columns: Vec<SourceColumn> = columns.collect();
        look_up(catalog, &source_of(catalog, relation)?, &columns, &snapshot, &keys).await
    }
}

/// Refuses what has no key, or names another one.
fn check(relation: &Relation, name: &Name, conflict: &Conflict) -> Result<()> {
    if !relation.is_keyed_table() || relation.key_columns().is_empty() {
        let what = format!("ON CONFLICT on {} \"{}\"", relation.kind.word(), relation.name);
        return Err(Error::unsupported(what)
            .with_position(name.position)
            .with_hint("only a table with a PRIMARY KEY knows conflicts; a stream takes every record"));
    }
    let mut keys: Vec<&str> =
        relation.key_columns().into_iter().map(|index| relation.format.columns[index].name.as_str()).collect();
    keys.sort_unstable();
    match &conflict.target {
        conflict::Target::Any => Ok(()),
        conflict::Target::Columns(columns) => {
            let mut columns: Vec<&str> = columns.iter().map(String::as_str).collect();
            columns.sort_unstable();
            columns.dedup();
            if columns == keys {
                return Ok(());
            }
            let message = "there is no unique or exclusion constraint matching the ON CONFLICT specification";
            Err(Error::new(SqlState::InvalidColumnReference, message)
                .with_hint(format!("the primary key is ({})", keys.join(", "))))
        }
        conflict::Target::Constraint(constraint) if *constraint == format!("{}_pkey", relation.name) => Ok(()),
        conflict::Target::Constraint(constraint) => {
            let message = format!("constraint \"{constraint}\" for table \"{}\" does not exist", relation.name);
            Err(Error::new(SqlState::UndefinedObject, message)
                .with_hint(format!("the primary key is \"{}_pkey\"", relation.name)))
        }
    }
}

/// Declared indexes of the columns that are SET.
fn assigned(relation: &Relation, update: &Update) -> Result<Vec<usize>> {
    let mut indexes: Vec<usize> = Vec::new();
    for (name, _) in &update.assignments {
        let found = targets(relation, std::slice::from_ref(name))?;
        let Some(Target::Declared(index)) = found.first().copied() else {
            return Err(Error::unsupported("SET rowtime in ON CONFLICT DO UPDATE")
                .with_position(name.position)
                .with_hint("a changed row has the time of its change"));
        };
        if relation.format.columns[index].role == ColumnRole::Key {
            return Err(Error::unsupported(format!("SET of primary key column \"{}\"", name.value))
                .with_position(name.position)
                .with_hint("INSERT the row under its new key, and DELETE the old one"));
        }
        if indexes.contains(&index) {
            let message = format!("multiple assignments to same column \"{}\"", name.value);
            return Err(Error::new(SqlState::SyntaxError, message).with_position(name.position));
        }
        indexes.push(index);
    }
    Ok(indexes)
}

/// The query for the rows that are there, and its parameters.
fn lookup(
    relation: &Relation,
    proposals: &[Proposed],
    writer: &Writer,
    keys: &HashMap<Bytes, usize>,
) -> Result<(String, Vec<ScalarValue>)> {
    let quote = |name: &str| Ident::with_quote('"', name).to_string();
    let columns: Vec<String> = writer.schema().fields().iter().map(|field| quote(field.name())).collect();
    let table = quote(&relation.name);
    let select = format!("SELECT {}, {} FROM {table}", columns.join(", "), PLACE_COLUMNS.join(", "));
    if keys.len() > KEYS_MAX {
        return Ok((select, Vec::new()));
    }
    // Of several columns each by itself: that names more rows, of which those wanted are kept, but is no deep condition.
    let (mut conditions, mut values) = (Vec::new(), Vec::new());
    for index in relation.key_columns() {
        let name = relation.format.columns[index].name.as_str();
        let mut named: HashSet<ScalarValue> = HashSet::new();
        for proposed in proposals {
            let column = proposed.rows.column_by_name(name).ok_or_else(|| {
                Error::new(SqlState::InternalError, format!("no key column {name} among those written"))
            })?;
            for row in 0..column.len() {
                named.insert(ScalarValue::try_from_array(column, row)?);
            }
        }
        let first = values.len() + 1;
        values.extend(named);
        let parameters: Vec<String> = (first..=values.len()).map(|number| format!("${number}")).collect();
        conditions.push(format!("{} IN ({})", quote(name), parameters.join(", ")));
    }
    Ok((format!("{select} WHERE {}", conditions.join(" AND ")), values))
}

/// Rows that are there as an update leaves them.
struct Changed {
    rows: RecordBatch,
    /// Where they lie.
    places: RowPlaces,
    /// Which of the statement's rows each is.
    order: UInt64Array,
}

/// Rows that are there as the update leaves them, those that its condition leaves out left out.
fn changed(relation: &Relation, met: &Met, planned: &Planned, parameters: &[ScalarValue]) -> Result<Changed> {
    let mut values = planned.pair.values(parameters, &met.there, &met.excluded)?;
    let condition = if planned.has_condition { values.pop() } else { None };
    let schema = met.there.schema();
    let mut columns: Vec<ArrayRef> = met.there.columns().to_vec();
    for (index, value) in planned.targets.iter().zip(&values) {
        let name = &relation.format.columns[*index].name;
        let place = schema.index_of(name).map_err(DataFusionError::from)?;
        columns[place] = convert(value, schema.field(place).data_type())?;
    }
    let rows = RecordBatch::try_new(schema, columns).map_err(DataFusionError::from)?;
    let Some(condition) = condition else {
        return Ok(Changed { rows, places: met.places.clone(), order: met.order.clone() });
    };
    let mask = condition.as_boolean_opt().ok_or_else(|| {
        Error::new(SqlState::DatatypeMismatch, "argument of WHERE must be type boolean")
            .with_hint("write a condition: WHERE excluded.a > 0")
    })?;
    // What is not known is not met.
    let mask: BooleanArray = if mask.null_count() > 0 { prep_null_mask_filter(mask) } else { mask.clone() };
    let rows = filter_record_batch(&rows, &mask).map_err(DataFusionError::from)?;
    let order = filter(&met.order, &mask).map_err(DataFusionError::from)?;
    Ok(Changed { rows, places: met.places.filter(&mask)?, order: order.as_primitive().clone() })
}
