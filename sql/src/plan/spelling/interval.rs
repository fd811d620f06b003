//! Intervals as Postgres reads them (`1 day 02:03:04`, `P1DT2H`, `3 hours ago`), in units that DataFusion reads.

/// Units by their names, as months, days and microseconds of one.
const UNITS: [(&[&str], Unit); 12] = [
    (&["microsecond", "microseconds", "us", "usec", "usecs"], Unit::Time(1.0)),
    (&["millisecond", "milliseconds", "ms", "msec", "msecs"], Unit::Time(1e3)),
    (&["second", "seconds", "s", "sec", "secs"], Unit::Time(SECOND)),
    (&["minute", "minutes", "m", "min", "mins"], Unit::Time(60.0 * SECOND)),
    (&["hour", "hours", "h", "hr", "hrs"], Unit::Time(3600.0 * SECOND)),
    (&["day", "days", "d"], Unit::Days(1.0)),
    (&["week", "weeks", "w"], Unit::Days(7.0)),
    (&["month", "months", "mon", "mons"], Unit::Months(1.0)),
    (&["year", "years", "y", "yr", "yrs"], Unit::Months(12.0)),
    (&["decade", "decades", "dec", "decs"], Unit::Months(120.0)),
    (&["century", "centuries", "c", "cent"], Unit::Months(1200.0)),
    (&["millennium", "millennia", "mil", "mils"], Unit::Months(12000.0)),
];

const SECOND: f64 = 1e6;
const DAY: f64 = 86_400.0 * SECOND;
const MONTH_DAYS: f64 = 30.0;

