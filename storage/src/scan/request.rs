//! `Asked`: what a scan asks for, said once for all its parts, and raw rows made into it.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

use crate::error::Result;
use crate::record::columns::RecordColumn;
use crate::record::format::{ColumnRole, Decoded, Decoder, RecordFormat};
use crate::record::rows::schema_of;
use crate::scan::filter::GroupFilter;
use crate::scan::meter::ScanMeter;
use crate::scan::select::Matched;
use crate::view::{DeclaredScan, ScanRequest};

/// See the top of this file.
#[derive(Debug)]
pub(crate) struct Asked {
    /// Raw columns carried along, in this order.
    pub(crate) raw: Arc<[RecordColumn]>,
    /// Declared columns behind them.
    pub(crate) declared: Option<DeclaredScan>,
    /// Of the rows that are given.
    pub(crate) schema: SchemaRef,
    pub(crate) batch_rows: usize,
    pub(crate) filter: Option<Arc<dyn GroupFilter>>,
    pub(crate) meter: Arc<ScanMeter>,
    /// Whoever reads may soon have enough: nothing is read ahead then.
    pub(crate) hasty: bool,
    /// How much the filter has left of the rows it was asked about.
    pub(super) matched: Matched,
}

impl Asked {
    /// What a request asks for, with declared columns or without.
    ///
    /// # Errors
    /// [`crate::Error::Config`] for a declaration that makes no sense.
    pub(crate) fn new(request: &ScanRequest, declared: Option<DeclaredScan>) -> Result<Self> {
        let raw: Arc<[RecordColumn]> = request.columns.as_slice().into();
        let schema = match &declared {
            Some(declared) => decoder(&raw, declared)?.1.schema(),
            None => schema_of(&raw),
        };
        let (batch_rows, filter) = (request.batch_rows.max(1), request.filter.clone());
        let (meter, hasty) = (Arc::clone(&request.meter), request.hasty);
        Ok(Self { raw, declared, schema, batch_rows, filter, meter, hasty, matched: Matched::default() })
    }

    /// The declaration that declared columns are to belong to.
    pub(crate) fn format(&self) -> Option<&RecordFormat> {
        self.declared.as_ref().map(|declared| &*declared.format)
    }

    /// Of the filter, as of now.
    pub(crate) fn version(&self) -> u64 {
        self.filter.as_ref().map_or(0, |filter| filter.version())
    }

    /// Whether rows are only counted.
    pub(crate) fn counts_records(&self) -> bool {
        self.raw.is_empty() && self.declared.is_none()
    }
}

/// Makes raw rows into those that are asked for.
#[derive(Debug)]
pub(crate) struct RawRows {
    columns: Arc<[RecordColumn]>,
    decoder: Option<Decoder>,
}

impl RawRows {
    /// For one reader's rows.
    ///
    /// # Errors
    /// As [`Asked::new`].
    pub(crate) fn new(asked: &Asked) -> Result<Self> {
        let Some(declared) = &asked.declared else {
            return Ok(Self { columns: Arc::clone(&asked.raw), decoder: None });
        };
        let (columns, decoder) = decoder(&asked.raw, declared)?;
        Ok(Self { columns: columns.into(), decoder: Some(decoder) })
    }

    /// The raw columns that are needed, in this order.
    pub(crate) fn columns(&self) -> &Arc<[RecordColumn]> {
        &self.columns
    }

    /// The rows asked for, and the records that did not decode.
    ///
    /// # Errors
    /// Only for bugs.
    pub(crate) fn read(&mut self, raw: RecordBatch) -> Result<Decoded> {
        match &mut self.decoder {
            Some(decoder) => decoder.decode(&raw),
            None => Ok(Decoded { rows: raw, errors: Vec::new() }),
        }
    }
}

/// A decoder that carries the raw columns along, and the columns it needs.
pub(super) fn decoder(raw: &[RecordColumn], declared: &DeclaredScan) -> Result<(Vec<RecordColumn>, Decoder)> {
    use RecordColumn::{Headers, Key, Offset, Partition, Timestamp, Value};

    let columns = &declared.format.columns;
    let is_headers = |index: &usize| columns.get(*index).is_some_and(|column| column.role == ColumnRole::Headers);
    let headers = declared.wanted.iter().any(is_headers);
    let always = [Partition, Offset, Timestamp, Key, Value];
    let needed =
        |column: &RecordColumn| always.contains(column) || raw.contains(column) || (headers && *column == Headers);
    let needed: Vec<RecordColumn> = RecordColumn::ALL.into_iter().filter(needed).collect();
    let carried: Vec<usize> =
        raw.iter().filter_map(|column| needed.iter().position(|needed| needed == column)).collect();
    let decoder = Decoder::new(&declared.format, &schema_of(&needed), &carried, &declared.wanted)?;
    Ok((needed, decoder))
}
