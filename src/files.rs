//! How many files the process may have open, and how many connections that leaves room for.
//!
//! A connection is a file too. When clients have them all, the log cannot open its next one and all writing stops; so the
//! limits of connections together stay below the process's, with room for the log, the object store and caches.

use aquifer_server::settings::ServerSettings;
use aquifer_storage::settings::StorageSettings;

/// Files beside segments of the log: objects and blocks that are read, requests to the object store, the keyed state's,
/// listeners, threads.
const OTHER_FILES: u64 = 264;
/// Connections of each protocol that are there however few files there are.
const CONNECTIONS_MIN: usize = 4;

/// The soft limit of open files, where the system tells it.
pub(crate) fn soft_limit() -> Option<u64> {
    parse(&std::fs::read_to_string("/proc/self/limits").ok()?)
}

/// From `Max open files            1024                 524288               files`.
fn parse(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Lowers the limits of connections to what the files allow; says so in words if it had to.
pub(crate) fn fit(soft_limit: u64, storage: &StorageSettings, server: &mut ServerSettings) -> Option<String> {
    let segments = storage.wal_bytes_max.div_ceil(storage.wal_segment_bytes.max(1));
    let wanted_files = segments.saturating_add(OTHER_FILES);
    // Clients get half of what there is even if the log could use more one day.
    let reserved = wanted_files.min(soft_limit / 2);
    let room = usize::try_from(soft_limit - reserved).unwrap_or(usize::MAX);
    let asked = [server.kafka_connections_max, server.postgres_connections_max, server.http_connections_max];
    let all = server.connection_files();
    if all <= room {
        return None;
    }
    let least = |share: usize, asked: usize| asked.min(share.max(CONNECTIONS_MIN));
    server.http_connections_max = least(room / 8, server.http_connections_max);
    server.postgres_connections_max = least(room / 5, server.postgres_connections_max);
    let kafka = std::mem::take(&mut server.kafka_connections_max);
    server.kafka_connections_max = least(room.saturating_sub(server.connection_files()), kafka);
    let needed = u64::try_from(all).unwrap_or(u64::MAX).saturating_add(wanted_files);
    Some(format!(
        "the process may have {soft_limit} files open, {needed} are needed for the log and all connections: \
         kafka.connections_max is {} instead of {}, postgres.connections_max {} instead of {}, http.connections_max {} \
         instead of {}; raise the limit (ulimit -n {needed}, LimitNOFILE={needed})",
        server.kafka_connections_max,
        asked[0],
        server.postgres_connections_max,
        asked[1],
        server.http_connections_max,
        asked[2],
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_fit_into_the_files_there_are() {
        let storage = StorageSettings::default();
        for soft_limit in [64, 256, 1_024, 4_096, 6_215] {
            let mut server = ServerSettings::default();
            let said = fit(soft_limit, &storage, &mut server).expect("too few for the defaults");
            assert!(
                said.contains(&format!("may have {soft_limit} files")) && said.contains("ulimit -n 6216"),
                "{said}"
            );
            let all = server.connection_files();
            let files = (soft_limit / 2).min(512 + OTHER_FILES);
            assert!(all as u64 + files <= soft_limit && all > 16, "{soft_limit}: {all}");
        }
        let mut server = ServerSettings::default();
        assert_eq!(fit(1 << 20, &storage, &mut server), None);
        assert_eq!(server.kafka_connections_max, 4_096);
    }

    #[test]
    fn the_limit_is_read_from_what_the_system_tells() {
        let told = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max open files            1024                 524288               files     \n";
        assert_eq!(parse(told), Some(1_024));
        assert_eq!(parse("Max open files            unlimited            unlimited            files"), None);
    }
}
