//! A year of page views, each made from its number alone: the same in every run, and in any order.
//!
//! Users and pages are skewed as people are: the first ones come most often. Numbers are such that sums of them are exact
//! in any order.

use std::fmt::Write;

/// 2024-01-01 00:00:00 UTC.
const FIRST_MS: i64 = 1_704_067_200_000;
/// 2024 is a leap year.
const YEAR_MS: u64 = 366 * 86_400_000;
/// One stream of chance for each field.
const SEED: u64 = 20_240_101;

/// Pages there are; the table of them has a row for each.
pub(super) const PAGES: u64 = 10_000;
const SECTIONS: [&str; 8] = ["art", "books", "cups", "garden", "music", "pots", "tea", "travel"];
const COUNTRIES: [&str; 12] = ["BR", "CN", "DE", "FR", "GB", "IN", "JP", "KE", "MX", "NG", "US", "VN"];
const BROWSERS: [&str; 5] = ["chrome", "curl", "edge", "firefox", "safari"];
/// Views for each user there is, on average.
const VIEWS_PER_USER: u64 = 50;

/// A record on its way out; its texts are used again for the next.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) timestamp_ms: i64,
    pub(super) key: String,
    pub(super) value: String,
}

impl Line {
    fn begin(&mut self, timestamp_ms: i64) {
        self.timestamp_ms = timestamp_ms;
        self.key.clear();
        self.value.clear();
    }
}

/// A view of a year that has so many of them.
pub(super) fn view(views: u64, number: u64, line: &mut Line) {
    let chance = |field: u64| mix(SEED ^ (field << 56) ^ number);
    // Strictly ascending, as long as a view has a millisecond of its own.
    let at_ms = FIRST_MS + (u128::from(number) * u128::from(YEAR_MS) / u128::from(views.max(1))) as i64;
    let users = (views / VIEWS_PER_USER).max(1);
    let user = skewed(chance(1), users, 2);
    let page = skewed(chance(2), PAGES, 3);
    let country = pick(&COUNTRIES, chance(3));
    let latency_ms = 5 + skewed(chance(4), 4_000, 4);
    let bytes = 500 + chance(5) % 100_000;
    let quarters = chance(6) % 41;
    let (browser, version) = (pick(&BROWSERS, chance(7)), chance(8) % 130);
    line.begin(at_ms);
    // Writing into a String cannot fail.
    let _ = write!(line.key, "u{user:08}");
    let _ = write!(
        line.value,
        r#"{{"viewed_at":{at_ms},"page":"/page/{page}","country":"{country}","latency_ms":{latency_ms},"bytes":{bytes},"score":{},"client":{{"browser":"{browser}","version":{version}}}}}"#,
        quarters as f64 / 4.0
    );
}

/// A page's row.
pub(super) fn page(number: u64, line: &mut Line) {
    line.begin(FIRST_MS);
    let section = pick(&SECTIONS, mix(SEED ^ (9 << 56) ^ number));
    let _ = write!(line.key, "/page/{number}");
    let _ = write!(line.value, r#"{{"title":"Page {number}","section":"{section}"}}"#);
}

/// An account's row, for looking up.
pub(super) fn account(number: u64, line: &mut Line) {
    line.begin(FIRST_MS);
    line.key.push_str(&account_id(number));
    let balance = account_balance(number);
    let _ = write!(line.value, r#"{{"name":"name of {number}","balance":{balance},"note":"opened by hand"}}"#);
}

/// An account's key.
pub(super) fn account_id(number: u64) -> String {
    // Scattered, as ids of the world outside are: neighbours in time are none in order.
    format!("a{:016x}", mix(number))
}

/// What an account has.
pub(super) fn account_balance(number: u64) -> i64 {
    (mix(SEED ^ (10 << 56) ^ number) % 1_000_000) as i64
}

/// SplitMix64's finalizer: every bit of the number decides about every bit of the result.
pub(super) fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Below `end`; small ones the more often, the higher the power.
fn skewed(chance: u64, end: u64, power: i32) -> u64 {
    let even = (chance >> 11) as f64 / (1_u64 << 53) as f64;
    ((even.powi(power) * end as f64) as u64).min(end.saturating_sub(1))
}

fn pick(from: &[&'static str], chance: u64) -> &'static str {
    from.get(chance as usize % from.len()).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_year_is_the_same_every_time_and_goes_forward() {
        let (mut line, mut again) = (Line::default(), Line::default());
        let mut last = i64::MIN;
        for number in 0..1_000 {
            view(1_000, number, &mut line);
            view(1_000, number, &mut again);
            assert_eq!(line, again);
            assert!(line.timestamp_ms > last && line.timestamp_ms < FIRST_MS + YEAR_MS as i64);
            last = line.timestamp_ms;
            let value: serde_json::Value = serde_json::from_str(&line.value).unwrap();
            assert_eq!(value["viewed_at"], line.timestamp_ms);
            assert!(value["client"]["browser"].is_string());
        }
        view(1_000, 0, &mut line);
        assert_eq!(line.timestamp_ms, FIRST_MS);
    }

    #[test]
    fn the_first_come_most_often_and_nobody_is_beyond_the_end() {
        let below_half = (0..10_000).filter(|number| skewed(mix(*number), 100, 2) < 50).count();
        assert!((6_500..7_500).contains(&below_half), "{below_half}");
        assert!((0..10_000).all(|number| skewed(mix(number), 100, 2) < 100));
        assert_eq!(skewed(u64::MAX, 1, 4), 0);
    }
}
