//! `extract(field FROM time)` as Postgres types it, numeric with the fraction that the field has, and `date_part`, which
//! is the same as a float.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, Float64Array};
use arrow::datatypes::{
    DataType, Date32Type, Field, FieldRef, IntervalMonthDayNanoType, IntervalUnit, Time64MicrosecondType, TimeUnit,
    TimestampMicrosecondType,
};
use chrono::{DateTime, Datelike, NaiveDateTime, Timelike};
use datafusion::common::{ScalarValue, plan_err};
use datafusion::error::Result;
use datafusion::functions::datetime::date_part;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult};
use datafusion::logical_expr::preimage::PreimageResult;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, lit,
};

use crate::error::{Error, SqlState};
use crate::written::{DAY_US, interval_of_duration};

/// Digits that any field's value fits in.
const PRECISION: u8 = 26;
/// Seconds of what Postgres counts as a year and a month, in intervals.
const YEAR_SECONDS: i128 = 31_557_600;
const MONTH_SECONDS: i128 = 2_592_000;
/// The Julian day of 1970-01-01.
const EPOCH_JULIAN: i128 = 2_440_588;
const SECOND_US: i64 = 1_000_000;

/// Fields by their names, in lower case.
const NAMES: [(&[&str], Part); 22] = [
    (&["microsecond", "microseconds", "us", "usec", "usecs", "usecond", "useconds"], Part::Microseconds),
    (&["millisecond", "milliseconds", "ms", "msec", "msecs", "msecond", "mseconds"], Part::Milliseconds),
    (&["second", "seconds", "s", "sec", "secs"], Part::Second),
    (&["minute", "minutes", "m", "min", "mins"], Part::Minute),
    (&["hour", "hours", "h", "hr", "hrs"], Part::Hour),
    (&["day", "days", "d"], Part::Day),
    (&["week", "weeks", "w"], Part::Week),
    (&["month", "months", "mon", "mons"], Part::Month),
    (&["quarter", "qtr"], Part::Quarter),
    (&["year", "years", "y", "yr", "yrs"], Part::Year),
    (&["isoyear"], Part::IsoYear),
    (&["decade", "decades", "dec", "decs"], Part::Decade),
    (&["century", "centuries", "c", "cent"], Part::Century),
    (&["millennium", "millennia", "mil", "mils"], Part::Millennium),
    (&["dow"], Part::Dow),
    (&["isodow"], Part::IsoDow),
    (&["doy"], Part::Doy),
    (&["epoch"], Part::Epoch),
    (&["julian", "j"], Part::Julian),
    (&["timezone"], Part::Zone),
    (&["timezone_hour"], Part::Zone),
    (&["timezone_minute"], Part::Zone),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Microseconds,
    Milliseconds,
    Second,
    Minute,
    Hour,
    Day,
    Week,
    Month,
    Quarter,
    Year,
    IsoYear,
    Decade,
    Century,
    Millennium,
    Dow,
    IsoDow,
    Doy,
    Epoch,
    Julian,
    Zone,
}

impl Part {
    fn of(name: &str) -> Result<Self> {
        let lower = name.trim_matches(['\'', '"']).to_lowercase();
        let found = NAMES.iter().find(|(names, _)| names.contains(&lower.as_str()));
        found.map(|(_, part)| *part).ok_or_else(|| {
            Error::new(SqlState::InvalidParameterValue, format!("unit \"{lower}\" not recognized"))
                .with_hint("there are year, quarter, month, week, day, hour, minute, second, epoch, dow, doy, …")
                .into()
        })
    }

    /// Digits behind the point.
    fn scale(self, of: &DataType) -> i8 {
        match self {
            Self::Epoch if *of == DataType::Date32 => 0,
            Self::Second | Self::Epoch => 6,
            Self::Milliseconds => 3,
            _ => 0,
        }
    }

    /// Whether a date alone has it.
    fn is_of_dates(self) -> bool {
        !matches!(self, Self::Microseconds | Self::Milliseconds | Self::Second | Self::Minute | Self::Hour | Self::Zone)
    }
}

