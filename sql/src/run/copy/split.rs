//! COPY's bytes as lines, and a line as fields: Postgres's text format and CSV, however the bytes are cut. Pure.
//!
//! A line is found first, in one pass that knows only what can hide its end; its fields are taken apart then, and
//! point into it where nothing had to be unescaped. A line's number is that of its last line in the data, as Postgres
//! counts where quotes hold line breaks.

use crate::error::{Error, Result, SqlState};
use crate::statement::copy::CopyFormat;

/// Longest line; what is longer is no line but a quote that was not closed.
pub(crate) const LINE_BYTES_MAX: usize = 64 << 20;
/// Alone on a line it ends the data.
const END_MARKER: &[u8] = b"\\.";

/// Cuts bytes into lines.
#[derive(Debug)]
pub(crate) struct Lines {
    csv: bool,
    quote: u8,
    /// `None` where it is the quote itself.
    escape: Option<u8>,
    /// A line that has begun.
    begun: Vec<u8>,
    look: Look,
    /// Lines of the data so far.
    number: u64,
    /// Whether lines end with a carriage return too, once one has ended.
    crlf: Option<bool>,
    ended: bool,
}

/// How far the line that has begun was looked through, and what was seen.
#[derive(Clone, Copy, Debug, Default)]
struct Look {
    at: usize,
    in_quotes: bool,
    /// The byte before takes the meaning from this one.
    escaped: bool,
    /// Line breaks inside of quotes.
    breaks: u64,
}

impl Lines {
    /// At the beginning of the data.
    pub(crate) fn new(format: &CopyFormat) -> Self {
        Self {
            csv: format.csv,
            quote: format.quote,
            escape: (format.escape != format.quote).then_some(format.escape),
            begun: Vec::new(),
            look: Look::default(),
            number: 0,
            crlf: None,
            ended: false,
        }
    }

    /// The number of the line that was given last, or that an error is about; from 1.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Takes bytes; `each` gets every line that is whole by now, without its end.
    ///
    /// # Errors
    /// 22P04 for line ends that change their kind, 54000 for a line without end, and those of `each`.
    pub(crate) fn push(&mut self, bytes: &[u8], each: &mut impl FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        if self.begun.is_empty() {
            let used = self.lines(bytes, each)?;
            self.begun.extend_from_slice(&bytes[used..]);
        } else {
            let mut begun = std::mem::take(&mut self.begun);
            begun.extend_from_slice(bytes);
            let used = self.lines(&begun, each)?;
            begun.drain(..used);
            self.begun = begun;
        }
        if self.ended {
            self.begun.clear();
        }
        if self.begun.len() > LINE_BYTES_MAX {
            self.number += 1 + self.look.breaks;
            let message = format!("a line of more than {LINE_BYTES_MAX} bytes");
            return Err(Error::new(SqlState::ProgramLimitExceeded, message)
                .with_hint("look for a quote that is not closed, and at the format's QUOTE and ESCAPE"));
        }
        Ok(())
    }

    /// The end of the data; a last line without a line end counts.
    ///
    /// # Errors
    /// 22P04 for a quote that is not closed, and those of `each`.
    pub(crate) fn finish(&mut self, each: &mut impl FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        let begun = std::mem::take(&mut self.begun);
        if self.ended || begun.is_empty() {
            return Ok(());
        }
        self.number += 1 + self.look.breaks;
        if self.look.in_quotes {
            return Err(Error::new(SqlState::BadCopyFileFormat, "unterminated CSV quoted field")
                .with_hint("look for a quote that is not closed"));
        }
        let line = begun.strip_suffix(b"\r").unwrap_or(&begun);
        if line == END_MARKER { Ok(()) } else { each(self.number, line) }
    }

    /// Gives the lines that are whole; how many bytes they take.
    fn lines(&mut self, bytes: &[u8], each: &mut impl FnMut(u64, &[u8]) -> Result<()>) -> Result<usize> {
        let mut start = 0;
        while !self.ended {
            let Some(end) = self.end_of(&bytes[start..])? else { return Ok(start) };
            let line = &bytes[start..start + end];
            self.number += 1 + std::mem::take(&mut self.look).breaks;
            start += end + 1;
            let line = self.without_return(line)?;
            if line == END_MARKER {
                self.ended = true;
            } else {
                each(self.number, line)?;
            }
        }
        Ok(bytes.len())
    }

