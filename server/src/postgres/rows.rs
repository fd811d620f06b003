//! Rows on the wire: a batch as DataRow messages or as lines of COPY, written straight into what goes out.

use aquifer_sql::error::{Error, Result, SqlState};
use aquifer_sql::session::{Column, CopyFormat};
use arrow::array::timezone::Tz;
use arrow::record_batch::RecordBatch;
use bytes::{BufMut, BytesMut};
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::copy::{CopyOutResponse, MESSAGE_TYPE_BYTE_COPY_DATA};
use pgwire::messages::data::{FORMAT_CODE_BINARY, FieldDescription, MESSAGE_TYPE_BYTE_DATA_ROW, RowDescription};

use super::cells::Cells;
use super::wire::encoded;
use super::{binary, oids, text};

/// How rows are written.
#[derive(Clone, Debug)]
pub(crate) enum Format {
    /// DataRow; one code for all columns, or one each.
    Values(Vec<i16>),
    /// Lines of COPY.
    Copy(CopyFormat),
}

impl Format {
    /// As a Bind message says: none means text, one is for all.
    ///
    /// # Errors
    /// 08P01 where their number is not that of the columns, or a code is neither text nor binary.
    pub(crate) fn of(codes: &[i16], columns: usize) -> Result<Self> {
        if let Some(code) = codes.iter().find(|code| !matches!(code, 0 | 1)) {
            return Err(Error::new(SqlState::InvalidParameterValue, format!("unsupported format code: {code}")));
        }
        match codes {
            [] => Ok(Self::Values(vec![0; columns])),
            [all] => Ok(Self::Values(vec![*all; columns])),
            each if each.len() == columns => Ok(Self::Values(each.to_vec())),
            each => Err(Error::new(
                SqlState::ProtocolViolation,
                format!("bind message has {} result formats but query has {columns} columns", each.len()),
            )),
        }
    }
}

/// What the rows will look like.
pub(crate) fn describe(columns: &[Column], formats: Option<&[i16]>) -> PgWireBackendMessage {
    let fields = columns.iter().enumerate().map(|(index, column)| {
        let format = formats.and_then(|formats| formats.get(index)).copied().unwrap_or(0);
        FieldDescription::new(
            column.name.replace('\0', ""),
            column.table_oid.cast_signed(),
            column.column_number,
            column.oid,
            oids::size_of(column.oid),
            column.type_modifier,
            format,
        )
    });
    PgWireBackendMessage::RowDescription(RowDescription::new(fields.collect()))
}

/// What opens a COPY, whose data is text either way; the line of its columns' names behind it, if it has one.
///
/// # Errors
/// 54000 where that line is longer than a message.
pub(crate) fn copy_out(columns: &[Column], format: &CopyFormat, out: &mut BytesMut) -> Result<()> {
    let count = i16::try_from(columns.len()).unwrap_or(i16::MAX);
    let opening = CopyOutResponse::new(0, count, vec![0; columns.len()]);
    encoded(&PgWireBackendMessage::CopyOutResponse(opening), out)?;
    if format.header {
        out.put_u8(MESSAGE_TYPE_BYTE_COPY_DATA);
        message(out, |out| {
            format.write_header(columns.iter().map(|column| column.name.as_str()), out);
            Ok(())
        })?;
    }
    Ok(())
}

/// A batch made ready to be written row by row.
pub(crate) struct Rows<'a> {
    columns: &'a [Column],
    cells: Vec<Cells>,
    format: &'a Format,
    zone: Tz,
}

impl<'a> Rows<'a> {
    /// Prepares a batch.
    ///
    /// # Errors
    /// 22003 for values no type of Postgres holds, XX000 if the batch is not what was announced.
    pub(crate) fn of(batch: &RecordBatch, columns: &'a [Column], format: &'a Format, zone: Tz) -> Result<Self> {
        if batch.num_columns() != columns.len() {
            let (got, told) = (batch.num_columns(), columns.len());
            return Err(Error::new(
                SqlState::InternalError,
                format!("a batch has {got} columns, announced were {told}"),
            ));
        }
        let cells = batch.columns().iter().map(Cells::of).collect::<Result<_>>()?;
        Ok(Self { columns, cells, format, zone })
    }

    /// Writes one row as one message; nothing stays of a row that fails.
    ///
    /// # Errors
    /// What a value's encoder says.
    pub(crate) fn write(&self, row: usize, out: &mut BytesMut) -> Result<()> {
        let start = out.len();
        let written = match self.format {
            Format::Values(formats) => {
                out.put_u8(MESSAGE_TYPE_BYTE_DATA_ROW);
                message(out, |out| self.values(formats, row, out))
            }
            Format::Copy(format) => {
                out.put_u8(MESSAGE_TYPE_BYTE_COPY_DATA);
                message(out, |out| self.line(format, row, out))
            }
        };
        if written.is_err() {
            out.truncate(start);
        }
        written
    }