/// Plans `EXTRACT(field FROM time)`.
#[derive(Debug)]
pub(super) struct Extraction;

impl ExprPlanner for Extraction {
    fn plan_extract(&self, arguments: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        Ok(PlannerResult::Planned(extract(false).call(arguments)))
    }
}

/// `extract`, or `date_part`.
pub(super) fn extract(is_float: bool) -> Arc<ScalarUDF> {
    let signature = Signature::user_defined(Volatility::Immutable);
    Arc::new(ScalarUDF::new_from_impl(Extract { is_float, signature }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Extract {
    is_float: bool,
    signature: Signature,
}

impl ScalarUDFImpl for Extract {
    fn name(&self) -> &'static str {
        if self.is_float { "date_part" } else { "extract" }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, kinds: &[DataType]) -> Result<Vec<DataType>> {
        let [_, time] = kinds else { return plan_err!("No function matches {} of these arguments", self.name()) };
        let time = match time {
            DataType::Date32 | DataType::Date64 => DataType::Date32,
            DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
            DataType::Time32(_) | DataType::Time64(_) => DataType::Time64(TimeUnit::Microsecond),
            DataType::Interval(_) => DataType::Interval(IntervalUnit::MonthDayNano),
            DataType::Duration(_) => DataType::Duration(TimeUnit::Microsecond),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => {
                DataType::Timestamp(TimeUnit::Microsecond, None)
            }
            other => return plan_err!("No function matches {}(text, {other})", self.name()),
        };
        Ok(vec![DataType::Utf8, time])
    }

    fn return_type(&self, _kinds: &[DataType]) -> Result<DataType> {
        plan_err!("the type of {} depends on its field", self.name())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let Some(Some(name)) = args.scalar_arguments.first().map(|field| field.and_then(ScalarValue::try_as_str))
        else {
            return plan_err!("the field of {} must be a text", self.name());
        };
        let of = args.arg_fields.get(1).map_or(&DataType::Null, |field| field.data_type());
        let scale = Part::of(name.unwrap_or_default())?.scale(of);
        let kind = if self.is_float { DataType::Float64 } else { DataType::Decimal128(PRECISION, scale) };
        Ok(Arc::new(Field::new(self.name(), kind, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [ColumnarValue::Scalar(field), time] = args.args.as_slice() else {
            return plan_err!("the field of {} must be a text", self.name());
        };
        let part = Part::of(field.try_as_str().flatten().unwrap_or_default())?;
        let column = time.to_array(args.number_rows)?;
        let scale = part.scale(column.data_type());
        let values = parts(part, &column)?;
        let answer: ArrayRef = if self.is_float {
            let unit = 10_f64.powi(i32::from(scale));
            Arc::new(values.iter().map(|value| value.map(|value| value as f64 / unit)).collect::<Float64Array>())
        } else {
            Arc::new(Decimal128Array::from(values).with_precision_and_scale(PRECISION, scale)?)
        };
        match time {
            ColumnarValue::Scalar(_) => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&answer, 0)?)),
            ColumnarValue::Array(_) => Ok(ColumnarValue::Array(answer)),
        }
    }

    /// A year that is asked for becomes a range of times, by which a scan prunes.
    fn preimage(&self, arguments: &[Expr], value: &Expr, info: &SimplifyContext) -> Result<PreimageResult> {
        let year = match value {
            Expr::Literal(ScalarValue::Decimal128(Some(year), _, 0), _) => i32::try_from(*year).ok(),
            _ => None,
        };
        match year {
            Some(year) => date_part().preimage(arguments, &lit(year), info),
            None => Ok(PreimageResult::None),
        }
    }
}

/// The field's value in each row, with its point taken out.
fn parts(part: Part, column: &ArrayRef) -> Result<Vec<Option<i128>>> {
    let missing = |kind: &str| -> datafusion::error::DataFusionError {
        Error::unsupported(format!("extract({part:?} FROM {kind})")).with_hint("cast the value first").into()
    };
    match column.data_type() {
        DataType::Timestamp(_, zone) => {
            let times = column.as_primitive::<TimestampMicrosecondType>();
            let zoned = zone.is_some();
            if (part == Part::Zone && !zoned) || part == Part::Julian {
                return Err(missing("timestamp"));
            }
            times.iter().map(|us| us.map(|us| of_time(part, us)).transpose()).collect()
        }
        DataType::Date32 => {
            if !part.is_of_dates() {
                return Err(missing("date"));
            }
            let days = column.as_primitive::<Date32Type>();
            let unit = if part == Part::Epoch { i128::from(SECOND_US) } else { 1 };
            let value = |day: i32| of_time(part, i64::from(day) * DAY_US).map(|value| value / unit);
            days.iter().map(|day| day.map(value).transpose()).collect()
        }
        DataType::Time64(_) => {
            let times = column.as_primitive::<Time64MicrosecondType>();
            if part != Part::Epoch && part.is_of_dates() {
                return Err(missing("time"));
            }
            times.iter().map(|us| us.map(|us| of_time(part, us)).transpose()).collect()
        }
        DataType::Duration(_) => parts(part, &interval_of_duration(column)?),
        _ => {
            let intervals = column.as_primitive::<IntervalMonthDayNanoType>();
            let values = intervals.iter().map(|interval| {
                let Some(interval) = interval else { return Ok(None) };
                of_interval(part, interval.months, interval.days, interval.nanoseconds / 1000)
                    .map(Some)
                    .ok_or_else(|| missing("interval"))
            });
            values.collect()
        }
    }
}

/// Of microseconds since 1970.
fn of_time(part: Part, us: i64) -> Result<i128> {
    if part == Part::Epoch {
        return Ok(i128::from(us));
    }
    let time: NaiveDateTime = DateTime::from_timestamp_micros(us)
        .ok_or_else(|| Error::new(SqlState::DatetimeOutOfRange, "timestamp out of range"))?
        .naive_utc();
    let of_second = i128::from(us.rem_euclid(60 * SECOND_US));
    // There is no year 0: before 1 comes -1.
    let year = i128::from(if time.year() > 0 { time.year() } else { time.year() - 1 });
    let rounded_up = |unit: i128| if year > 0 { (year + unit - 1) / unit } else { -((unit - 1 - year) / unit) };
    Ok(match part {
        Part::Microseconds | Part::Milliseconds | Part::Second => of_second,
        Part::Minute => time.minute().into(),
        Part::Hour => time.hour().into(),
        Part::Day => time.day().into(),
        Part::Week => time.iso_week().week().into(),
        Part::Month => time.month().into(),
        Part::Quarter => ((time.month() - 1) / 3 + 1).into(),
        Part::Year => year,
        Part::IsoYear => time.iso_week().year().into(),
        Part::Decade => i128::from(time.year()).div_euclid(10),
        Part::Century => rounded_up(100),
        Part::Millennium => rounded_up(1000),
        Part::Dow => time.weekday().num_days_from_sunday().into(),
        Part::IsoDow => time.weekday().number_from_monday().into(),
        Part::Doy => time.ordinal().into(),
        Part::Julian => i128::from(us.div_euclid(DAY_US)) + EPOCH_JULIAN,
        // Moments are kept in UTC.
        Part::Zone | Part::Epoch => 0,
    })
}

/// Of an interval; `None`: it has no such field.
fn of_interval(part: Part, months: i32, days: i32, us: i64) -> Option<i128> {
    let (years, month) = (i128::from(months / 12), i128::from(months % 12));
    let whole = i128::from(us / SECOND_US);
    Some(match part {
        Part::Microseconds | Part::Milliseconds | Part::Second => i128::from(us % (60 * SECOND_US)),
        Part::Minute => whole / 60 % 60,
        Part::Hour => whole / 3600,
        Part::Day => days.into(),
        Part::Month => month,
        Part::Quarter => month / 3 + 1,
        Part::Year => years,
        Part::Decade => years / 10,
        Part::Century => years / 100,
        Part::Millennium => years / 1000,
        Part::Epoch => {
            let seconds = years * YEAR_SECONDS + month * MONTH_SECONDS + i128::from(days) * 86_400;
            seconds * i128::from(SECOND_US) + i128::from(us)
        }
        _ => return None,
    })
}
