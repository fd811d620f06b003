//! Templates of `to_char` for numbers, as Postgres reads them.

use crate::error::{Error, Result};

/// One sign of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// `9`, or `0`, which is shown where there is no digit too.
    Digit {
        zero: bool,
    },
    Comma,
    Text(String),
}

/// Where the sign stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    /// Before the first digit, if negative.
    Plain,
    /// `S` in front.
    Before,
    /// `S` at the end.
    Behind,
    /// `MI` at the end.
    Minus,
    /// `PR`: in angles.
    Angles,
}

/// A template, read once.
#[derive(Clone, Debug)]
pub(super) struct NumberTemplate {
    whole: Vec<Part>,
    fraction: Option<Vec<Part>>,
    sign: Sign,
    is_bare: bool,
    ordinal: Option<bool>,
}

impl NumberTemplate {
    /// Reads a template.
    ///
    /// # Errors
    /// 0A000 for patterns that are not supported.
    pub(super) fn of(text: &str) -> Result<Self> {
        let mut template = Self { whole: Vec::new(), fraction: None, sign: Sign::Plain, is_bare: false, ordinal: None };
        let mut rest = text;
        while let Some(char) = rest.chars().next() {
            let upper: String = rest.chars().take(4).collect::<String>().to_uppercase();
            let seen_digit = template.whole.iter().any(|part| matches!(part, Part::Digit { .. }));
            let mut length = char.len_utf8();
            match upper.as_str() {
                word if word.starts_with("FM") => (template.is_bare, length) = (true, 2),
                word if word.starts_with("TH") => (template.ordinal, length) = (Some(char == 'T'), 2),
                word if word.starts_with("MI") && seen_digit => (template.sign, length) = (Sign::Minus, 2),
                word if word.starts_with("PR") => (template.sign, length) = (Sign::Angles, 2),
                word if ["EEEE", "RN", "PL", "SG", "MI", "V"].iter().any(|known| word.starts_with(known)) => {
                    return Err(Error::unsupported(format!("the pattern \"{rest}\" of to_char"))
                        .with_hint("for numbers there are 9, 0, a point, a comma, D, G, S, MI, PR, L, TH and FM"));
                }
                word if word.starts_with('S') => {
                    template.sign = if seen_digit { Sign::Behind } else { Sign::Before };
                }
                word if word.starts_with(['9', '0']) => template.push(Part::Digit { zero: char == '0' }),
                word if word.starts_with(['.', 'D']) && template.fraction.is_none() => {
                    template.fraction = Some(Vec::new());
                }
                word if word.starts_with([',', 'G']) => template.push(Part::Comma),
                word if word.starts_with('L') => template.push(Part::Text(" ".to_owned())),
                word if word.starts_with('"') => {
                    let inside = rest.get(1..).unwrap_or("");
                    let quoted = inside.split('"').next().unwrap_or("");
                    template.push(Part::Text(quoted.to_owned()));
                    length = (quoted.len() + 2).min(rest.len());
                }
                _ => template.push(Part::Text(char.to_string())),
            }
            rest = rest.get(length..).unwrap_or("");
        }
        Ok(template)
    }

    fn push(&mut self, part: Part) {
        self.fraction.as_mut().unwrap_or(&mut self.whole).push(part);
    }

    /// Digits behind the point.
    pub(super) fn scale(&self) -> usize {
        let digits = |part: &&Part| matches!(part, Part::Digit { .. });
        self.fraction.as_ref().map_or(0, |parts| parts.iter().filter(digits).count())
    }

    /// A number in this form; `plain` has no exponent and no more than [`Self::scale`] digits behind its point.
    pub(super) fn write(&self, plain: &str) -> String {
        let (minus, digits) = plain.strip_prefix('-').map_or((false, plain), |digits| (true, digits));
        let is_zero = !digits.contains(|digit: char| digit.is_ascii_digit() && digit != '0');
        let negative = minus && !is_zero;
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let whole = whole.trim_start_matches('0');
        let sign = match (self.sign, negative) {
            (Sign::Angles, true) => Some('<'),
            (Sign::Plain | Sign::Before, true) => Some('-'),
            (Sign::Before, false) => Some('+'),
            _ => None,
        };
        let mut out = Shown { text: String::new(), sign, is_bare: self.is_bare, begun: false };
        let has_slot = matches!(self.sign, Sign::Plain | Sign::Before | Sign::Angles);
        let overflows = self.write_whole(whole, has_slot, &mut out);
        self.write_fraction(fraction, overflows, &mut out);
        let mut text = out.text;
        match (self.sign, negative) {
            (Sign::Behind, true) | (Sign::Minus, true) => text.push('-'),
            (Sign::Behind, false) => text.push('+'),
            (Sign::Angles, true) => text.push('>'),
            (Sign::Minus | Sign::Angles, false) if !self.is_bare => text.push(' '),
            _ => {}
        }
        if let Some(in_capitals) = self.ordinal.filter(|_| !negative && !overflows && self.fraction.is_none()) {
            let ending = super::template::ordinal_of(whole);
            text.push_str(&if in_capitals { ending.to_uppercase() } else { ending.to_owned() });
        }
        text
    }

