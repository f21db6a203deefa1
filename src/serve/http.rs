//! HTTP/1.1 over the standard library, with `httparse` for what clients send: small requests with a length, answered in order, on connections that may be kept.
//!
//! A request has [`MAX_HEAD`] bytes for its head and [`MAX_BODY`] for its body, and [`ASK`] from its first byte to its last; an answer has [`ANSWER`]. A connection that says nothing for [`ASK`] is closed. What
//! is no request is answered with its status and closes the connection.

use serde_json::{Value, json};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Bytes of a request's head at most.
pub const MAX_HEAD: usize = 16 << 10;
/// Bytes of a request's body at most.
pub const MAX_BODY: usize = 16 << 20;
/// How long a request may take to come.
pub const ASK: Duration = Duration::from_secs(5);
/// How long an answer may take to leave.
pub const ANSWER: Duration = Duration::from_secs(10);
/// Headers of a request at most.
const MAX_HEADERS: usize = 64;

/// A request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `POST`.
    pub method: String,
    /// Without what follows a `?`.
    pub path: String,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    keep: bool,
}

impl Request {
    /// The value of a header; `name` in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    status: u16,
    kind: &'static str,
    body: Vec<u8>,
}

impl Response {
    /// With a body of JSON.
    pub fn json(body: &Value) -> Self {
        Response { status: 200, kind: "application/json", body: format!("{body}\n").into_bytes() }
    }

    /// With a body of another kind.
    pub fn bytes(kind: &'static str, body: Vec<u8>) -> Self {
        Response { status: 200, kind, body }
    }

    /// What went wrong, as JSON.
    pub fn error(status: u16, reason: &str) -> Self {
        Response { status, ..Self::json(&json!({ "error": reason })) }
    }

    /// Its status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Its body.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    fn head(&self, keep: bool) -> Vec<u8> {
        let reason = match self.status {
            200 => "OK",
            400 => "Bad Request",
            401 => "Unauthorized",
            404 => "Not Found",
            405 => "Method Not Allowed",
            408 => "Request Timeout",
            411 => "Length Required",
            413 => "Content Too Large",
            431 => "Request Header Fields Too Large",
            503 => "Service Unavailable",
            _ => "Internal Server Error",
        };
        let keep = if keep { "keep-alive" } else { "close" };
        let Response { status, kind, body } = self;
        format!(
            "HTTP/1.1 {status} {reason}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: {keep}\r\n\r\n",
            body.len()
        )
        .into_bytes()
    }
}

