//! Requests as clients send them, whole, in pieces and as garbage.

use super::http::{CONNECTIONS, MAX_BODY, MAX_HEAD, Request, Response, Server};
use super::seats::{Permits, Seats};
use crate::metrics::online::Run;
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
    let server = Server::new(Box::new(answer), Default::default());
    std::thread::spawn(move || server.run(&listener));
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
        (
            vec!["POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n"],
            200,
            "\"bytes\":0",
        ),
        (
            vec![
                "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n4;x=1\r\nab",
                "cd\r\nA\r\n0123456789\r",
                "\n0\r\nTrailer: x\r",
                "\n\r\n",
            ],
            200,
            "\"bytes\":14",
        ),
        (vec!["POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n"], 400, "size of a chunk"),
        (vec!["POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n"], 400, "longer than its size"),
        (vec!["POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\na"], 400, "shorter"),
        (vec!["POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1000001\r\n"], 413, "at most"),
        (vec!["POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n"], 400, "one of them"),
        (vec!["POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"], 501, "chunked alone"),
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

/// A body in chunks beyond what is small, and another request behind it.
#[test]
fn chunks_of_any_size_make_one_body() {
    let mut request = b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    let mut bytes = 0;
    for size in [1usize, 200_000, 17, 3, 70_000] {
        request.extend(format!("{size:x}\r\n").into_bytes());
        request.extend(vec![b'x'; size]);
        request.extend(b"\r\n");
        bytes += size;
    }
    request.extend(b"0\r\n\r\nGET /b HTTP/1.1\r\nConnection: close\r\n\r\n");
    let answer = ask(echo(), &[&request]);
    assert!(answer.contains(&format!("\"bytes\":{bytes}")) && answer.contains("\"path\":\"/b\""), "{answer}");
}

/// Whoever sends a body that is too large hears so, whether it waits for leave to send or not.
#[test]
fn large_bodies_are_refused_and_not_cut_off() {
    let address = echo();
    let head = format!("POST / HTTP/1.1\r\nContent-Length: {}\r\n", MAX_BODY + 1);
    let body = vec![b'x'; MAX_BODY + 1];
    let answer = ask(address, &[format!("{head}\r\n").as_bytes(), &body]);
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let answer = ask(address, &[format!("{head}Expect: 100-continue\r\n\r\n").as_bytes()]);
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let answer = ask(
        address,
        &[b"POST / HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n", b"abc"],
    );
    assert!(answer.contains("HTTP/1.1 200 OK") && answer.contains("\"bytes\":3"), "{answer}");
    // One as large as may be.
    let head = format!("POST / HTTP/1.1\r\nConnection: close\r\nContent-Length: {MAX_BODY}\r\n\r\n");
    assert!(ask(address, &[head.as_bytes(), &body[1..]]).starts_with("HTTP/1.1 200 "));
}

/// Clients that say nothing, or half a request, leave for those that ask; the last of them stay as long as there is room.
#[test]
fn idle_clients_hold_up_nobody() {
    let address = echo();
    let mut idle: Vec<TcpStream> = (0..3 * CONNECTIONS).map(|_| TcpStream::connect(address).unwrap()).collect();
    for (i, socket) in idle.iter_mut().enumerate() {
        // Those that have left may refuse it.
        let _ = if i % 2 == 0 { socket.write_all(b"POST /half HTTP/1.1\r\nContent-Le") } else { Ok(()) };
    }
    for _ in 0..CONNECTIONS {
        let answer = ask(address, &[b"GET /x HTTP/1.1\r\nConnection: close\r\n\r\n"]);
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    }
    // The first has been closed: it reads an end, or that it was reset.
    idle[0].set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    let gone = idle[0].read(&mut [0; 1]);
    assert!(
        matches!(&gone, Ok(0)) || gone.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset),
        "{gone:?}"
    );
}

#[test]
fn seats_and_permits_are_lent_and_come_back() {
    let (permits, now) = (Permits::new(3), std::time::Instant::now);
    let two = permits.take(2, now()).unwrap();
    assert!(permits.take(2, now()).is_none() && permits.take(1, now()).is_some());
    drop(two);
    assert!(permits.take(99, now()).is_some(), "more than there are is all of them");
    let seats = Seats::new(2);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let connect = || TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let sockets = [connect(), connect(), connect()];
    let first = seats.take(&sockets[0]).unwrap();
    let second = seats.take(&sockets[1]).unwrap();
    first.waits(false);
    // The third waits until one leaves, and it is the second that is asked to: the first is being answered.
    std::thread::scope(|scope| {
        let third = scope.spawn(|| seats.take(&sockets[2]).unwrap());
        assert_eq!((&sockets[1]).read(&mut [0; 1]).unwrap(), 0);
        drop(second);
        drop(third.join().unwrap());
    });
    drop(first);
    assert_eq!(seats.taken(), 0);
}

#[test]
fn tokens_are_compared_whole() {
    assert!(super::equal(b"abc", b"abc"));
    assert!(!super::equal(b"abc", b"abd") && !super::equal(b"abc", b"ab") && !super::equal(b"", b"a"));
    let (newest, run) = (super::Newest::default(), Run::new("con-kons"));
    assert!(super::serve("0.0.0.0:0", None, &newest, None, &run).is_err());
    let address = super::serve("127.0.0.1:0", Some("0123456789abcdef".into()), &newest, None, &run).unwrap();
    let metrics =
        format!("GET /metrics HTTP/1.1\r\nConnection: close\r\n{}\r\n", "Authorization: Bearer 0123456789abcdef\r\n");
    assert!(ask(address, &[metrics.as_bytes()]).contains("\nnystream_online_info{mode=\"con-kons\"} 1\n"));
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
