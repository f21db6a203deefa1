//! Predictions over HTTP while learning (`nystream online --listen`).
//!
//! | request | answer |
//! |---|---|
//! | `POST /predict`, JSON `{"row": {..}}` or `{"rows": [{..}, ..]}`, and `"as_of": N` | `{"changes": N, "predictions": [{"prediction": .., ..} or {"error": ".."}, ..]}` |
//! | `POST /predict`, `Content-Type: application/vnd.apache.arrow.stream`, and `as_of` in the metadata of its schema | an Arrow IPC stream of as many rows: `prediction`, or one column a target or class, null for rows that cannot be used; `changes` in the metadata of its schema |
//! | `POST /publish` | `{"changes": N}` when the model as of now is published, 409 where there is none of what is there, 503 when it has taken more than a minute |
//! | `GET /health` | `{"changes": N, "centers": M}`, or 503 before there is a model |
//! | `GET /metrics` | figures of the run and of the server, in Prometheus' text format |
//!
//! `changes` says as of which change of the stream the model is. With `as_of` it is the newest one that was published at that change or before, of those that are kept ([`past`]): 404 where none is. Rows are those of events,
//! with the columns of the stream; one with a column twice is an error.
//!
//! *Who may ask*: on loopback everybody; elsewhere, and where a token is set, who sends `Authorization: Bearer TOKEN`. *Bounds*: [`http::MAX_HEAD`] and [`http::MAX_BODY`] bytes a request, a time for each,
//! [`http::CONNECTIONS`] connections, of which those that say nothing leave for others, and `MAX_ROWS` rows or `MAX_VALUES` values a request. Nothing that is sent here reaches the learner or its state but the wish that it publish.

mod arrow;
pub mod http;
mod json;
pub mod past;
mod seats;
#[cfg(test)]
mod tests;

use crate::exit::{ExitCode, Failure};
use crate::metrics::online::{Run, page};
use http::{Request, Response, Served, Server};
use nystream_dataflows::online::demand::Demand;
use nystream_dataflows::online::serving::{Newest, Serving};
use nystream_datasets::events::Event;
use past::Past;
use serde_json::json;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Rows of a request at most.
const MAX_ROWS: usize = 100_000;
/// Values of an answer at most, rows by targets or classes.
const MAX_VALUES: usize = 1_000_000;
/// Time in which a publication that is asked for is to be done.
const PUBLISHED: Duration = Duration::from_secs(60);

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

/// Serves the newest model, those of `past`, and the figures of `run`, at `address` until the process ends; gives where.
///
/// # Errors
/// An address that cannot be listened at, or that others reach without a token (2).
pub fn serve(
    address: &str,
    token: Option<String>,
    newest: &Newest,
    past: Option<Arc<Past>>,
    run: &Run,
) -> Result<SocketAddr, Failure> {
    let listener = bound(address, token.is_some())?;
    let own = listener.local_addr().map_err(failed(address))?;
    let served = Arc::new(Served::default());
    let (newest, run, counted) = (newest.clone(), run.clone(), Arc::clone(&served));
    let demand = run.demand();
    let answer = move |request: &Request| {
        let figures = || page(&run, &counted.figures(), newest.get().map(|serving| serving.changes));
        answer(request, token.as_deref(), (&newest, past.as_deref()), &demand, &figures)
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

fn answer(
    request: &Request,
    token: Option<&str>,
    (newest, past): (&Newest, Option<&Past>),
    demand: &Demand,
    figures: &dyn Fn() -> String,
) -> Response {
    if let Some(token) = token {
        let given = request.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        if !given.is_some_and(|given| equal(given.trim().as_bytes(), token.as_bytes())) {
            return Response::error(401, "a token is needed: Authorization: Bearer TOKEN");
        }
    }
    let known = matches!(request.path.as_str(), "/predict" | "/publish" | "/health" | "/metrics");
    let serving = newest.get();
    match (request.method.as_str(), request.path.as_str(), serving) {
        ("GET", "/metrics", _) => Response::bytes("text/plain; version=0.0.4; charset=utf-8", figures().into_bytes()),
        ("GET", "/health", Some(serving)) => {
            Response::json(&json!({ "changes": serving.changes, "centers": serving.centers() }))
        }
        ("POST", "/predict", serving) => {
            let arrow = request.header("content-type").is_some_and(|kind| kind.starts_with(arrow::CONTENT_TYPE));
            let by = By { newest: serving.as_deref(), past };
            if arrow { arrow::predict(&by, &request.body) } else { json::predict(&by, &request.body) }
        }
        ("POST", "/publish", _) => match demand.ask(PUBLISHED) {
            Some(Ok(changes)) => Response::json(&json!({ "changes": changes })),
            Some(Err(reason)) => Response::error(409, &reason),
            None => Response::error(503, "the publication is not done after a minute: GET /health says when it is"),
        },
        ("GET", "/health", None) => nothing_learned(),
        _ if known => Response::error(405, "POST /predict, POST /publish, GET /health, GET /metrics"),
        _ => Response::error(404, "there are /predict, /publish, /health and /metrics"),
    }
}

fn nothing_learned() -> Response {
    Response::error(503, "there is no model yet: nothing has been learned that makes one")
}

/// The models that there are.
struct By<'a> {
    newest: Option<&'a Serving>,
    past: Option<&'a Past>,
}

impl By<'_> {
    /// What `answer` makes of the newest model, or of that of a point.
    fn answer(&self, as_of: Option<u64>, answer: impl FnOnce(&Serving) -> Response) -> Response {
        match (as_of, self.newest, self.past) {
            (None, Some(serving), _) => answer(serving),
            (None, None, _) => nothing_learned(),
            (Some(changes), newest, Some(past)) => past.answer(changes, newest, answer),
            (Some(_), _, None) => Response::error(404, "no models of before are kept here"),
        }
    }
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
