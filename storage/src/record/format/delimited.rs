//! One line of fields with a delimiter between them: ksqlDB's DELIMITED, whose rules are commons-csv's.
//!
//! A field that begins with a quote goes to the closing one, a doubled quote inside is a quote; any other field is what
//! stands there, spaces too. An empty field is NULL, `""` is the empty text. ksqlDB reads NULL for that one as well; it
//! is told apart here so that what SQL writes comes back as it was. Fields that are missing at the end are NULL, so that
//! a column can be added; more fields than columns are an error, as are more lines than one.

use std::borrow::Cow;

use super::number::quoted;

/// Whether fields can be told apart by it.
pub(super) fn is_delimiter(delimiter: char) -> bool {
    !matches!(delimiter, '"' | '\n' | '\r')
}

/// One field: `None` is NULL.
type Field<'a> = Option<Cow<'a, str>>;

/// Splits a line into at most `most` fields.
pub(super) fn split(bytes: &[u8], delimiter: char, most: usize) -> Result<Vec<Field<'_>>, String> {
    let text = str::from_utf8(bytes).map_err(|e| format!("not UTF-8: {e}"))?;
    let line = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    let mut fields = Vec::with_capacity(most);
    let mut rest = line;
    loop {
        let (field, behind) = match rest.strip_prefix('"') {
            Some(inside) => {
                let (field, behind) = quoted_field(inside)?;
                (Some(field), closed(behind, delimiter)?)
            }
            None => bare_field(rest, delimiter)?,
        };
        if fields.len() == most {
            return Err(format!("{} has more than {most} fields", quoted(line)));
        }
        fields.push(field);
        match behind {
            Some(behind) => rest = behind,
            None => return Ok(fields),
        }
    }
}

/// What stands up to the next delimiter, and what behind it.
fn bare_field(text: &str, delimiter: char) -> Result<(Field<'_>, Option<&str>), String> {
    let (field, behind) = text.split_once(delimiter).map_or((text, None), |(field, behind)| (field, Some(behind)));
    if field.contains(['\n', '\r']) {
        return Err("more than one line".to_owned());
    }
    Ok(((!field.is_empty()).then_some(Cow::Borrowed(field)), behind))
}

/// A field whose opening quote has been read, and what stands behind the closing one.
fn quoted_field(text: &str) -> Result<(Cow<'_, str>, &str), String> {
    let mut field = Cow::Borrowed("");
    let mut rest = text;
    loop {
        let (part, behind) =
            rest.split_once('"').ok_or_else(|| format!("the quote before {} is not closed", quoted(text)))?;
        // Most quoted fields have no quote inside and stay what the record holds.
        if field.is_empty() {
            field = Cow::Borrowed(part);
        } else {
            field.to_mut().push_str(part);
        }
        match behind.strip_prefix('"') {
            Some(behind) => {
                field.to_mut().push('"');
                rest = behind;
            }
            None => return Ok((field, behind)),
        }
    }
}

/// What stands behind the delimiter that follows a quoted field; only white space may be between, as in commons-csv.
fn closed(behind: &str, delimiter: char) -> Result<Option<&str>, String> {
    let (between, rest) = behind.split_once(delimiter).map_or((behind, None), |(between, rest)| (between, Some(rest)));
    if between.chars().all(|char| char == ' ' || char == '\t') {
        return Ok(rest);
    }
    Err(format!("{} stands between a closing quote and the delimiter", quoted(between)))
}

/// Writes a field's text in quotes where it would be read otherwise without, as commons-csv's MINIMAL has it.
pub(super) fn write(text: &[u8], delimiter: char, line: &mut Vec<u8>) {
    let mut delimiter_bytes = [0; 4];
    let delimiter = delimiter.encode_utf8(&mut delimiter_bytes).as_bytes();
    let (Some(first), Some(last)) = (text.first(), text.last()) else {
        line.extend(b"\"\"");
        return;
    };
    let plain = *first > b'#'
        && *last > b' '
        && !text.iter().any(|byte| matches!(byte, b'"' | b'\n' | b'\r'))
        && !text.windows(delimiter.len()).any(|window| window == delimiter);
    if plain {
        line.extend(text);
        return;
    }
    line.push(b'"');
    for &byte in text {
        if byte == b'"' {
            line.push(b'"');
        }
        line.push(byte);
    }
    line.push(b'"');
}

