//! Sample function: a Runtime API client over one plain socket, with the standard library and a JSON parser only.
//! Like a careful function, it verifies that the offsets of a partition ascend.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;

use serde::Deserialize;

/// Maximum body of an invocation, with room for headers.
const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;

#[derive(Deserialize)]
struct SampleEvent {
    #[serde(default)]
    records: BTreeMap<String, Vec<SampleRecord>>,
}

#[derive(Deserialize)]
struct SampleRecord {
    offset: i64,
}

/// Serves invocations until the Runtime API closes the connection, as a host does to end its functions.
pub fn run() -> io::Result<()> {
    let api = std::env::var("AWS_LAMBDA_RUNTIME_API").map_err(|_| {
        io::Error::other("AWS_LAMBDA_RUNTIME_API is not set: it is started by a function host")
    })?;
    let stream = TcpStream::connect(&api)?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(64 * 1024, stream.try_clone()?);
    let mut writer = stream;
    loop {
        let next = format!("GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: {api}\r\n\r\n");
        writer.write_all(next.as_bytes())?;
        let Some((id, event)) = read_reply(&mut reader)? else { return Ok(()) };
        let (end, body) = match handle(&event) {
            Ok(()) => ("response", "null".to_owned()),
            Err(error) => ("error", error),
        };
        // Head and body go out in one write: two would wait for each other's acknowledgement.
        let length = body.len();
        let answer = format!(
            "POST /2018-06-01/runtime/invocation/{id}/{end} HTTP/1.1\r\nHost: {api}\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        writer.write_all(answer.as_bytes())?;
        if read_reply(&mut reader)?.is_none() {
            return Ok(());
        }
    }
}

fn handle(event: &[u8]) -> Result<(), String> {
    let error = |kind: &str, message: String| {
        serde_json::json!({ "errorType": kind, "errorMessage": message }).to_string()
    };
    let event: SampleEvent = serde_json::from_slice(event)
        .map_err(|cause| error("Sample.NotAKafkaEvent", format!("not a Kafka event: {cause}")))?;
    for (partition, records) in &event.records {
        for pair in records.windows(2) {
            if pair[0].offset >= pair[1].offset {
                let text = format!("{partition}: offset {} before {}", pair[0].offset, pair[1].offset);
                return Err(error("Sample.OutOfOrder", text));
            }
        }
    }
    Ok(())
}

/// Reads one HTTP response. Returns the invocation's id, empty if there is none, and the body. `None` if the host
/// closed the connection or rejected the request.
fn read_reply(reader: &mut impl BufRead) -> io::Result<Option<(String, Vec<u8>)>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let fine = line.split(' ').nth(1).is_some_and(|status| status.starts_with('2'));
    let (mut id, mut length) = (String::new(), 0usize);
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().unwrap_or(usize::MAX),
            "lambda-runtime-aws-request-id" => value.trim().clone_into(&mut id),
            _ => {}
        }
    }
    if length > BODY_BYTES_MAX {
        return Err(io::Error::other("the Runtime API sent a body over 8 MiB"));
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(fine.then_some((id, body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ord_1_descending_offsets_are_an_error() {
        assert_eq!(
            handle(br#"{"records":{"t-0":[{"offset":1},{"offset":5}],"t-1":[{"offset":0}]}}"#),
            Ok(())
        );
        let wrong = handle(br#"{"records":{"t-0":[{"offset":5},{"offset":5}]}}"#).expect_err("order");
        assert!(wrong.contains("Sample.OutOfOrder"), "{wrong}");
        assert!(handle(b"[").is_err());
    }
}
