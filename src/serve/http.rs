//! HTTP/1.1 over the standard library, with `httparse` for what clients send: small requests with a length or in chunks (whose trailers are passed over), answered in order, on connections that may be kept.
//!
//! A request has [`MAX_HEAD`] bytes for its head and [`MAX_BODY`] for its body, and [`ASK`] from its first byte to its last; an answer has [`ANSWER`]. A connection that says nothing for [`ASK`] is closed. What
//! is no request is answered with its status and closes the connection; what is still being sent then is read away for a while, since a socket that is closed with bytes in it takes the answer with it.
//!
//! [`CONNECTIONS`] have a thread each; of more, those that say nothing leave (`seats`). [`ANSWERING`] requests are answered at a time, in turn, and bodies and answers beyond [`SMALL`] bytes have [`LARGE`] bytes
//! between them: so memory is bounded whatever is asked.

use super::seats::{Permit, Permits, Seat, Seats};
use nystream_dataflows::online::latency::Latency;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes of a request's head at most.
pub const MAX_HEAD: usize = 16 << 10;
/// Bytes of a request's body at most.
pub const MAX_BODY: usize = 16 << 20;
/// How long a request may take to come.
pub const ASK: Duration = Duration::from_secs(5);
/// How long an answer may take to leave.
pub const ANSWER: Duration = Duration::from_secs(10);
/// Connections at a time.
pub const CONNECTIONS: usize = 64;
/// Requests answered at a time.
pub const ANSWERING: usize = 4;
/// Bytes of a body, or of an answer, that each connection may have.
pub const SMALL: usize = 64 << 10;
/// Bytes of larger ones, of all connections together.
pub const LARGE: usize = 64 << 20;
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
            409 => "Conflict",
            408 => "Request Timeout",
            413 => "Content Too Large",
            431 => "Request Header Fields Too Large",
            501 => "Not Implemented",
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

/// What was served since the process began.
#[derive(Debug, Default)]
pub struct Served(Mutex<Figures>);

/// Figures of what was served.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Answers by status.
    pub answers: BTreeMap<u16, u64>,
    /// Time from a request's last byte to its answer's.
    pub latency: Latency,
    /// Its sum, seconds.
    pub seconds: f64,
}

impl Served {
    fn lock(&self) -> MutexGuard<'_, Figures> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, status: u16, time: Duration) {
        let mut own = self.lock();
        *own.answers.entry(status).or_default() += 1;
        own.latency.add(time, 1);
        own.seconds += time.as_secs_f64();
    }

    /// The figures.
    pub fn figures(&self) -> Figures {
        self.lock().clone()
    }
}

/// What answers a request.
pub type Answerer = Box<dyn Fn(&Request) -> Response + Send + Sync>;

/// A server of requests.
pub struct Server {
    answer: Answerer,
    seats: Arc<Seats>,
    answering: Permits,
    large: Permits,
    served: Arc<Served>,
}

impl Server {
    /// One that gives what `answer` gives, and counts in `served`.
    pub fn new(answer: Answerer, served: Arc<Served>) -> Self {
        let (seats, answering, large) = (Seats::new(CONNECTIONS), Permits::new(ANSWERING), Permits::new(LARGE));
        Server { answer, seats, answering, large, served }
    }

    /// Serves connections, for as long as the process lives.
    pub fn run(self, listener: &TcpListener) {
        let server = Arc::new(self);
        loop {
            let taken = listener.accept().and_then(|(socket, _)| Ok((server.seats.take(&socket)?, socket)));
            let Ok((seat, socket)) = taken else {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            };
            let server = Arc::clone(&server);
            // Whatever goes wrong with one connection is that one's affair; without a thread it is closed.
            let serve = move || drop(server.connection(&socket, &seat));
            let _ = std::thread::Builder::new().name("serve".into()).spawn(serve);
        }
    }