    /// Where the line ends that begins with these bytes.
    fn end_of(&mut self, bytes: &[u8]) -> Result<Option<usize>> {
        let Look { at, mut in_quotes, mut escaped, mut breaks } = self.look;
        for (index, byte) in bytes.iter().enumerate().skip(at) {
            if self.csv {
                let is_escape = self.escape == Some(*byte);
                if in_quotes && is_escape {
                    escaped = !escaped;
                }
                if *byte == self.quote && !escaped {
                    in_quotes = !in_quotes;
                }
                escaped = escaped && is_escape;
                if in_quotes {
                    breaks += u64::from(*byte == b'\n');
                    continue;
                }
            } else if escaped {
                escaped = false;
                continue;
            } else if *byte == b'\\' {
                escaped = true;
                continue;
            }
            match *byte {
                b'\n' => {
                    self.look = Look { breaks, ..Look::default() };
                    return Ok(Some(index));
                }
                b'\r' => match bytes.get(index + 1) {
                    Some(b'\n') => {}
                    Some(_) => {
                        self.number += 1 + breaks;
                        return Err(self.mixed("carriage return", "\\r"));
                    }
                    // What it is shows with the next byte.
                    None => {
                        self.look = Look { at: index, in_quotes, escaped, breaks };
                        return Ok(None);
                    }
                },
                _ => {}
            }
        }
        self.look = Look { at: bytes.len(), in_quotes, escaped, breaks };
        Ok(None)
    }

    /// A line without its carriage return, if lines have one.
    fn without_return<'a>(&mut self, line: &'a [u8]) -> Result<&'a [u8]> {
        // In the text format a backslash in front of it makes it data.
        let escaped = !self.csv && line.iter().rev().skip(1).take_while(|byte| **byte == b'\\').count() % 2 == 1;
        let bare = line.strip_suffix(b"\r").filter(|_| !escaped);
        match (*self.crlf.get_or_insert(bare.is_some()), bare) {
            (true, Some(bare)) => Ok(bare),
            (false, None) => Ok(line),
            (true, None) => Err(self.mixed("newline", "\\n")),
            (false, Some(_)) => Err(self.mixed("carriage return", "\\r")),
        }
    }

    fn mixed(&self, what: &str, escape: &str) -> Error {
        let (kind, hint) = if self.csv {
            ("unquoted", format!("use quoted CSV field to represent {what}"))
        } else {
            ("literal", format!("use \"{escape}\" to represent {what}"))
        };
        Error::new(SqlState::BadCopyFileFormat, format!("{kind} {what} found in data")).with_hint(hint)
    }
}

/// One field of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field<'a> {
    /// What the format has for NULL.
    Null,
    /// What the format has for a default.
    Default,
    /// Its text.
    Text(&'a str),
}

impl CopyFormat {
    /// What a field of this number is once FORCE_NULL and FORCE_NOT_NULL are heeded; unquoted NULL is NULL already.
    pub(crate) fn forced<'a>(&'a self, index: usize, field: Field<'a>) -> Field<'a> {
        let says = |flags: &[bool]| flags.get(index).copied().unwrap_or(false);
        match field {
            Field::Null if says(&self.force_not_null) => Field::Text(&self.null),
            Field::Text(text) if says(&self.force_null) && text == self.null => Field::Null,
            field => field,
        }
    }
}

/// A line taken apart; used again for the next, so that its memory is.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    places: Vec<Place>,
    unescaped: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Null,
    Default,
    /// In the line.
    Plain(usize, usize),
    /// Among what was unescaped.
    Unescaped(usize, usize),
}

