//! Predictions over HTTP while learning (`nystream online --listen`).
//!
//! | request | answer |
//! |---|---|
//! | `POST /predict`, JSON `{"row": {..}}` or `{"rows": [{..}, ..]}` | `{"changes": N, "predictions": [{"prediction": .., ..} or {"error": ".."}, ..]}` |
//! | `POST /predict`, `Content-Type: application/vnd.apache.arrow.stream` | an Arrow IPC stream of as many rows: `prediction`, or one column a target or class, null for rows that cannot be used |
//! | `GET /health` | `{"changes": N, "centers": M}`, or 503 before there is a model |
//! | `GET /metrics` | figures of the run and of the server, in Prometheus' text format |
//!
//! `changes` says as of which change of the stream the model is. Rows are those of events, with the columns of the stream.
//!
//! *Who may ask*: on loopback everybody; elsewhere, and where a token is set, who sends `Authorization: Bearer TOKEN`. *Bounds*: [`http::MAX_HEAD`] and [`http::MAX_BODY`] bytes a request, a time for each,
//! [`http::CONNECTIONS`] connections, of which those that say nothing leave for others, and `MAX_ROWS` rows or `MAX_VALUES` values a request. Nothing that is sent here reaches the learner or its state.

mod arrow;
pub mod http;
mod seats;
#[cfg(test)]
mod tests;

use crate::exit::{ExitCode, Failure};
use crate::metrics::online::{Run, page};
use http::{Request, Response, Served, Server};
use nystream_dataflows::online::serving::{Newest, Serving};
use nystream_dataflows::online::session::Output;
use nystream_dataflows::online::sink::Shape;
use nystream_datasets::events::{Event, EventError, json};
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;

/// Rows of a request at most.
const MAX_ROWS: usize = 100_000;
/// Values of an answer at most, rows by targets or classes.
const MAX_VALUES: usize = 1_000_000;

/// Rows of a request to `serving` at most.
fn most_rows(serving: &Serving) -> usize {
    MAX_ROWS.min(MAX_VALUES / serving.function().outputs().max(1)).max(1)
}

/// Reads the token of `path`, which only its owner may read.
///
/// # Errors
/// A file that is absent, open to others, or holds less than 16 characters (2).
pub fn token(path: &Path) -> Result<String, Failure> {
    let shown = path.display();
    let text =
        std::fs::read_to_string(path).map_err(|error| Failure::usage(format!("--token-file {shown}: {error}")))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(path).map_or(0, |found| found.permissions().mode());
        if mode & 0o077 != 0 {
            return Err(Failure::usage(format!("--token-file {shown} can be read by others: chmod 600 it")));
        }
    }
    let token = text.trim().to_owned();
    if token.len() < 16 || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Failure::usage(format!(
            "--token-file {shown} must hold one word of 16 visible characters or more"
        )));
    }
    Ok(token)
}

fn failed(address: &str) -> impl Fn(std::io::Error) -> Failure + '_ {
    move |error| Failure::usage(format!("--listen {address}: {error}; port 0 takes any free one"))
}

/// Listens at `address`, guarded by a token or not.
///
/// # Errors
/// As [`serve`].
pub fn bound(address: &str, guarded: bool) -> Result<TcpListener, Failure> {
    let failed = failed(address);
    let all: Vec<SocketAddr> = address.to_socket_addrs().map_err(&failed)?.collect();
    let loopback = |address: &SocketAddr| match address.ip() {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_loopback(),
    };
    if !guarded && !all.iter().all(loopback) {
        return Err(Failure::usage(format!(
            "--listen {address} can be reached from other machines: guard it by --token-file"
        )));
    }
    TcpListener::bind(&all[..]).map_err(failed)
}

/// Serves the newest model, and the figures of `run`, at `address` until the process ends; gives where.
///
/// # Errors
/// An address that cannot be listened at, or that others reach without a token (2).
pub fn serve(address: &str, token: Option<String>, newest: &Newest, run: &Run) -> Result<SocketAddr, Failure> {
    let listener = bound(address, token.is_some())?;
    let own = listener.local_addr().map_err(failed(address))?;
    let served = Arc::new(Served::default());
    let (newest, run, counted) = (newest.clone(), run.clone(), Arc::clone(&served));
    let answer = move |request: &Request| {
        let figures = || page(&run, &counted.figures(), newest.get().map(|serving| serving.changes));
        answer(request, token.as_deref(), &newest, &figures)
    };
    let server = Server::new(Box::new(answer), served);
    let spawned = std::thread::Builder::new().name("listen".into()).spawn(move || server.run(&listener));
    spawned.map_err(|error| Failure::new(ExitCode::Bug, format!("no thread to serve: {error}")))?;
    Ok(own)
}