#[derive(Clone, Copy, Debug)]
enum Unit {
    Months(f64),
    Days(f64),
    Time(f64),
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Span {
    months: f64,
    days: f64,
    us: f64,
}

impl Span {
    /// A fraction of a month goes into days, one of a day into time.
    fn add(&mut self, count: f64, unit: Unit) {
        match unit {
            Unit::Months(size) if size > 1.0 => self.months += (count * size).round(),
            Unit::Months(_) => {
                self.months += count.trunc();
                self.add(count.fract() * MONTH_DAYS, Unit::Days(1.0));
            }
            Unit::Days(size) => {
                let days = count * size;
                self.days += days.trunc();
                self.us += (days.fract() * DAY).round();
            }
            Unit::Time(size) => self.us += (count * size).round(),
        }
    }
}

/// The interval in months, days and microseconds; `None`: it is in no form that is known here.
pub(super) fn spelled(written: &str) -> Option<String> {
    in_units(span_of(written)?)
}

/// The same with the other sign: a minus in front of all would be one of the months alone.
pub(super) fn negated(written: &str) -> Option<String> {
    let span = span_of(written)?;
    in_units(Span { months: -span.months, days: -span.days, us: -span.us })
}

fn span_of(written: &str) -> Option<Span> {
    let written = written.trim();
    match written.strip_prefix('P') {
        Some(iso) => of_iso(iso),
        None => of_words(written),
    }
}

fn in_units(span: Span) -> Option<String> {
    let fits = |count: f64, max: f64| count.abs() <= max;
    // What is beyond is told by who reads it.
    if !fits(span.months, f64::from(i32::MAX)) || !fits(span.days, f64::from(i32::MAX)) || !fits(span.us, 9e15) {
        return None;
    }
    Some(format!("{} months {} days {} microseconds", span.months as i64, span.days as i64, span.us as i64))
}

fn unit_of(name: &str) -> Option<Unit> {
    let name = name.to_lowercase();
    UNITS.iter().find(|(names, _)| names.contains(&name.as_str())).map(|(_, unit)| *unit)
}

fn of_words(written: &str) -> Option<Span> {
    let mut words: Vec<&str> = written.trim_start_matches('@').split_whitespace().collect();
    let ago = words.last().is_some_and(|word| word.eq_ignore_ascii_case("ago"));
    if ago {
        words.pop();
    }
    if words.is_empty() {
        return None;
    }
    let mut span = Span::default();
    let mut rest = words.into_iter().peekable();
    while let Some(word) = rest.next() {
        if word.contains(':') {
            span.us += clock(word)?;
            continue;
        }
        let end = word.find(|char: char| !char.is_ascii_digit() && !"+-.".contains(char)).unwrap_or(word.len());
        let (number, unit) = word.split_at(end);
        // Years and months: 1-2.
        if let Some((years, months)) = number.get(1..).and_then(|_| number.split_once('-'))
            && !years.is_empty()
        {
            let sign = if years.starts_with('-') { -1.0 } else { 1.0 };
            span.months += years.parse::<f64>().ok()? * 12.0 + sign * months.parse::<f64>().ok()?;
            continue;
        }
        let count: f64 = number.parse().ok()?;
        let unit = match (unit, rest.peek()) {
            ("", Some(next)) if unit_of(next).is_some() => rest.next().and_then(unit_of)?,
            ("", None) => Unit::Time(SECOND),
            // `1 02:03:04`: days.
            ("", Some(next)) if next.contains(':') => Unit::Days(1.0),
            (unit, _) => unit_of(unit)?,
        };
        span.add(count, unit);
    }
    if ago {
        span = Span { months: -span.months, days: -span.days, us: -span.us };
    }
    Some(span)
}

/// `-02:03:04.5`, `02:03`.
fn clock(word: &str) -> Option<f64> {
    let (sign, digits) = match word.strip_prefix('-') {
        Some(digits) => (-1.0, digits),
        None => (1.0, word.strip_prefix('+').unwrap_or(word)),
    };
    let parts: Vec<&str> = digits.split(':').collect();
    let whole = |part: &str| part.parse::<u32>().ok().map(f64::from);
    let seconds = match parts.as_slice() {
        [hours, minutes] => whole(hours)? * 3600.0 + whole(minutes).filter(|count| *count < 60.0)? * 60.0,
        [hours, minutes, seconds] => {
            let seconds: f64 = seconds.parse().ok().filter(|count| (0.0..60.0).contains(count))?;
            whole(hours)? * 3600.0 + whole(minutes).filter(|count| *count < 60.0)? * 60.0 + seconds
        }
        _ => return None,
    };
    Some((sign * seconds * SECOND).round())
}

/// `1Y2M3DT4H5M6.7S`.
fn of_iso(written: &str) -> Option<Span> {
    let (dates, times) = written.split_once('T').unwrap_or((written, ""));
    if dates.is_empty() && times.is_empty() {
        return None;
    }
    let mut span = Span::default();
    let units: [(&str, &[(char, Unit)]); 2] = [
        (dates, &[('Y', Unit::Months(12.0)), ('M', Unit::Months(1.0)), ('W', Unit::Days(7.0)), ('D', Unit::Days(1.0))]),
        (times, &[('H', Unit::Time(3600.0 * SECOND)), ('M', Unit::Time(60.0 * SECOND)), ('S', Unit::Time(SECOND))]),
    ];
    for (mut rest, units) in units {
        while !rest.is_empty() {
            let end = rest.find(|char: char| char.is_ascii_alphabetic())?;
            let (number, behind) = rest.split_at(end);
            let letter = behind.chars().next()?;
            let (_, unit) = units.iter().find(|(name, _)| *name == letter)?;
            span.add(number.parse().ok()?, *unit);
            rest = behind.get(1..).unwrap_or("");
        }
    }
    Some(span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_read_in_every_form_of_postgres() {
        // Each asked of Postgres 15.
        for (written, months, days, us) in [
            ("1 day 02:03:04", 0, 1, 7_384_000_000_i64),
            ("1 year 2 mons -3 days", 14, -3, 0),
            ("-02:03:04.5", 0, 0, -7_384_500_000),
            ("1.5 months", 1, 15, 0),
            ("1.5 days", 0, 1, 43_200_000_000),
            ("2 weeks ago", 0, -14, 0),
            ("P1Y2M3DT4H5M6.7S", 14, 3, 14_706_700_000),
            ("1-2", 14, 0, 0),
            ("1 04:05", 0, 1, 14_700_000_000),
            ("90", 0, 0, 90_000_000),
            ("1h30m", 0, 0, 0),
        ] {
            if written == "1h30m" {
                assert_eq!(spelled(written), None);
                continue;
            }
            let wanted = format!("{months} months {days} days {us} microseconds");
            assert_eq!(spelled(written).as_deref(), Some(wanted.as_str()), "{written}");
        }
        assert_eq!(negated("1 day 01:00").as_deref(), Some("0 months -1 days -3600000000 microseconds"));
        for wrong in ["", "soon", "1 parsec", "25:99", "P", "é"] {
            assert_eq!(spelled(wrong), None, "{wrong}");
        }
    }
}
