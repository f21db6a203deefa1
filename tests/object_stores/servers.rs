//! Servers on loopback for the tests of object stores: an S3 server (`s3s-fs`) and a web server, each of a folder, with faults in front.
//!
//! They live as long as the test process.

use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

pub const KEY: &str = "the-access-key";
pub const SECRET: &str = "hunter2-is-the-secret";

/// Starts an S3 server of `root`, whose folders are the buckets; gives its port.
pub fn s3(root: &Path) -> u16 {
    std::fs::create_dir_all(root).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    listener.set_nonblocking(true).unwrap();
    let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root).unwrap());
    builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
    let service = builder.build().into_shared();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = service.clone();
                let serve = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(async move {
                    // A client that goes away is no failure of the test.
                    let _ = serve.await;
                });
            }
        })
    });
    port
}

/// The variables under which `s3://` is the server at `port`.
pub fn s3_variables(port: u16) -> Vec<(String, String)> {
    [
        ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}")),
        ("AWS_ALLOW_HTTP", "true".into()),
        ("AWS_ACCESS_KEY_ID", KEY.into()),
        ("AWS_SECRET_ACCESS_KEY", SECRET.into()),
        ("AWS_REGION", "us-east-1".into()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

/// What a server was asked for.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// Path and query, as they were sent.
    pub target: String,
    /// Of the headers, in lower case.
    headers: Vec<(String, String)>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Whether a range of an object is asked for.
    pub fn reads(&self) -> bool {
        self.method == "GET" && self.header("range").is_some()
    }
}

/// What happens to a request.
pub enum Fault {
    None,
    /// It is answered by this status line and body.
    Answer(&'static str, &'static str),
    /// The answer ends after so many bytes of its body.
    Cut(usize),
    /// The connection ends without an answer.
    Drop,
    /// It takes so long.
    Wait(Duration),
}

pub const SLOW_DOWN: Fault = Fault::Answer(
    "503 Service Unavailable",
    "<?xml version=\"1.0\"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>",
);

/// What answers.
#[derive(Clone)]
pub enum Behind {
    /// Another server on loopback.
    Port(u16),
    /// The files of a folder.
    Folder(PathBuf),
}

/// A server with faults.
pub struct Front {
    pub port: u16,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Front {
    /// All requests so far.
    pub fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }
}

/// Starts a server that answers what `behind` does, but for what `rule` says of the request and its number.
pub fn front(behind: Behind, rule: impl Fn(usize, &Request) -> Fault + Send + Sync + 'static) -> Front {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen: Arc<Mutex<Vec<Request>>> = Arc::default();
    let (all, rule) = (Arc::clone(&seen), Arc::new(rule));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (behind, all, rule) = (behind.clone(), Arc::clone(&all), Arc::clone(&rule));
            std::thread::spawn(move || {
                let mut stream = stream.unwrap();
                let Some((head, request)) = read_request(&mut stream) else { return };
                let number = {
                    let mut all = all.lock().unwrap();
                    all.push(request.clone());
                    all.len() - 1
                };
                let fault = rule(number, &request);
                let mut cut = usize::MAX;
                match fault {
                    Fault::None => {}
                    Fault::Answer(status, body) => {
                        let answer = format!(
                            "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                            body.len()
                        );
                        let _ = stream.write_all(answer.as_bytes());
                        return;
                    }
                    Fault::Cut(bytes) => cut = bytes,
                    Fault::Drop => return,
                    Fault::Wait(time) => std::thread::sleep(time),
                }
                let answer = match &behind {
                    Behind::Port(port) => forward(*port, &head),
                    Behind::Folder(folder) => serve(folder, &request),
                };
                let body = answer.windows(4).position(|w| w == b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
                let end = body.saturating_add(cut).min(answer.len());
                let _ = stream.write_all(&answer[..end]);
            });
        }
    });
    Front { port, seen }
}

fn read_request(stream: &mut TcpStream) -> Option<(String, Request)> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    while !bytes.windows(4).any(|w| w == b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(read) => bytes.extend_from_slice(&buffer[..read]),
        }
    }
    let head = String::from_utf8(bytes).ok()?;
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    Some((head.clone(), Request { method, target, headers }))
}

/// The answer of the server at `port`, whole.
fn forward(port: u16, head: &str) -> Vec<u8> {
    let lines = head.trim_end().split("\r\n").filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
    let head = format!("{}\r\nconnection: close\r\n\r\n", lines.collect::<Vec<_>>().join("\r\n"));
    let mut upstream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    upstream.write_all(head.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let _ = upstream.read_to_end(&mut answer);
    answer
}

/// The answer of a web server: ranges, ETags, `If-Match`.
fn serve(folder: &Path, request: &Request) -> Vec<u8> {
    let path = decoded(request.target.split('?').next().unwrap());
    let Ok(mut file) = File::open(folder.join(path.trim_start_matches('/'))) else {
        return b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_vec();
    };
    let metadata = file.metadata().unwrap();
    let (size, modified) = (metadata.len(), metadata.modified().unwrap().duration_since(UNIX_EPOCH).unwrap());
    let tag = format!("\"{size:x}-{:x}\"", modified.as_nanos());
    if request.header("if-match").is_some_and(|wanted| wanted != tag) {
        return b"HTTP/1.1 412 Precondition Failed\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_vec();
    }
    let range = request.header("range").and_then(|range| {
        let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
        Some(first.parse::<u64>().ok()?..(last.parse::<u64>().ok()? + 1).min(size))
    });
    let status = if range.is_some() { "206 Partial Content" } else { "200 OK" };
    let sent = range.clone().unwrap_or(0..size);
    let mut body = vec![0; (sent.end - sent.start) as usize];
    if request.method != "HEAD" {
        file.seek(SeekFrom::Start(sent.start)).unwrap();
        file.read_exact(&mut body).unwrap();
    }
    let mut head = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\netag: {tag}\r\nlast-modified: Wed, 21 Oct 2015 07:28:00 GMT\r\nconnection: close\r\n",
        body.len()
    );
    if let Some(range) = &range {
        head += &format!("content-range: bytes {}-{}/{}\r\n", range.start, range.end - 1, size);
    }
    head += "\r\n";
    let body = if request.method == "HEAD" { Vec::new() } else { body };
    [head.as_bytes(), &body].concat()
}

fn decoded(path: &str) -> String {
    let (bytes, mut out) = (path.as_bytes(), Vec::new());
    let mut at = 0;
    while at < bytes.len() {
        let hex = path.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[at], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).unwrap()
}
