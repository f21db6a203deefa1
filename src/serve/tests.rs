//! Requests as clients send them, whole, in pieces and as garbage.

use super::http::{MAX_BODY, MAX_HEAD, Request, Response, run};
use proptest::prelude::*;
use serde_json::json;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answer = |request: &Request| {
        Response::json(&json!({ "method": request.method, "path": request.path, "bytes": request.body.len() }))
    };
    std::thread::spawn(move || run(&listener, &answer));
    address
}

/// What comes back for these pieces, after which nothing more is said.
fn ask(address: SocketAddr, pieces: &[&[u8]]) -> String {
    let mut socket = TcpStream::connect(address).unwrap();
    for piece in pieces {
        if socket.write_all(piece).is_err() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let _ = socket.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn requests_have_their_answers() {
    let address = echo();
    let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(MAX_HEAD));
    let large = format!("POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n", MAX_BODY + 1);
    let headers = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(100));
    for (pieces, status, part) in [
        (vec!["POST /predict?x=1 HTTP/1.1\r\nContent-Length: 4\r\nConnection: close\r\n\r\nabcd"], 200, "\"bytes\":4"),
        (
            vec!["POST /p HT", "TP/1.1\r\nContent-Le", "ngth: 4\r\nConnection: close\r\n\r\nab", "cd"],
            200,
            "\"bytes\":4",
        ),
        (vec!["GET /health HTTP/1.0\r\n\r\n"], 200, "\"path\":\"/health\""),
        (vec!["POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"], 411, "Content-Length"),
        (vec!["POST / HTTP/1.1\r\nContent-Length: -4\r\n\r\nabcd"], 400, "no number"),
        (vec!["POST / HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcd"], 400, "no number"),
        (vec!["POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n"], 413, "at most"),
        (vec![large.as_str()], 413, "at most"),
        (vec!["POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nabcd"], 400, "shorter"),
        (vec![long.as_str()], 431, "too long"),
        (vec![headers.as_str()], 431, "too many"),
        (vec!["\u{1}\u{2}\u{3}\r\n\r\n"], 400, "no HTTP/1 request"),
        (vec!["GET /half"], 400, "ends in its head"),
    ] {
        let pieces: Vec<&[u8]> = pieces.iter().map(|piece| piece.as_bytes()).collect();
        let answer = ask(address, &pieces);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{pieces:?}: {answer}");
        assert!(answer.contains(part), "{pieces:?}: {answer}");
    }
}

#[test]
fn a_connection_takes_several_requests() {
    let one = "POST /a HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi";
    let answer = ask(echo(), &[format!("{one}{one}GET /b HTTP/1.1\r\n\r\n").as_bytes()]);
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 3, "{answer}");
    assert_eq!(answer.matches("\"bytes\":2").count(), 2, "{answer}");
}

#[test]
fn tokens_are_compared_whole() {
    assert!(super::equal(b"abc", b"abc"));
    assert!(!super::equal(b"abc", b"abd") && !super::equal(b"abc", b"ab") && !super::equal(b"", b"a"));
    let newest = super::Newest::default();
    assert!(super::serve("0.0.0.0:0", None, &newest).is_err());
    let address = super::serve("127.0.0.1:0", Some("0123456789abcdef".into()), &newest).unwrap();
    let request = |token: &str| format!("GET /health HTTP/1.1\r\nConnection: close\r\n{token}\r\n");
    assert!(ask(address, &[request("").as_bytes()]).starts_with("HTTP/1.1 401 "));
    assert!(
        ask(address, &[request("Authorization: Bearer 0123456789abcdeF\r\n").as_bytes()]).starts_with("HTTP/1.1 401 ")
    );
    assert!(
        ask(address, &[request("Authorization: Bearer 0123456789abcdef\r\n").as_bytes()]).starts_with("HTTP/1.1 503 ")
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// No bytes end the server: the next request has its answer.
    #[test]
    fn garbage_ends_nothing(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let address = echo();
        ask(address, &[&bytes]);
        prop_assert!(ask(address, &[b"GET /x HTTP/1.1\r\nConnection: close\r\n\r\n"]).starts_with("HTTP/1.1 200 OK"));
    }
}