/// Whether two texts are equal, in a time that does not tell where they differ.
fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

fn answer(request: &Request, token: Option<&str>, newest: &Newest, figures: &dyn Fn() -> String) -> Response {
    if let Some(token) = token {
        let given = request.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        if !given.is_some_and(|given| equal(given.trim().as_bytes(), token.as_bytes())) {
            return Response::error(401, "a token is needed: Authorization: Bearer TOKEN");
        }
    }
    let known = matches!(request.path.as_str(), "/predict" | "/health" | "/metrics");
    let serving = newest.get();
    match (request.method.as_str(), request.path.as_str(), serving) {
        ("GET", "/metrics", _) => Response::bytes("text/plain; version=0.0.4; charset=utf-8", figures().into_bytes()),
        ("GET", "/health", Some(serving)) => {
            Response::json(&json!({ "changes": serving.changes, "centers": serving.centers() }))
        }
        ("POST", "/predict", Some(serving)) => {
            let arrow = request.header("content-type").is_some_and(|kind| kind.starts_with(arrow::CONTENT_TYPE));
            if arrow { arrow::predict(&serving, &request.body) } else { predict(&serving, &request.body) }
        }
        ("GET", "/health", None) | ("POST", "/predict", None) => Response::error(503, "no row has been learned yet"),
        _ if known => Response::error(405, "POST /predict, GET /health, GET /metrics"),
        _ => Response::error(404, "there are /predict, /health and /metrics"),
    }
}

/// Answers rows in JSON.
fn predict(serving: &Serving, body: &[u8]) -> Response {
    let asked: Value = match serde_json::from_slice(body) {
        Ok(asked) => asked,
        Err(error) => return Response::error(400, &format!("the body is no JSON: {error}")),
    };
    let rows: Vec<&Value> = match (asked.get("row"), asked.get("rows").and_then(Value::as_array)) {
        (Some(row), None) => vec![row],
        (None, Some(rows)) => rows.iter().collect(),
        _ => return Response::error(400, "give {\"row\": {..}} or {\"rows\": [{..}, ..]}"),
    };
    let most = most_rows(serving);
    if rows.len() > most {
        return Response::error(413, &format!("{} rows, and at most {most} are answered at once", rows.len()));
    }
    // As events, so that a row is read as the stream's are.
    let mut events: Vec<Result<Event, String>> = Vec::with_capacity(rows.len());
    for (i, row) in rows.iter().enumerate() {
        let event = json!({ "key": "row", "row": row }).to_string();
        let event = json::event(event.as_bytes(), serving.encoding().schema());
        // Whoever asks so does so for every row: it is the request that is wrong.
        if let Err(error @ EventError::Absent { .. }) = &event {
            return Response::error(400, &format!("row {i}: {error}"));
        }
        events.push(event.map(|event| without_targets(serving, event)).map_err(|error| error.to_string()));
    }
    let good: Vec<Event> = events.iter().flatten().cloned().collect();
    let mut predicted = match serving.predict(&good) {
        Ok(predicted) => predicted.into_iter(),
        Err(error) => return Response::error(500, &error.to_string()),
    };
    let shape = Shape::new(serving.function());
    let line = |event: &Result<Event, String>| {
        let found = match event {
            Err(reason) => Err(reason.clone()),
            Ok(_) => predicted
                .next()
                .map_or(Err("not predicted".to_owned()), |found| found.map_err(|fault| fault.to_string())),
        };
        match found {
            Err(reason) => json!({ "error": reason }),
            Ok(prediction) => {
                let mut row = shape.json(&Output { seq: 0, key: String::new(), prediction });
                if let Value::Object(fields) = &mut row {
                    fields.retain(|name, _| name != "seq" && name != "key");
                }
                row
            }
        }
    };
    let lines: Vec<Value> = events.iter().map(line).collect();
    Response::json(&json!({ "changes": serving.changes, "predictions": lines }))
}

/// A row's targets are no business of its prediction.
fn without_targets(serving: &Serving, mut event: Event) -> Event {
    for (cell, column) in event.cells.iter_mut().zip(serving.encoding().schema().columns()) {
        if column.target {
            *cell = nystream_datasets::events::Cell::Null;
        }
    }
    event.weight = None;
    event
}
