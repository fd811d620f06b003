//! NATS JetStream: publishes with acknowledgements into a file-backed stream, many in flight. It syncs every two minutes
//! unless told otherwise; `sync: always` (where the server knows it) is what compares with us.

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::bench::RECORD_BYTES;
use crate::failure::Result;
use crate::peer::{Process, free_port, installed};

/// Publishes sent before their acknowledgements are read.
const IN_FLIGHT: u64 = 1000;
const STREAM: &str = r#"{"name":"bench","subjects":["bench"],"storage":"file","retention":"limits"}"#;

/// Publishes `records`; gives the time, or nothing where NATS is not installed.
pub(crate) fn produce(directory: TempDir, records: u64) -> Result<Option<Duration>> {
    let Some(program) = installed("nats-server") else { return Ok(None) };
    let port = free_port()?;
    let mut command = Command::new(program);
    command.args(["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "-sd"]).arg(directory.path().join("data"));
    let _process = Process::start(command, directory, port)?;
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    let mut answers = BufReader::with_capacity(1 << 20, stream.try_clone()?);
    let mut requests = BufWriter::with_capacity(1 << 20, stream);
    write!(requests, "CONNECT {{\"verbose\":false}}\r\nSUB _inbox 1\r\n")?;
    write!(requests, "PUB $JS.API.STREAM.CREATE.bench _inbox {}\r\n{STREAM}\r\n", STREAM.len())?;
    requests.flush()?;
    let created = read_message(&mut answers)?;
    if created.contains("\"error\"") {
        return Err(format!("NATS could not make the stream: {created}").into());
    }
    let value = vec![b'x'; RECORD_BYTES as usize];
    let begun = Instant::now();
    let mut sent = 0;
    while sent < records {
        let now = IN_FLIGHT.min(records - sent);
        for _ in 0..now {
            write!(requests, "PUB bench _inbox {}\r\n", value.len())?;
            requests.write_all(&value)?;
            requests.write_all(b"\r\n")?;
        }
        requests.flush()?;
        for _ in 0..now {
            let acknowledged = read_message(&mut answers)?;
            if !acknowledged.contains("\"seq\"") {
                return Err(format!("NATS answered {acknowledged}").into());
            }
        }
        sent += now;
    }
    Ok(Some(begun.elapsed()))
}

/// The payload of the next message; what else the server says is skipped.
fn read_message(answers: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    loop {
        line.clear();
        if answers.read_line(&mut line)? == 0 {
            return Err("NATS closed the connection".into());
        }
        if line.starts_with("-ERR") {
            return Err(format!("NATS answered {line}").into());
        }
        let Some(length) = line.strip_prefix("MSG ").and_then(|rest| rest.trim_end().rsplit(' ').next()) else {
            continue;
        };
        let mut payload = vec![0; length.parse::<usize>()? + 2];
        answers.read_exact(&mut payload)?;
        return Ok(String::from_utf8_lossy(&payload).into_owned());
    }
}