    /// Whether there are more digits than places.
    fn write_whole(&self, whole: &str, has_slot: bool, out: &mut Shown) -> bool {
        let places = self.whole.iter().filter(|part| matches!(part, Part::Digit { .. })).count();
        let overflows = whole.len() > places;
        // Without a point something has to stand there for zero.
        let digits = if whole.is_empty() && self.fraction.is_none() { "0" } else { whole };
        let mut place = 0;
        let mut zeros = false;
        let mut slotted = false;
        for part in &self.whole {
            if !slotted && !matches!(part, Part::Text(_)) && has_slot {
                out.blank();
                slotted = true;
            }
            match part {
                Part::Text(text) => out.text.push_str(text),
                Part::Comma if out.begun => out.text.push(','),
                Part::Comma => out.blank(),
                Part::Digit { zero } => {
                    zeros |= *zero;
                    let index = (place + digits.len()).checked_sub(places);
                    match index.and_then(|index| digits.chars().nth(index)) {
                        _ if overflows => out.digit('#'),
                        Some(digit) => out.digit(digit),
                        None if zeros => out.digit('0'),
                        None => out.blank(),
                    }
                    place += 1;
                }
            }
        }
        if !slotted && has_slot {
            out.blank();
        }
        overflows
    }

    fn write_fraction(&self, fraction: &str, overflows: bool, out: &mut Shown) {
        let Some(parts) = &self.fraction else { return };
        let digits = format!("{fraction:0<width$}", width = self.scale());
        // Bare, zeros at the end are left out where the template has no 0.
        let is_wanted = |part: &Part| matches!(part, Part::Digit { zero: true });
        let needed = parts.iter().filter(|part| !matches!(part, Part::Text(_) | Part::Comma)).enumerate();
        let needed = needed.filter(|(_, part)| is_wanted(part)).map(|(index, _)| index + 1).last().unwrap_or(0);
        let kept = if self.is_bare { digits.trim_end_matches('0').len().max(needed) } else { digits.len() };
        if self.is_bare && kept == 0 && !out.begun {
            out.digit('0');
        }
        out.digit('.');
        let mut place = 0;
        for part in parts {
            match part {
                Part::Text(text) => out.text.push_str(text),
                Part::Comma => out.text.push(','),
                Part::Digit { .. } => {
                    if place < kept || overflows {
                        out.digit(if overflows { '#' } else { digits.chars().nth(place).unwrap_or('0') });
                    }
                    place += 1;
                }
            }
        }
    }
}

/// What is written so far; the sign takes the place before the first digit.
struct Shown {
    text: String,
    sign: Option<char>,
    is_bare: bool,
    begun: bool,
}

impl Shown {
    fn blank(&mut self) {
        if !self.is_bare {
            self.text.push(' ');
        }
    }

    fn digit(&mut self, digit: char) {
        if !self.begun
            && let Some(sign) = self.sign
        {
            if !self.is_bare {
                self.text.pop();
            }
            self.text.push(sign);
        }
        self.begun = true;
        self.text.push(digit);
    }
}

/// A decimal number with so many digits behind its point, rounded away from zero.
pub(super) fn rounded(plain: &str, scale: usize) -> String {
    let (sign, digits) = plain.strip_prefix('-').map_or(("", plain), |digits| ("-", digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if fraction.len() <= scale {
        return plain.to_owned();
    }
    let (kept, dropped) = fraction.split_at(scale);
    let mut all: Vec<u8> = format!("0{whole}{kept}").into_bytes();
    if dropped.as_bytes().first().is_some_and(|digit| *digit >= b'5') {
        for digit in all.iter_mut().rev() {
            if *digit == b'9' {
                *digit = b'0';
            } else {
                *digit += 1;
                break;
            }
        }
    }
    let all = String::from_utf8(all).unwrap_or_default();
    let (whole, kept) = all.split_at(all.len() - scale);
    let whole = whole.trim_start_matches('0');
    let whole = if whole.is_empty() { "0" } else { whole };
    if kept.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{kept}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_postgres_writes_them() {
        // Each asked of Postgres 15.
        for (template, number, wanted) in [
            ("FM9,999.00", "1234.5", "1,234.50"),
            ("9,999.00", "-0.1", "     -.10"),
            ("9,999.00", "123456", " #,###.##"),
            ("$9,999", "-1234.5", "$-1,235"),
            ("000", "12", " 012"),
            ("999", "-0.1", "   0"),
            ("9.99", "0.5", "  .50"),
            ("FM9.99", "0", "0."),
            ("FM9.99", "-0.1", "-.1"),
            ("FM00.9", "12", "12."),
            ("9999.99S", "12", "  12.00+"),
            ("S9999", "12", "  +12"),
            ("9999MI", "12", "  12 "),
            ("9999MI", "-1234.5", "1235-"),
            ("9999PR", "-1234.5", "<1235>"),
            ("9999PR", "12", "   12 "),
            ("L999", "12", "   12"),
            ("999th", "12", "  12th"),
            ("9G999D99", "12", "    12.00"),
        ] {
            let template = NumberTemplate::of(template).unwrap();
            assert_eq!(template.write(&rounded(number, template.scale())), wanted, "{template:?} {number}");
        }
        assert!(NumberTemplate::of("9.9EEEE").is_err());
    }

    #[test]
    fn halves_are_rounded_away_from_zero() {
        assert_eq!(rounded("0.5", 0), "1");
        assert_eq!(rounded("-9.995", 2), "-10.00");
        assert_eq!(rounded("12.3", 2), "12.3");
    }
}