    fn connection(&self, socket: &TcpStream, seat: &Seat) -> io::Result<()> {
        socket.set_nonblocking(false)?;
        socket.set_nodelay(true)?;
        let mut held = Vec::new();
        loop {
            seat.waits(true);
            let until = Instant::now() + ASK;
            let head = match read_head(socket, &mut held, until) {
                Ok(None) => return Ok(()),
                Ok(Some(head)) => head,
                Err(refused) => return self.refuse(socket, seat, refused),
            };
            let read = match head.chunked {
                true => self.chunks(socket, &mut held, head, until),
                false => self.body(socket, &mut held, head, until),
            };
            let (request, whole) = match read {
                Ok(read) => read,
                Err(refused) => return self.refuse(socket, seat, refused),
            };
            seat.waits(false);
            let come = Instant::now();
            let turn = self.answering.take(1, come + ANSWER);
            let mut response = match &turn {
                Some(_) => (self.answer)(&request),
                None => Response::error(503, "too many requests at once: ask again"),
            };
            let keep = request.keep;
            drop(request);
            drop(whole);
            let mut large = None;
            if response.body.len() > SMALL {
                large = self.large.take(response.body.len(), Instant::now() + ASK);
                if large.is_none() {
                    response = Response::error(503, "too many large answers at once: ask again");
                }
            }
            drop(turn);
            let mut bytes = response.head(keep);
            // In one piece, unless that copies much.
            let rest = if response.body.len() <= SMALL {
                bytes.append(&mut response.body);
                &[][..]
            } else {
                &response.body
            };
            let written = write(socket, &bytes, ANSWER).and_then(|()| write(socket, rest, ANSWER));
            drop(large);
            self.served.add(response.status, come.elapsed());
            written?;
            if !keep {
                return socket.shutdown(Shutdown::Write);
            }
        }
    }