impl Fields {
    /// Takes a line apart.
    ///
    /// # Errors
    /// 22021 for what is not UTF-8, 22P04 for a quote that is not closed.
    pub(crate) fn split(&mut self, format: &CopyFormat, line: &str) -> Result<()> {
        self.places.clear();
        self.unescaped.clear();
        let mut start = 0;
        loop {
            let (place, next) =
                if format.csv { self.csv(format, line, start)? } else { self.text(format, line, start)? };
            self.places.push(place);
            match next {
                Some(next) => start = next,
                None => return Ok(()),
            }
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// One of them, of the line that was taken apart.
    pub(crate) fn get<'a>(&'a self, line: &'a str, index: usize) -> Option<Field<'a>> {
        Some(match *self.places.get(index)? {
            Place::Null => Field::Null,
            Place::Default => Field::Default,
            Place::Plain(start, end) => Field::Text(line.get(start..end).unwrap_or_default()),
            Place::Unescaped(start, end) => {
                let bytes = self.unescaped.get(start..end).unwrap_or_default();
                Field::Text(std::str::from_utf8(bytes).unwrap_or_default())
            }
        })
    }

    fn unquoted(format: &CopyFormat, raw: &str) -> Option<Place> {
        if raw == format.null {
            return Some(Place::Null);
        }
        (format.default.as_deref() == Some(raw)).then_some(Place::Default)
    }

    /// A field of the text format, and where the next one begins.
    fn text(&mut self, format: &CopyFormat, line: &str, start: usize) -> Result<(Place, Option<usize>)> {
        let bytes = line.as_bytes();
        let (mut end, mut escapes) = (start, false);
        while let Some(byte) = bytes.get(end) {
            if *byte == format.delimiter {
                break;
            }
            escapes = escapes || *byte == b'\\';
            end += if *byte == b'\\' { 2 } else { 1 };
        }
        let end = end.min(bytes.len());
        let next = (end < bytes.len()).then_some(end + 1);
        let raw = &line[start..end];
        if let Some(place) = Self::unquoted(format, raw) {
            return Ok((place, next));
        }
        if !escapes {
            return Ok((Place::Plain(start, end), next));
        }
        let from = self.unescaped.len();
        unescape(raw.as_bytes(), &mut self.unescaped);
        // Escapes make bytes, which need not be text.
        let made = &self.unescaped[from..];
        std::str::from_utf8(made).map_err(|error| not_utf8(made, &error))?;
        Ok((Place::Unescaped(from, self.unescaped.len()), next))
    }

    /// A field of CSV, and where the next one begins.
    fn csv(&mut self, format: &CopyFormat, line: &str, start: usize) -> Result<(Place, Option<usize>)> {
        let bytes = line.as_bytes();
        let of_note = |byte: &u8| *byte == format.delimiter || *byte == format.quote;
        let plain = bytes[start..].iter().position(of_note).map_or(bytes.len(), |at| start + at);
        if bytes.get(plain) != Some(&format.quote) {
            let place = Self::unquoted(format, &line[start..plain]).unwrap_or(Place::Plain(start, plain));
            return Ok((place, (plain < bytes.len()).then_some(plain + 1)));
        }
        // Quotes may begin and end anywhere in a field.
        let from = self.unescaped.len();
        let (mut at, mut in_quotes) = (start, false);
        let end = loop {
            let Some(byte) = bytes.get(at) else { break at };
            match bytes.get(at + 1) {
                _ if !in_quotes && *byte == format.delimiter => break at,
                Some(next)
                    if in_quotes && *byte == format.escape && (*next == format.quote || *next == format.escape) =>
                {
                    self.unescaped.push(*next);
                    at += 1;
                }
                _ if *byte == format.quote => in_quotes = !in_quotes,
                _ => self.unescaped.push(*byte),
            }
            at += 1;
        };
        if in_quotes {
            return Err(Error::new(SqlState::BadCopyFileFormat, "unterminated CSV quoted field"));
        }
        Ok((Place::Unescaped(from, self.unescaped.len()), (end < bytes.len()).then_some(end + 1)))
    }
}

/// Bytes that are no UTF-8, as Postgres names them.
pub(crate) fn not_utf8(bytes: &[u8], error: &std::str::Utf8Error) -> Error {
    let from = error.valid_up_to();
    let until = from + error.error_len().unwrap_or(bytes.len() - from).max(1);
    let hex: Vec<String> =
        bytes.get(from..until).unwrap_or_default().iter().map(|byte| format!("0x{byte:02x}")).collect();
    let message = format!("invalid byte sequence for encoding \"UTF8\": {}", hex.join(" "));
    Error::new(SqlState::CharacterNotInRepertoire, message)
        .with_hint("all text is UTF8; convert the file: iconv -t UTF-8")
}

/// The text format's escapes.
fn unescape(raw: &[u8], out: &mut Vec<u8>) {
    let mut rest = raw;
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first != b'\\' {
            out.push(*first);
            continue;
        }
        let Some((escaped, behind)) = rest.split_first() else { return };
        rest = behind;
        match escaped {
            b'b' => out.push(0x08),
            b'f' => out.push(0x0c),
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'v' => out.push(0x0b),
            b'0'..=b'7' => {
                let (value, used) = digits(rest, u32::from(escaped - b'0'), 8, 2);
                out.push((value & 0xff) as u8);
                rest = &rest[used..];
            }
            b'x' if rest.first().is_some_and(u8::is_ascii_hexdigit) => {
                let (value, used) = digits(rest, 0, 16, 2);
                out.push((value & 0xff) as u8);
                rest = &rest[used..];
            }
            other => out.push(*other),
        }
    }
}

/// A number behind what there is of it already, of `max` more digits at the most; how many there were.
fn digits(bytes: &[u8], mut value: u32, radix: u32, max: usize) -> (u32, usize) {
    let mut used = 0;
    while used < max
        && let Some(digit) = bytes.get(used).and_then(|byte| char::from(*byte).to_digit(radix))
    {
        value = value * radix + digit;
        used += 1;
    }
    (value, used)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::run::copy::write::tests::{csv_format, text_format, written};

    /// What a reader gets of data that comes in portions.
    fn read(format: &CopyFormat, data: &[u8], portion: usize) -> Result<Vec<Vec<Option<String>>>> {
        let (mut lines, mut fields, mut rows) = (Lines::new(format), Fields::default(), Vec::new());
        let mut each = |_: u64, line: &[u8]| {
            let line = std::str::from_utf8(line).unwrap();
            fields.split(format, line)?;
            let text = |index| match fields.get(line, index).unwrap() {
                Field::Null => None,
                Field::Default => Some("DEFAULT".to_owned()),
                Field::Text(text) => Some(text.to_owned()),
            };
            rows.push((0..fields.len()).map(text).collect());
            Ok(())
        };
        for portion in data.chunks(portion) {
            lines.push(portion, &mut each)?;
        }
        lines.finish(&mut each)?;
        Ok(rows)
    }

    fn some(texts: &[&str]) -> Vec<Option<String>> {
        texts.iter().map(|text| Some((*text).to_owned())).collect()
    }

    #[test]
    fn the_text_format_is_read_as_postgres_writes_it() {
        let data = b"a\tb\\tc\\\\\\n\n\\N\t\\x41\\101\\q\n\n\\.\nrest";
        let rows = read(&text_format(), data, 3).unwrap();
        assert_eq!(rows, [some(&["a", "b\tc\\\n"]), vec![None, Some("AAq".to_owned())], some(&[""])]);
        assert_eq!(read(&text_format(), b"a\r\nb\r\n", 1).unwrap(), [some(&["a"]), some(&["b"])]);
        assert_eq!(
            read(&text_format(), b"a\\\nb", 2).unwrap(),
            [some(&["a\nb"])],
            "a break behind a backslash is data"
        );
    }

    #[test]
    fn csv_tells_null_from_empty_and_keeps_breaks_in_quotes() {
        let data = b"1,,\"\"\n\"a \"\"b\"\"\",x\"y,z\"w,\"l1\nl2\"\n\"\\.\",2,3";
        let rows = read(&csv_format(), data, 4).unwrap();
        assert_eq!(rows[0], [Some("1".to_owned()), None, Some(String::new())]);
        assert_eq!(rows[1], some(&["a \"b\"", "xy,zw", "l1\nl2"]));
        assert_eq!(rows[2], some(&["\\.", "2", "3"]));
        let other =
            CopyFormat { quote: b'\'', escape: b'\\', delimiter: b';', default: Some("?".to_owned()), ..csv_format() };
        let rows = read(&other, b"'it\\'s \\\\';?;'?'\n", 1).unwrap();
        assert_eq!(rows, [some(&["it's \\", "DEFAULT", "?"])]);
    }

    #[test]
    fn what_is_malformed_is_named_with_its_line() {
        let failed = |format: &CopyFormat, data: &[u8]| {
            let mut lines = Lines::new(format);
            let mut each = |_: u64, line: &[u8]| Fields::default().split(format, std::str::from_utf8(line).unwrap());
            let error = lines.push(data, &mut each).and_then(|()| lines.finish(&mut each)).unwrap_err();
            (error.state.code(), error.message, lines.number())
        };
        let told = |message: &str, line| ("22P04", message.to_owned(), line);
        assert_eq!(failed(&text_format(), b"a\nb\r\n"), told("literal carriage return found in data", 2));
        assert_eq!(failed(&text_format(), b"a\r\nb\nc"), told("literal newline found in data", 2));
        assert_eq!(failed(&text_format(), b"a\rb"), told("literal carriage return found in data", 1));
        assert_eq!(failed(&csv_format(), b"1\n\"a\nb"), told("unterminated CSV quoted field", 3));
        assert_eq!(failed(&text_format(), b"\\xff").0, "22021");
    }

    fn field() -> impl Strategy<Value = Option<String>> {
        prop_oneof![
            1 => Just(None),
            1 => Just(Some(String::new())),
            2 => Just(Some("\\N".to_owned())),
            2 => Just(Some("\\.".to_owned())),
            8 => "[a,;\"'\\\\\t\n\r\u{b}\u{8}ü ]{0,6}".prop_map(Some),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again_however_it_is_cut(
            rows in prop::collection::vec(prop::collection::vec(field(), 2), 0..8),
            portion in 1_usize..9,
            csv in any::<bool>(),
        ) {
            let format = if csv { csv_format() } else { text_format() };
            let data = written(&format, &rows);
            prop_assert_eq!(read(&format, &data, portion).unwrap(), rows, "{:?}", String::from_utf8_lossy(&data));
        }

        #[test]
        fn any_bytes_are_read_or_refused(data in prop::collection::vec(any::<u8>(), 0..200), csv in any::<bool>()) {
            let format = if csv { csv_format() } else { text_format() };
            let (mut lines, mut fields) = (Lines::new(&format), Fields::default());
            let mut each = |_: u64, line: &[u8]| std::str::from_utf8(line).map_or(Ok(()), |line| fields.split(&format, line));
            let _ = lines.push(&data, &mut each).and_then(|()| lines.finish(&mut each));
        }
    }
}