/// Answers connections one after the other, for as long as the process lives.
pub fn run(listener: &TcpListener, answer: &dyn Fn(&Request) -> Response) {
    loop {
        match listener.accept() {
            // Whatever goes wrong with one connection is that one's affair.
            Ok((socket, _)) => drop(connection(&socket, answer)),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn connection(socket: &TcpStream, answer: &dyn Fn(&Request) -> Response) -> io::Result<()> {
    socket.set_nonblocking(false)?;
    socket.set_nodelay(true)?;
    let mut held = Vec::new();
    loop {
        let (response, keep) = match read(socket, &mut held) {
            Ok(None) => return Ok(()),
            Ok(Some(request)) => (answer(&request), request.keep),
            Err(Refused::Io(error)) => return Err(error),
            Err(Refused::Answer(response)) => (response, false),
        };
        write(socket, &[&response.head(keep)[..], &response.body].concat(), ANSWER)?;
        if !keep {
            return socket.shutdown(std::net::Shutdown::Write);
        }
    }
}

enum Refused {
    Io(io::Error),
    Answer(Response),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Refused::Io(error)
    }
}

/// The next request; `None` where the connection ends before one. `held`: what has come of it, and of those after it.
fn read(socket: &TcpStream, held: &mut Vec<u8>) -> Result<Option<Request>, Refused> {
    let until = Instant::now() + ASK;
    let refuse = |status, reason: &str| Err(Refused::Answer(Response::error(status, reason)));
    loop {
        if let Some((request, head, length)) = parse(held)? {
            while held.len() < head + length {
                match more(socket, held, until)? {
                    More::Some => {}
                    More::End => return refuse(400, "the body is shorter than its length says"),
                    More::TooLate => return refuse(408, "the request took too long"),
                }
            }
            let body = held[head..head + length].to_vec();
            held.drain(..head + length);
            return Ok(Some(Request { body, ..request }));
        }
        if held.len() > MAX_HEAD {
            return refuse(431, "the head of the request is too long");
        }
        match more(socket, held, until)? {
            More::Some => {}
            More::End if held.is_empty() => return Ok(None),
            More::End => return refuse(400, "the request ends in its head"),
            More::TooLate if held.is_empty() => return Ok(None),
            More::TooLate => return refuse(408, "the request took too long"),
        }
    }
}

/// The head of the request in `held`, its bytes, and the bytes of its body; `None` while it is not complete.
fn parse(held: &[u8]) -> Result<Option<(Request, usize, usize)>, Refused> {
    let refuse = |status, reason: &str| Err(Refused::Answer(Response::error(status, reason)));
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let head = match request.parse(&held[..held.len().min(MAX_HEAD)]) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return refuse(431, "the request has too many headers"),
        Err(error) => return refuse(400, &format!("this is no HTTP/1 request: {error}")),
    };
    let text = |header: &httparse::Header<'_>| {
        let value = String::from_utf8_lossy(header.value).trim().to_owned();
        (header.name.to_ascii_lowercase(), value)
    };
    let headers: Vec<(String, String)> = request.headers.iter().map(text).collect();
    let path = request.path.unwrap_or_default();
    let path = path.split('?').next().unwrap_or_default().to_owned();
    let method = request.method.unwrap_or_default().to_owned();
    let version = request.version;
    let request = Request { method, path, headers, body: Vec::new(), keep: false };
    let closes = request.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    let request = Request { keep: version == Some(1) && !closes, ..request };
    if request.header("transfer-encoding").is_some() {
        return refuse(411, "send the body with its Content-Length");
    }
    let lengths: Vec<&str> =
        request.headers.iter().filter(|(name, _)| name == "content-length").map(|(_, value)| value.as_str()).collect();
    let length = match lengths.as_slice() {
        [] => 0,
        [one] if one.bytes().all(|byte| byte.is_ascii_digit()) => one.parse::<u64>().unwrap_or(u64::MAX),
        _ => return refuse(400, "the Content-Length is no number"),
    };
    if length > MAX_BODY as u64 {
        return refuse(413, &format!("the body has {length} bytes, and at most {MAX_BODY} are read"));
    }
    Ok(Some((request, head, length as usize)))
}

enum More {
    Some,
    End,
    TooLate,
}

fn more(socket: &TcpStream, held: &mut Vec<u8>, until: Instant) -> io::Result<More> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Ok(More::TooLate);
    }
    socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
    let mut bytes = [0; 16 << 10];
    match (&mut &*socket).read(&mut bytes) {
        Ok(0) => Ok(More::End),
        Ok(read) => {
            held.extend_from_slice(&bytes[..read]);
            Ok(More::Some)
        }
        Err(error) if error.kind() == ErrorKind::Interrupted => Ok(More::Some),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(More::TooLate),
        Err(error) => Err(error),
    }
}

/// Writes all of `bytes` within `limit`, however slowly they are read.
///
/// # Errors
/// Those of the socket; [`ErrorKind::TimedOut`] when that was too long.
pub(crate) fn write(socket: &TcpStream, bytes: &[u8], limit: Duration) -> io::Result<()> {
    socket.set_write_timeout(Some(limit))?;
    let until = Instant::now() + limit;
    let mut left = bytes;
    while !left.is_empty() {
        match (&mut &*socket).write(left)? {
            0 => return Err(ErrorKind::WriteZero.into()),
            written => left = &left[written..],
        }
        if Instant::now() >= until {
            return Err(ErrorKind::TimedOut.into());
        }
    }
    Ok(())
}