    /// Room for so many bytes of a body.
    fn room(&self, bytes: usize, until: Instant) -> Result<Permit<'_>, Refused> {
        match self.large.take(bytes, until) {
            Some(room) => Ok(room),
            None => refuse(503, "too many large requests at once: ask again"),
        }
    }

    /// The body of a request that says how long it is, and the room that it has.
    fn body(
        &self,
        socket: &TcpStream,
        held: &mut Vec<u8>,
        head: Head,
        until: Instant,
    ) -> Result<(Request, Option<Permit<'_>>), Refused> {
        let room = if head.length > SMALL { Some(self.room(head.length, until)?) } else { None };
        Ok((read_body(socket, held, head, until)?, room))
    }

    /// The body of a request that comes in chunks (RFC 9112, section 7.1), and the room that it has: that of the largest, once it is no small one.
    fn chunks(
        &self,
        socket: &TcpStream,
        held: &mut Vec<u8>,
        head: Head,
        until: Instant,
    ) -> Result<(Request, Option<Permit<'_>>), Refused> {
        let Head { request, bytes, .. } = head;
        held.drain(..bytes);
        proceed(socket, &request, held.is_empty())?;
        let (mut body, mut room) = (Vec::new(), None);
        loop {
            let (line, size) = loop {
                match httparse::parse_chunk_size(held) {
                    Ok(httparse::Status::Complete(found)) => break found,
                    Ok(httparse::Status::Partial) if held.len() <= MAX_HEAD => rest(socket, held, until)?,
                    _ => return refuse(400, "what should be the size of a chunk is none"),
                }
            };
            held.drain(..line);
            if size == 0 {
                break;
            }
            if size > (MAX_BODY - body.len()) as u64 {
                return refuse(413, &format!("the body has more than the {MAX_BODY} bytes that are read at most"));
            }
            let size = size as usize;
            if room.is_none() && body.len() + size > SMALL {
                room = Some(self.room(MAX_BODY, until)?);
            }
            while held.len() < size + 2 {
                rest(socket, held, until)?;
            }
            if &held[size..size + 2] != b"\r\n" {
                return refuse(400, "a chunk is longer than its size says");
            }
            body.extend_from_slice(&held[..size]);
            held.drain(..size + 2);
        }
        let mut trailers = 0;
        loop {
            let Some(line) = held.windows(2).position(|two| two == b"\r\n") else {
                if trailers + held.len() > MAX_HEAD {
                    return refuse(431, "the trailers of the request are too long");
                }
                rest(socket, held, until)?;
                continue;
            };
            held.drain(..line + 2);
            trailers += line;
            if line == 0 {
                break;
            }
        }
        held.shrink_to(SMALL);
        Ok((Request { body, ..request }, room))
    }

    /// Answers what is no request, and hears the rest of it.
    fn refuse(&self, socket: &TcpStream, seat: &Seat, refused: Refused) -> io::Result<()> {
        let response = match refused {
            Refused::Io(error) => return Err(error),
            Refused::Answer(response) => response,
        };
        let come = Instant::now();
        write(socket, &[&response.head(false)[..], &response.body].concat(), ANSWER)?;
        self.served.add(response.status, come.elapsed());
        socket.shutdown(Shutdown::Write)?;
        seat.waits(true);
        let until = Instant::now() + ASK;
        let mut bytes = [0; 16 << 10];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            match (&mut &*socket).read(&mut bytes) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
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

/// A request whose body has not come.
struct Head {
    request: Request,
    /// Bytes of the head, and of the body.
    bytes: usize,
    length: usize,
    /// It comes in chunks, and says no length.
    chunked: bool,
}

fn refuse<T>(status: u16, reason: &str) -> Result<T, Refused> {
    Err(Refused::Answer(Response::error(status, reason)))
}

/// The body of a request.
fn read_body(socket: &TcpStream, held: &mut Vec<u8>, head: Head, until: Instant) -> Result<Request, Refused> {
    let Head { request, bytes, length, .. } = head;
    proceed(socket, &request, held.len() < bytes + length)?;
    while held.len() < bytes + length {
        rest(socket, held, until)?;
    }
    let body = held[bytes..bytes + length].to_vec();
    held.drain(..bytes + length);
    held.shrink_to(SMALL);
    Ok(Request { body, ..request })
}

/// Gives leave to a client that waits for it before it sends the body.
fn proceed(socket: &TcpStream, request: &Request, waits: bool) -> io::Result<()> {
    let asks = request.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue"));
    if asks && waits { write(socket, b"HTTP/1.1 100 Continue\r\n\r\n", ANSWER) } else { Ok(()) }
}

/// More of a body.
fn rest(socket: &TcpStream, held: &mut Vec<u8>, until: Instant) -> Result<(), Refused> {
    match more(socket, held, until)? {
        More::Some => Ok(()),
        More::End => refuse(400, "the body is shorter than its length says"),
        More::TooLate => refuse(408, "the request took too long"),
    }
}

/// The head of the next request; `None` where the connection ends before one. `held`: what has come of it, and of what is after it.
fn read_head(socket: &TcpStream, held: &mut Vec<u8>, until: Instant) -> Result<Option<Head>, Refused> {
    loop {
        if let Some(head) = parse(held)? {
            return Ok(Some(head));
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

/// The head of the request in `held`; `None` while it is not complete.
fn parse(held: &[u8]) -> Result<Option<Head>, Refused> {
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
    let of = |name: &str| request.headers.iter().filter(|(own, _)| own == name).count();
    let chunked = match (of("transfer-encoding"), of("content-length")) {
        (0, _) => false,
        (1, 0) if request.header("transfer-encoding").is_some_and(|kind| kind.eq_ignore_ascii_case("chunked")) => true,
        // Whoever stands between might take the other for the end of the body.
        (_, 1..) => return refuse(400, "the request has a Transfer-Encoding and a Content-Length: send one of them"),
        _ => return refuse(501, "of transfer encodings chunked alone is read"),
    };
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
    Ok(Some(Head { request, bytes: head, length: length as usize, chunked }))
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
