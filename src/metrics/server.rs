//! A page over HTTP/1.1: `GET /metrics`, [`READERS`] connections at a time, each on a thread of its own that is there from the beginning.
//!
//! Whoever can reach the address can read the page and do nothing else. A request has [`HEAD_BYTES`] and a time of its own for all of it, an answer too: bytes that are no request, and readers that read
//! nothing, hold up others only where they are as many as the threads, and no longer than that time; those wait in the system's queue, which is bounded. Nothing that is sent here reaches the job.

use crate::serve::http;
use std::io::{self, ErrorKind, Read};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest request that is read, bytes: the line that says what is wanted, and its headers.
const HEAD_BYTES: usize = 8192;
/// Connections that are heard and answered at a time.
const READERS: usize = 4;
/// How long a request may take to arrive.
const ASK: Duration = Duration::from_millis(500);
/// How long an answer may take to leave.
const ANSWER: Duration = Duration::from_secs(2);

/// Serves what `page` gives to whoever asks, for as long as the process lives.
///
/// # Errors
/// No thread.
pub(super) fn start(listener: TcpListener, page: impl Fn() -> String + Send + Sync + 'static) -> io::Result<()> {
    let page = Arc::new(page);
    for _ in 0..READERS {
        let (listener, page) = (listener.try_clone()?, Arc::clone(&page));
        let serve = move || loop {
            match listener.accept() {
                // Whatever goes wrong with one connection is that one's affair.
                Ok((socket, _)) => drop(answer(&socket, &*page)),
                // Out of descriptors, or a connection that went away: neither ends the serving.
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        std::thread::Builder::new().name("metrics".into()).spawn(serve)?;
    }
    Ok(())
}

/// Hears one request and answers it.
fn answer(socket: &TcpStream, page: &dyn Fn() -> String) -> io::Result<()> {
    socket.set_nonblocking(false)?;
    let head = read_head(socket, Instant::now() + ASK)?;
    let response = respond(&head, page);
    http::write(socket, &response, ANSWER)?;
    socket.shutdown(Shutdown::Write)
}

/// The bytes of a request up to its blank line; what there is when it is too long.
fn read_head(socket: &TcpStream, until: Instant) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut bytes = [0; 1024];
    while head.len() < HEAD_BYTES && !ends(&head) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        match (&mut &*socket).read(&mut bytes) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => head.extend_from_slice(&bytes[..read]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(head)
}

fn ends(head: &[u8]) -> bool {
    head.windows(4).any(|four| four == b"\r\n\r\n") || head.windows(2).any(|two| two == b"\n\n")
}

/// The whole response to the request that begins with `head`.
fn respond(head: &[u8], page: &dyn Fn() -> String) -> Vec<u8> {
    let line = head.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let words: Vec<&str> = line.split(' ').collect();
    let text = "text/plain; charset=utf-8";
    let (status, kind, more, body) = match words[..] {
        _ if !ends(head) => ("431 Request Header Fields Too Large", text, "", "the request is too long\n".to_owned()),
        [method, target, version] if version.starts_with("HTTP/1.") => {
            match (method, target.split('?').next().unwrap_or_default()) {
                ("GET" | "HEAD", "/metrics") => ("200 OK", "text/plain; version=0.0.4; charset=utf-8", "", page()),
                ("GET" | "HEAD", _) => ("404 Not Found", text, "", "metrics are at /metrics\n".to_owned()),
                _ => ("405 Method Not Allowed", text, "Allow: GET, HEAD\r\n", "only GET and HEAD\n".to_owned()),
            }
        }
        _ => ("400 Bad Request", text, "", "this is no HTTP/1 request\n".to_owned()),
    };
    let length = body.len();
    let body = if words.first() == Some(&"HEAD") { "" } else { &body };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{more}Connection: close\r\n\r\n"
    );
    [head.as_bytes(), body.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn serve() -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        start(listener, || "nystream_rows_total 1\n".to_owned()).unwrap();
        address
    }

    /// What comes back for these bytes, after which nothing more is said.
    fn ask(address: std::net::SocketAddr, bytes: &[u8]) -> String {
        let mut socket = TcpStream::connect(address).unwrap();
        let mut answer = Vec::new();
        let _ = socket.write_all(bytes).and_then(|()| socket.shutdown(Shutdown::Write));
        let _ = socket.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[test]
    fn each_request_has_its_answer() {
        let address = serve();
        for (request, status, body) in [
            ("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "200 OK", "nystream_rows_total 1\n"),
            ("GET /metrics?a=b HTTP/1.0\n\n", "200 OK", "nystream_rows_total 1\n"),
            ("HEAD /metrics HTTP/1.1\r\n\r\n", "200 OK", ""),
            ("GET / HTTP/1.1\r\n\r\n", "404 Not Found", "metrics are at /metrics\n"),
            ("POST /metrics HTTP/1.1\r\n\r\n", "405 Method Not Allowed", "only GET and HEAD\n"),
            ("GET /metrics HTTP/2\r\n\r\n", "400 Bad Request", "this is no HTTP/1 request\n"),
            ("\r\n\r\n", "400 Bad Request", "this is no HTTP/1 request\n"),
        ] {
            let answer = ask(address, request.as_bytes());
            let (head, found) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{request:?}: {answer:?}"));
            assert!(head.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{request:?}: {head}");
            assert_eq!(found, body, "{request:?}");
            if !request.starts_with("HEAD") {
                assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
            }
        }
        let long = format!("GET /metrics HTTP/1.1\r\nX: {}", "x".repeat(2 * HEAD_BYTES));
        let head = respond(&long.as_bytes()[..HEAD_BYTES], &|| panic!("no page"));
        assert!(head.starts_with(b"HTTP/1.1 431 "));
    }

    /// A connection that says nothing, says half, or reads nothing: the next one is served all the same.
    #[test]
    fn nobody_keeps_others_from_their_page() {
        let address = serve();
        let silent: Vec<TcpStream> = (0..5).map(|_| TcpStream::connect(address).unwrap()).collect();
        let mut half = TcpStream::connect(address).unwrap();
        half.write_all(b"GET /metr").unwrap();
        assert!(ask(address, b"GET /metrics HTTP/1.1\r\n\r\n").contains("nystream_rows_total"));
        drop(silent);
    }

    /// One answer that is long in the making holds up no other: the first is made when all others have theirs.
    #[test]
    fn readers_do_not_wait_for_each_other() {
        use std::sync::Mutex;
        use std::sync::atomic::{AtomicUsize, Ordering};
        use std::sync::mpsc::channel;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (begin, begun) = channel();
        let (others, told) = channel();
        let (asked, told) = (AtomicUsize::new(0), Mutex::new(told));
        start(listener, move || match asked.fetch_add(1, Ordering::SeqCst) {
            0 => {
                begin.send(()).unwrap();
                let heard = told.lock().unwrap().recv_timeout(Duration::from_secs(60));
                format!("nystream_in_time {}\n", u8::from(heard.is_ok()))
            }
            _ => "nystream_rows_total 1\n".to_owned(),
        })
        .unwrap();
        let request = b"GET /metrics HTTP/1.1\r\n\r\n";
        let slow = std::thread::spawn(move || ask(address, request));
        begun.recv_timeout(Duration::from_secs(60)).unwrap();
        for _ in 0..2 * READERS {
            assert!(ask(address, request).contains("nystream_rows_total 1"));
        }
        others.send(()).unwrap();
        assert!(slow.join().unwrap().contains("nystream_in_time 1"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// No bytes end the server, and none but a request for it get the page.
        #[test]
        fn garbage_gets_no_page(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
            let mut asked = false;
            let response = {
                let asked = std::cell::RefCell::new(&mut asked);
                respond(&bytes, &|| { **asked.borrow_mut() = true; String::new() })
            };
            prop_assert!(response.starts_with(b"HTTP/1.1 4") && !asked);
        }
    }

    #[test]
    fn a_flood_of_garbage_leaves_it_serving() {
        let address = serve();
        for turn in 0..200u32 {
            let bytes: Vec<u8> = (0..turn % 50).map(|i| (turn * 31 + i * 7) as u8).collect();
            ask(address, &bytes);
        }
        assert!(ask(address, b"GET /metrics HTTP/1.1\r\n\r\n").contains("nystream_rows_total"));
    }
}
