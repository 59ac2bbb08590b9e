//! `slirp --status`: asks a running slirp for its flows, and prints them as a table or as the JSON that came.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

/// What to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusRequest {
    /// The API socket.
    pub socket: PathBuf,
    /// Whether to print JSON.
    pub json: bool,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The socket.
    #[error("{}: {}", .socket.display(), link::reason(.source))]
    Socket {
        /// Its path.
        socket: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Something else is behind it.
    #[error("{}: it does not answer as slirp does", .0.display())]
    Strange(PathBuf),
    /// Standard output.
    #[error("cannot write: {}", link::reason(.0))]
    Output(#[source] io::Error),
}

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks, and prints the answer.
///
/// # Errors
/// [`StatusError`].
pub fn show(request: &StatusRequest) -> Result<(), StatusError> {
    let text = ask(request).map_err(|source| StatusError::Socket { socket: request.socket.clone(), source })?;
    let strange = || StatusError::Strange(request.socket.clone());
    let answer: Value = serde_json::from_str(&text).map_err(|_| strange())?;
    let answer = answer.get("return").filter(|answer| answer["flows"].is_array()).ok_or_else(strange)?;
    let text = if request.json { format!("{answer}\n") } else { table(answer) };
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome.map_err(StatusError::Output),
    }
}

fn ask(request: &StatusRequest) -> io::Result<String> {
    let mut stream = UnixStream::connect(&request.socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(br#"{"execute":"list_flows"}"#)?;
    stream.shutdown(Shutdown::Write)?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Flows, one a line, and under them what was dropped.
fn table(answer: &Value) -> String {
    let head = ["PROTO", "GUEST", "REMOTE", "STATE", "SENT", "RECEIVED", "AGE"].map(str::to_owned);
    let rows = answer["flows"].as_array().into_iter().flatten().map(row);
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 7] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            // Numbers end, words begin, at the same column.
            match column {
                4.. => line.push_str(&format!("{cell:>width$}  ")),
                _ => line.push_str(&format!("{cell:<width$}  ")),
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    for (reason, frames) in answer["drops"].as_object().into_iter().flatten() {
        text.push_str(&format!("dropped: {frames} {reason}\n"));
    }
    text
}

fn row(flow: &Value) -> [String; 7] {
    let word = |key: &str| flow[key].as_str().unwrap_or("*").to_owned();
    let number = |key: &str| flow[key].as_u64().unwrap_or(0);
    [
        word("proto"),
        word("guest"),
        word("remote"),
        word("state"),
        number("sent").to_string(),
        number("received").to_string(),
        format!("{}.{}s", number("age_ms") / 1000, number("age_ms") / 100 % 10),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_line_for_each_flow_and_each_reason() {
        let answer = serde_json::json!({
            "flows": [
                { "proto": "tcp", "guest": "10.0.2.15:40000", "remote": "192.0.2.1:80", "state": "established",
                  "sent": 12, "received": 3456, "age_ms": 1250 },
                { "proto": "udp", "guest": "10.0.2.15:53", "remote": null, "state": "open", "sent": 1, "received": 2,
                  "age_ms": 60000 },
            ],
            "drops": { "unserved": 3 },
        });
        let expected = "\
PROTO  GUEST            REMOTE        STATE        SENT  RECEIVED    AGE
tcp    10.0.2.15:40000  192.0.2.1:80  established    12      3456   1.2s
udp    10.0.2.15:53     *             open            1         2  60.0s
dropped: 3 unserved
";
        assert_eq!(table(&answer), expected);
    }
}
