//! Writes refused because of the node and not because of who asked: counted by reason, told in the log, and what readiness
//! goes by.
//!
//! Every refusal counts; a line says so once a minute for each reason, because a full disk refuses thousands in a second.

use metrics::Counter;
use parking_lot::Mutex;

use crate::error::Error;
use crate::settings::OFFSETS_BYTES_MAX;

/// How often the log tells of the same reason again, and how long readiness believes the last refusal, us.
const AGAIN_US: i64 = 60_000_000;

/// Why a write can be refused, in the words of the label.
const REASONS: [&str; 4] = ["full", "read_only", "io", "offsets"];

/// See the top of this file.
#[derive(Debug)]
pub(crate) struct Refused {
    counted: [Counter; REASONS.len()],
    last: Mutex<Last>,
}

#[derive(Debug, Default)]
struct Last {
    /// When the log told of a reason, by the clock, us.
    told_us: [Option<i64>; REASONS.len()],
    /// Why the last write of records was refused, and when, unless one was taken since.
    refusing: Option<(i64, String)>,
}

impl Default for Refused {
    fn default() -> Self {
        let counted = REASONS.map(|reason| metrics::counter!("aquifer_log_refused_total", "reason" => reason));
        Self { counted, last: Mutex::default() }
    }
}

impl Refused {
    /// A write gets this error; what is wrong with the write itself is not counted.
    pub(crate) fn note(&self, error: &Error, now_us: i64) {
        let index = match error {
            Error::Full { .. } => 0,
            Error::ReadOnly { .. } => 1,
            Error::Io { .. } => 2,
            Error::TooLarge { setting: OFFSETS_BYTES_MAX, .. } => 3,
            _ => return,
        };
        self.counted[index].increment(1);
        let words = match std::error::Error::source(error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        let mut last = self.last.lock();
        let told_us = &mut last.told_us[index];
        // A clock that was set back must not keep it quiet.
        if told_us.is_none_or(|told_us| !(told_us..told_us.saturating_add(AGAIN_US)).contains(&now_us)) {
            *told_us = Some(now_us);
            tracing::warn!(
                reason = words,
                "the log refuses writes; told once a minute, aquifer_log_refused_total counts"
            );
        }
        if matches!(error, Error::Full { .. } | Error::Io { .. }) {
            last.refusing = Some((now_us, words));
        }
    }

    /// Records have been taken.
    pub(crate) fn taken(&self) {
        self.last.lock().refusing = None;
    }

    /// Why writes were refused a short while ago, if none was taken since. Who is not ready may get no writes to try, so
    /// that belief ends by itself.
    pub(crate) fn refusing(&self, now_us: i64) -> Option<String> {
        let last = self.last.lock();
        let recent =
            last.refusing.as_ref().filter(|(at_us, _)| (*at_us..at_us.saturating_add(AGAIN_US)).contains(&now_us));
        recent.map(|(_, reason)| reason.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_node_refuses_is_believed_until_a_write_is_taken_or_a_minute_is_over() {
        let refused = Refused::default();
        let full = Error::Full { reason: "disk".to_owned() };
        refused.note(&Error::UnknownTopic { topic: "t".to_owned() }, 5);
        assert_eq!(refused.refusing(5), None, "the fault of who asked");
        refused.note(&full, 10);
        assert_eq!(refused.refusing(11).as_deref(), Some("log is full: disk"));
        assert_eq!(refused.refusing(10 + AGAIN_US), None);
        refused.note(&full, 20 + AGAIN_US);
        refused.taken();
        assert_eq!(refused.refusing(21 + AGAIN_US), None);
    }
}