/// The delimiter's bytes.
pub(super) fn write_delimiter(delimiter: char, line: &mut Vec<u8>) {
    line.extend(delimiter.encode_utf8(&mut [0; 4]).as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fields(line: &str, delimiter: char) -> Result<Vec<Option<String>>, String> {
        let fields = split(line.as_bytes(), delimiter, 4)?;
        Ok(fields.into_iter().map(|field| field.map(Cow::into_owned)).collect())
    }

    fn some(texts: &[&str]) -> Vec<Option<String>> {
        texts.iter().map(|text| (*text != "∅").then(|| (*text).to_owned())).collect()
    }

    #[test]
    fn a_line_is_split_as_commons_csv_splits_it() {
        for (line, expected) in [
            ("a,b,c", &["a", "b", "c"][..]),
            ("a,,c,", &["a", "∅", "c", "∅"]),
            ("", &["∅"]),
            ("\"\"", &[""]),
            ("\"a,b\",\"c\"\"d\",\"\"\"\"", &["a,b", "c\"d", "\""]),
            (" a , b ", &[" a ", " b "]),
            ("a\"b,\"c\" ,d", &["a\"b", "c", "d"]),
            ("\"two\nlines\",x\r\n", &["two\nlines", "x"]),
            ("ü,\u{1f600}\n", &["ü", "\u{1f600}"]),
        ] {
            assert_eq!(fields(line, ','), Ok(some(expected)), "{line:?}");
        }
        assert_eq!(fields("a\tb c\t", '\t'), Ok(some(&["a", "b c", "∅"])));
        assert_eq!(fields("a  b", ' '), Ok(some(&["a", "∅", "b"])));
    }

    #[test]
    fn what_is_no_line_of_so_many_fields_is_refused_by_its_reason() {
        for (line, reason) in [
            ("a,b,c,d,e", "more than 4 fields"),
            ("\"a", "not closed"),
            ("\"a\"b,c", "between a closing quote"),
            ("a,b\nc,d", "more than one line"),
        ] {
            assert!(fields(line, ',').unwrap_err().contains(reason), "{line:?}: {:?}", fields(line, ','));
        }
        assert!(split(b"\xff", ',', 1).unwrap_err().contains("not UTF-8"));
    }

    #[test]
    fn only_what_would_be_read_otherwise_is_quoted() {
        for (text, written) in [
            ("a", "a"),
            ("-5.2", "-5.2"),
            ("a b", "a b"),
            ("", "\"\""),
            (" a", "\" a\""),
            ("a ", "\"a \""),
            ("#a", "\"#a\""),
            ("a,b", "\"a,b\""),
            ("a\"b", "\"a\"\"b\""),
            ("a\nb", "\"a\nb\""),
        ] {
            let mut line = Vec::new();
            write(text.as_bytes(), ',', &mut line);
            assert_eq!(String::from_utf8(line).unwrap(), written);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_as_it_was(
            row in proptest::collection::vec(proptest::option::of(any::<String>()), 1..5),
            delimiter in any::<char>().prop_filter("a delimiter", |delimiter| is_delimiter(*delimiter)),
        ) {
            let mut line = Vec::new();
            for (index, field) in row.iter().enumerate() {
                if index > 0 {
                    write_delimiter(delimiter, &mut line);
                }
                if let Some(text) = field {
                    write(text.as_bytes(), delimiter, &mut line);
                }
            }
            let read = split(&line, delimiter, row.len()).unwrap();
            prop_assert_eq!(read.into_iter().map(|field| field.map(Cow::into_owned)).collect::<Vec<_>>(), row);
        }
    }
}