    fn values(&self, formats: &[i16], row: usize, out: &mut BytesMut) -> Result<()> {
        out.put_i16(i16::try_from(self.cells.len()).map_err(|_| {
            Error::new(SqlState::ProgramLimitExceeded, "a row has more than 32767 columns").with_hint("select fewer")
        })?);
        for ((cells, column), format) in self.cells.iter().zip(self.columns).zip(formats) {
            if cells.is_null(row) {
                out.put_i32(-1);
                continue;
            }
            binary::sized(out, |out| {
                if *format == FORMAT_CODE_BINARY {
                    binary::write(cells, row, column.oid, self.zone, out)
                } else {
                    text::write(cells, row, column.oid, self.zone, out)
                }
            })?;
        }
        Ok(())
    }

    fn line(&self, format: &CopyFormat, row: usize, out: &mut BytesMut) -> Result<()> {
        let mut value = BytesMut::new();
        for (index, (cells, column)) in self.cells.iter().zip(self.columns).enumerate() {
            format.write_start(index, out);
            if cells.is_null(row) {
                format.write_field(index, None, out);
                continue;
            }
            value.clear();
            text::write(cells, row, column.oid, self.zone, &mut value)?;
            format.write_field(index, Some(&value), out);
        }
        out.put_u8(b'\n');
        Ok(())
    }
}

/// A message's length and body; unlike a value's, its length counts itself.
fn message(out: &mut BytesMut, body: impl FnOnce(&mut BytesMut) -> Result<()>) -> Result<()> {
    let start = out.len();
    binary::sized(out, body)?;
    let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int32Array, StringArray};
    use arrow::datatypes::DataType;

    use super::*;

    fn column(name: &str, arrow: DataType, oid: u32) -> Column {
        Column { name: name.into(), arrow, oid, type_modifier: -1, table_oid: 0, column_number: 0 }
    }

    fn written(format: &Format, row: usize) -> Vec<u8> {
        let columns = [column("n", DataType::Int32, oids::INT4), column("t", DataType::Utf8, oids::TEXT)];
        let numbers: ArrayRef = Arc::new(Int32Array::from(vec![Some(7), None]));
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("a\tb\\c\nd"), None]));
        let batch = RecordBatch::try_from_iter_with_nullable([("n", numbers, true), ("t", texts, true)]).unwrap();
        let mut out = BytesMut::new();
        Rows::of(&batch, &columns, format, "UTC".parse().unwrap()).unwrap().write(row, &mut out).unwrap();
        out.to_vec()
    }

    #[test]
    fn a_data_row_counts_its_values_and_their_bytes() {
        let format = Format::of(&[1, 0], 2).unwrap();
        let wanted = b"D\0\0\0\x19\0\x02\0\0\0\x04\0\0\0\x07\0\0\0\x07a\tb\\c\nd";
        assert_eq!(written(&format, 0), wanted);
        assert_eq!(written(&format, 1), b"D\0\0\0\x0e\0\x02\xff\xff\xff\xff\xff\xff\xff\xff");
    }

    #[test]
    fn a_copy_line_escapes_or_quotes_what_would_end_it() {
        let text = CopyFormat {
            csv: false,
            delimiter: b'\t',
            null: "\\N".to_owned(),
            header: false,
            header_match: false,
            quote: b'"',
            escape: b'"',
            default: None,
            ..CopyFormat::default()
        };
        let csv = Format::Copy(CopyFormat { csv: true, delimiter: b',', null: String::new(), ..text.clone() });
        let text = Format::Copy(text);
        assert_eq!(written(&text, 0)[5..], *b"7\ta\\tb\\\\c\\nd\n");
        assert_eq!(written(&text, 1)[5..], *b"\\N\t\\N\n");
        assert_eq!(written(&csv, 0)[5..], *b"7,\"a\tb\\c\nd\"\n");
        assert_eq!(written(&csv, 1)[5..], *b",\n");
    }

    #[test]
    fn format_codes_are_none_one_or_one_each() {
        assert!(matches!(Format::of(&[1], 3), Ok(Format::Values(codes)) if codes == [1, 1, 1]));
        assert_eq!(Format::of(&[0, 1], 3).unwrap_err().state, SqlState::ProtocolViolation);
        assert_eq!(Format::of(&[2], 3).unwrap_err().state, SqlState::InvalidParameterValue);
    }
}
