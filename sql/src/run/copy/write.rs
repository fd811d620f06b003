//! COPY's data as it goes out: a field in Postgres's text format or in CSV, so that reading it gives the same. Pure.

use bytes::{BufMut, BytesMut};

use crate::statement::copy::CopyFormat;

impl CopyFormat {
    /// The columns' names as a line, if the format has such a line.
    pub fn write_header<'a>(&self, names: impl Iterator<Item = &'a str>, out: &mut BytesMut) {
        if !self.header {
            return;
        }
        for (index, name) in names.enumerate() {
            self.write_start(index, out);
            self.write_value(name.as_bytes(), false, out);
        }
        out.put_u8(b'\n');
    }

    /// What stands before a line's field of this number, from 0.
    pub fn write_start(&self, index: usize, out: &mut BytesMut) {
        if index > 0 {
            out.put_u8(self.delimiter);
        }
    }

    /// A line's field of this number; `None` is NULL.
    pub fn write_field(&self, index: usize, value: Option<&[u8]>, out: &mut BytesMut) {
        match value {
            None => out.put_slice(self.null.as_bytes()),
            Some(value) => self.write_value(value, self.force_quote.get(index).copied().unwrap_or(false), out),
        }
    }

    fn write_value(&self, value: &[u8], quoted: bool, out: &mut BytesMut) {
        if self.csv {
            self.write_csv(value, quoted, out);
        } else {
            self.write_text(value, out);
        }
    }

    fn write_csv(&self, value: &[u8], quoted: bool, out: &mut BytesMut) {
        let special = |byte: &u8| [self.delimiter, self.quote, b'\n', b'\r'].contains(byte);
        // The end marker alone on a line would end the data.
        if !quoted && value != self.null.as_bytes() && value != b"\\." && !value.iter().any(special) {
            out.put_slice(value);
            return;
        }
        out.put_u8(self.quote);
        for byte in value {
            if [self.quote, self.escape].contains(byte) {
                out.put_u8(self.escape);
            }
            out.put_u8(*byte);
        }
        out.put_u8(self.quote);
    }

    /// What would end a field or a line is escaped, and the backslash itself.
    fn write_text(&self, value: &[u8], out: &mut BytesMut) {
        let mut from = 0;
        for (at, byte) in value.iter().enumerate() {
            let letter = match byte {
                b'\\' => b'\\',
                b'\n' => b'n',
                b'\r' => b'r',
                b'\t' => b't',
                0x08 => b'b',
                0x0c => b'f',
                0x0b => b'v',
                byte if *byte == self.delimiter => *byte,
                _ => continue,
            };
            out.put_slice(&value[from..at]);
            out.put_slice(&[b'\\', letter]);
            from = at + 1;
        }
        out.put_slice(&value[from..]);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn text_format() -> CopyFormat {
        CopyFormat {
            csv: false,
            delimiter: b'\t',
            null: "\\N".to_owned(),
            header: false,
            header_match: false,
            quote: b'"',
            escape: b'"',
            default: None,
            ..CopyFormat::default()
        }
    }

    pub(crate) fn csv_format() -> CopyFormat {
        CopyFormat { csv: true, delimiter: b',', null: String::new(), ..text_format() }
    }

    pub(crate) fn written(format: &CopyFormat, rows: &[Vec<Option<String>>]) -> Vec<u8> {
        let mut out = BytesMut::new();
        for row in rows {
            for (index, field) in row.iter().enumerate() {
                format.write_start(index, &mut out);
                format.write_field(index, field.as_ref().map(String::as_bytes), &mut out);
            }
            out.put_u8(b'\n');
        }
        out.to_vec()
    }

    #[test]
    fn what_would_be_misread_is_quoted_or_escaped() {
        let row = ["a\tb\\c\nd", "", "\\.", "x,\"y\"", "ü"].map(|text| Some(text.to_owned()));
        let row = [&row[..], &[None]].concat();
        let line = |format: &CopyFormat| String::from_utf8(written(format, std::slice::from_ref(&row))).unwrap();
        assert_eq!(line(&text_format()), "a\\tb\\\\c\\nd\t\t\\\\.\tx,\"y\"\tü\t\\N\n");
        assert_eq!(line(&csv_format()), "\"a\tb\\c\nd\",\"\",\"\\.\",\"x,\"\"y\"\"\",ü,\n");
        let other = CopyFormat { delimiter: b'|', null: "x".to_owned(), ..text_format() };
        assert_eq!(written(&other, &[vec![Some("a|b".to_owned()), None]]), b"a\\|b|x\n");
        let forced = CopyFormat { force_quote: vec![false, true], header: true, ..csv_format() };
        let rows = [vec![Some("a".to_owned()), Some("b".to_owned())], vec![None, None]];
        assert_eq!(written(&forced, &rows), b"a,\"b\"\n,\n");
        let mut header = BytesMut::new();
        CopyFormat { header: true, ..csv_format() }.write_header(["a", "b,c"].into_iter(), &mut header);
        assert_eq!(header.to_vec(), b"a,\"b,c\"\n");
    }
}
