//! What the fuzz targets (`fuzz/`) call: parsers of what strangers send, with the properties that must hold for any bytes. Built with the feature `fuzzing` alone.

use crate::frames::{Kind, PAYLOAD, PlainKeys, Transport, directions, plain};
use crate::greeting::{Ending, Hello, JobIdentity, Member};
use crate::handshake::{MESSAGE, Party, noise, preamble};
use crate::secret::Secret;
use std::io::Write;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

fn secret() -> Secret {
    Secret::new(b"the secret of the fuzz targets", "fuzz").unwrap_or_else(|_| Secret::none())
}

/// Greetings and endings: what is read is what its bytes say.
pub fn greeting(bytes: &[u8]) {
    if let Some(hello) = Hello::from_bytes(bytes) {
        assert_eq!(Hello::from_bytes(&hello.to_bytes()), Some(hello));
    }
    if let Some(ending) = Ending::from_bytes(bytes) {
        assert_eq!(Ending::from_bytes(&ending.to_bytes()), Some(ending));
    }
}

/// A stream of frames: the first byte says how, then honest frames are changed as the rest says. What opens is what was sealed, in its order.
pub fn frames(bytes: &[u8]) {
    let [how, rest @ ..] = bytes else { return };
    let secret = secret();
    let (Ok(mut out), Ok(mut back)) = (noise(&secret, true), noise(&secret, false)) else { return };
    for connecting in [true, false] {
        let (from, to) = if connecting { (&mut out, &mut back) } else { (&mut back, &mut out) };
        let mut message = [0; MESSAGE];
        from.write_message(&[], &mut message).expect("an honest message");
        to.read_message(&message, &mut []).expect("an honest message");
    }
    let keys = [PlainKeys::of(&secret, &out), PlainKeys::of(&secret, &back)];
    let [mut sending, mut receiving] =
        [out, back].map(|state| directions(state.into_stateless_transport_mode().expect("both were heard")));
    if how & 1 == 1 {
        let [first, second] = keys;
        plain(first, &mut sending.0, &mut sending.1);
        plain(second, &mut receiving.0, &mut receiving.1);
    }
    let payloads = [&b"first"[..], &rest[..rest.len().min(PAYLOAD)], b""];
    let mut stream = Vec::new();
    for payload in payloads {
        sending.0.seal(Kind::Data, payload, &mut stream).expect("it fits");
    }
    let honest = stream.clone();
    // Pairs of a place and a change.
    for pair in rest.chunks_exact(3).take(if how & 2 == 2 { 8 } else { 0 }) {
        let at = usize::from(u16::from_le_bytes([pair[0], pair[1]])) % stream.len();
        stream[at] ^= pair[2];
    }
    if how & 4 == 4 {
        stream.extend_from_slice(rest);
    }
    let changed = honest.iter().zip(&stream).position(|(a, b)| a != b).unwrap_or(honest.len());
    let mut pieces = Pieces(&stream, usize::from(how >> 3) + 1);
    let (mut opened, mut end) = (0, 0);
    while let Ok(Some(kind)) = receiving.1.next(&mut pieces) {
        assert!(kind == Kind::Data && opened < payloads.len() && receiving.1.payload() == payloads[opened]);
        end += 2 + 1 + payloads[opened].len() + 16;
        opened += 1;
        assert!(end <= changed, "a frame that was changed has opened");
    }
}

/// Gives so many bytes at once.
struct Pieces<'a>(&'a [u8], usize);

impl std::io::Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let take = self.1.min(buffer.len()).min(self.0.len());
        let (now, later) = self.0.split_at(take);
        buffer[..take].copy_from_slice(now);
        self.0 = later;
        Ok(take)
    }
}

/// Either end of the handshake: the first byte says which, and how much of an honest beginning goes before the rest.
pub fn handshake(bytes: &[u8]) {
    let [how, rest @ ..] = bytes else { return };
    let member = Member {
        index: usize::from(how & 1),
        processes: 2,
        transport: Transport::Noise,
        patience_millis: 1000,
        identity: JobIdentity::new(1, &[]),
    };
    let party = Party {
        secret: secret(),
        transport: Transport::Noise,
        hello: Hello::Joins(member.clone()),
        member: Some(member),
    };
    let Ok(listener) = TcpListener::bind("127.0.0.1:0") else { return };
    let Ok(mut stranger) = listener.local_addr().and_then(TcpStream::connect) else { return };
    let Ok((own, _)) = listener.accept() else { return };
    let mut begin = [&preamble()[..], &(MESSAGE as u16).to_le_bytes(), &[0; MESSAGE]].concat();
    if let Ok(mut state) = noise(&secret(), true) {
        let _ = state.write_message(&[], &mut begin[14..]);
    }
    begin.truncate([0, 8, 12, 14, 14 + MESSAGE][usize::from(how >> 1) % 5]);
    // Small enough for the socket to hold it without a reader.
    let _ = stranger.write_all(&begin).and_then(|()| stranger.write_all(&rest[..rest.len().min(4096)]));
    let _ = stranger.shutdown(Shutdown::Write);
    let until = Instant::now() + Duration::from_secs(5);
    let let_in = match how & 1 {
        0 => party.accept(own, until, &|_| Ok(())).is_ok(),
        _ => party.connect(own, 0, until).is_ok(),
    };
    assert!(!let_in, "somebody without the secret was let in");
}
