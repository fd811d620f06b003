//! Redis Streams: XADD with the append-only file, pipelined; `appendfsync always` is what compares with us.

use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::bench::RECORD_BYTES;
use crate::failure::Result;
use crate::peer::{Process, free_port, installed};

/// Commands sent before their answers are read: what one client with many requests in flight does.
const IN_FLIGHT: u64 = 1000;

/// Adds `records` to a stream; gives the time, or nothing where Redis is not installed.
pub(crate) fn produce(directory: TempDir, records: u64, synced: bool) -> Result<Option<Duration>> {
    let Some(program) = installed("redis-server") else { return Ok(None) };
    let port = free_port()?;
    let mut command = Command::new(program);
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"]);
    command.args(["--appendfsync", if synced { "always" } else { "everysec" }]);
    let _process = Process::start(command, directory, port)?;
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    let mut answers = BufReader::new(stream.try_clone()?);
    let mut requests = BufWriter::with_capacity(1 << 20, stream);
    let value = vec![b'x'; RECORD_BYTES as usize];
    let mut answer = String::new();
    let begun = Instant::now();
    let mut sent = 0;
    while sent < records {
        let now = IN_FLIGHT.min(records - sent);
        for _ in 0..now {
            write!(requests, "*5\r\n$4\r\nXADD\r\n$5\r\nbench\r\n$1\r\n*\r\n$1\r\nv\r\n${}\r\n", value.len())?;
            requests.write_all(&value)?;
            requests.write_all(b"\r\n")?;
        }
        requests.flush()?;
        for _ in 0..now {
            read_id(&mut answers, &mut answer)?;
        }
        sent += now;
    }
    Ok(Some(begun.elapsed()))
}

/// Reads the bulk string that XADD answers with.
fn read_id(answers: &mut impl BufRead, line: &mut String) -> Result<()> {
    line.clear();
    answers.read_line(line)?;
    let length = line.trim_end().strip_prefix('$').and_then(|digits| digits.parse::<u64>().ok());
    let length = length.ok_or_else(|| format!("Redis answered {line:?}"))?;
    std::io::copy(&mut answers.take(length + 2), &mut std::io::sink())?;
    Ok(())
}
