//! The handshake: both ends of a connection prove that they hold the secret, before either says anything else.
//!
//! ```text
//! connecting end                                    listening end
//! "NYSTREAM", protocol (12 bytes)        ->
//! length, Noise NNpsk0 message 1         ->
//!                                        <-         "NYSTREAM", protocol
//!                                        <-         length, Noise NNpsk0 message 2; length 0: another secret
//! frame: Hello                           <->        frame: Hello
//!                                        <-         frame: Verdict
//! ```
//!
//! `Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s`, the pre-shared key made from the secret, the first twelve bytes its prologue. Message 1 can be
//! repeated by whoever saw it; what comes back can only be read with the ephemeral key that it was made with, so whoever repeats a transcript fails at the first frame. Keys of past
//! connections do not follow from the secret. A short secret could be guessed by somebody who records a handshake: secrets are to be random.
//!
//! Every step has one deadline for all of it, however slowly bytes come. Cost: two round trips and two X25519 products an end.

use crate::frames::{Kind, Opener, PlainKeys, Sealer, Transport, directions, plain};
use crate::greeting::{Ending, Hello, Member};
use crate::secret::Secret;
use snow::{Builder, HandshakeState};
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";
/// What is wrong with whoever proves another secret, or none.
pub(crate) const OTHER_SECRET: &str =
    "it does not hold this job's secret: give all the same --secret-file or NYSTREAM_SECRET";
const MAGIC: [u8; 8] = *b"NYSTREAM";
const PROTOCOL: u32 = 4;
const PREAMBLE: usize = 12;
/// Both messages: an X25519 key and a tag.
pub(crate) const MESSAGE: usize = 48;

/// Why a connection came to nothing.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Not one of ours, or nothing of it can be believed.
    Stranger(String),
    /// The other end says that it holds another secret. Anybody could say so.
    Secret,
    /// The other end, which holds the secret, refuses this one.
    Refused(String),
    /// One of ours, of another job.
    Differs(usize, String),
    /// One of ours that failed, or tells of one that has.
    Failed(usize, Ending),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Refusal::Stranger(match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => "it did not say what was expected in time".into(),
            ErrorKind::UnexpectedEof => "it closed the connection".into(),
            ErrorKind::InvalidData => "what it sent does not verify".into(),
            _ => format!("the connection broke: {error}"),
        })
    }
}

/// A socket with a deadline for everything that is read from it and written to it.
pub(crate) struct Timed<'a>(pub &'a TcpStream, pub Instant);

impl Timed<'_> {
    fn left(&self) -> io::Result<Duration> {
        let left = self.1.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left.max(Duration::from_millis(1))) }
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.set_read_timeout(Some(self.left()?))?;
        self.0.read(buffer)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.set_write_timeout(Some(self.left()?))?;
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A connection to a process of this job.
pub(crate) struct Link {
    pub socket: TcpStream,
    pub sealer: Sealer,
    pub opener: Opener,
    /// The process at the other end.
    pub member: Member,
}

pub(crate) fn send(
    socket: &TcpStream,
    sealer: &mut Sealer,
    kind: Kind,
    payload: &[u8],
    until: Instant,
) -> io::Result<()> {
    let mut bytes = Vec::new();
    sealer.seal(kind, payload, &mut bytes)?;
    Timed(socket, until).write_all(&bytes)
}

fn receive(socket: &TcpStream, opener: &mut Opener, wanted: Kind, until: Instant) -> Result<Vec<u8>, Refusal> {
    match opener.next(&mut Timed(socket, until))? {
        Some(kind) if kind == wanted => Ok(opener.payload().to_vec()),
        Some(_) => Err(Refusal::Stranger("it sent something else than was expected".into())),
        None => Err(io::Error::from(ErrorKind::UnexpectedEof).into()),
    }
}

pub(crate) fn preamble() -> [u8; PREAMBLE] {
    let mut bytes = [0; PREAMBLE];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..].copy_from_slice(&PROTOCOL.to_le_bytes());
    bytes
}

/// Reads the other end's first bytes; `Err` with its protocol when that is another one.
fn read_preamble(socket: &mut Timed<'_>) -> Result<Result<(), String>, Refusal> {
    let mut bytes = [0; PREAMBLE];
    socket.read_exact(&mut bytes)?;
    if bytes[..8] != MAGIC {
        return Err(Refusal::Stranger("it does not speak nystream's protocol".into()));
    }
    let protocol = u32::from_le_bytes(std::array::from_fn(|k| bytes[8 + k]));
    let other = || {
        format!("it speaks protocol {protocol}, this process {PROTOCOL}: run the same version of nystream everywhere")
    };
    Ok(if protocol == PROTOCOL { Ok(()) } else { Err(other()) })
}

pub(crate) fn noise(secret: &Secret, connecting: bool) -> Result<HandshakeState, Refusal> {
    let state = PATTERN.parse().and_then(|pattern| {
        let prologue = preamble();
        let builder = Builder::new(pattern).psk(0, secret.key())?.prologue(&prologue)?;
        if connecting { builder.build_initiator() } else { builder.build_responder() }
    });
    state.map_err(|error| Refusal::Stranger(format!("the handshake cannot begin: {error}")))
}

fn write_message(socket: &mut Timed<'_>, first: &[u8], state: &mut HandshakeState) -> Result<(), Refusal> {
    let mut message = [0; MESSAGE];
    state.write_message(&[], &mut message).map_err(|e| Refusal::Stranger(format!("the handshake failed: {e}")))?;
    let bytes = [first, &(MESSAGE as u16).to_le_bytes(), &message].concat();
    Ok(socket.write_all(&bytes)?)
}

/// Reads the other end's message; false when it does not know the secret or says that this end does not.
fn read_message(socket: &mut Timed<'_>, state: &mut HandshakeState) -> Result<bool, Refusal> {
    let mut length = [0; 2];
    socket.read_exact(&mut length)?;
    match u16::from_le_bytes(length) as usize {
        0 => return Ok(false),
        MESSAGE => {}
        _ => return Err(Refusal::Stranger("it sent a message of the wrong length".into())),
    }
    let mut message = [0; MESSAGE];
    socket.read_exact(&mut message)?;
    Ok(state.read_message(&message, &mut []).is_ok())
}

/// What one end brings to a handshake.
pub(crate) struct Party {
    pub secret: Secret,
    pub transport: Transport,
    /// What this process says of itself.
    pub hello: Hello,
    /// What it compares others with; `None` for one that failed and compares nothing.
    pub member: Option<Member>,
}

impl Party {
    /// From the end that connects, to process `peer`.
    ///
    /// Gives no link when this end only had to tell that it failed.
    pub(crate) fn connect(&self, socket: TcpStream, peer: usize, until: Instant) -> Result<Option<Link>, Refusal> {
        let mut timed = Timed(&socket, until);
        let mut state = noise(&self.secret, true)?;
        write_message(&mut timed, &preamble(), &mut state)?;
        read_preamble(&mut timed)?.map_err(Refusal::Stranger)?;
        if !read_message(&mut timed, &mut state)? {
            return Err(Refusal::Secret);
        }
        let (mut sealer, mut opener, keys) = self.frames(state)?;
        send(&socket, &mut sealer, Kind::Hello, &self.hello.to_bytes(), until)?;
        let theirs = receive(&socket, &mut opener, Kind::Hello, until)?;
        let theirs = self.compare(&theirs)?;
        if let Some(theirs) = &theirs
            && theirs.index != peer
        {
            return Err(Refusal::Differs(theirs.index, format!("it answers on the address of process {peer}")));
        }
        let verdict = receive(&socket, &mut opener, Kind::Verdict, until);
        if self.member.is_none() {
            // It has heard of the failure, whatever it answers.
            return Ok(None);
        }
        let verdict = verdict?;
        if !verdict.is_empty() {
            return Err(Refusal::Refused(String::from_utf8_lossy(&verdict).into_owned()));
        }
        if self.transport == Transport::Plain {
            plain(keys, &mut sealer, &mut opener);
        }
        Ok(theirs.map(|member| Link { socket, sealer, opener, member }))
    }

    /// From the end that listens. `welcome` decides about a process that holds the secret and runs the same job, and gives the words of a refusal.
    ///
    /// Gives no link when this end only had to tell that it failed, but which process it told.
    pub(crate) fn accept(
        &self,
        socket: TcpStream,
        until: Instant,
        welcome: &dyn Fn(&Member) -> Result<(), String>,
    ) -> Result<Result<Link, usize>, Refusal> {
        let mut timed = Timed(&socket, until);
        let mut state = noise(&self.secret, false)?;
        if let Err(reason) = read_preamble(&mut timed)? {
            // So that the other end can say it too.
            timed.write_all(&preamble())?;
            return Err(Refusal::Stranger(reason));
        }
        if !read_message(&mut timed, &mut state)? {
            timed.write_all(&[&preamble()[..], &[0, 0]].concat())?;
            return Err(Refusal::Stranger(OTHER_SECRET.into()));
        }
        write_message(&mut timed, &preamble(), &mut state)?;
        let (mut sealer, mut opener, keys) = self.frames(state)?;
        // Whoever only repeats what was recorded cannot read it.
        send(&socket, &mut sealer, Kind::Hello, &self.hello.to_bytes(), until)?;
        let bytes = receive(&socket, &mut opener, Kind::Hello, until)?;
        let theirs = self.compare(&bytes)?;
        let hello = Hello::from_bytes(&bytes).ok_or_else(unreadable)?;
        let Some(theirs) = theirs else { return Ok(Err(hello.index())) };
        if let Err(reason) = welcome(&theirs) {
            send(&socket, &mut sealer, Kind::Verdict, reason.as_bytes(), until)?;
            return Err(Refusal::Stranger(format!("it calls itself process {}: {reason}", hello.index())));
        }
        send(&socket, &mut sealer, Kind::Verdict, &[], until)?;
        if self.transport == Transport::Plain {
            plain(keys, &mut sealer, &mut opener);
        }
        Ok(Ok(Link { socket, sealer, opener, member: theirs }))
    }

    fn frames(&self, state: HandshakeState) -> Result<(Sealer, Opener, PlainKeys), Refusal> {
        let keys = PlainKeys::of(&self.secret, &state);
        let state = state.into_stateless_transport_mode();
        let (sealer, opener) = directions(state.map_err(|e| Refusal::Stranger(format!("the handshake failed: {e}")))?);
        Ok((sealer, opener, keys))
    }

    /// The process that sent this greeting, when both take part.
    fn compare(&self, bytes: &[u8]) -> Result<Option<Member>, Refusal> {
        let hello = Hello::from_bytes(bytes).ok_or_else(unreadable)?;
        let Some(ours) = &self.member else { return Ok(None) };
        if let Some(reason) = ours.disagreement(&hello) {
            return Err(Refusal::Differs(hello.index(), reason));
        }
        match hello {
            Hello::Joins(member) => Ok(Some(member)),
            Hello::Fails { sender, ending, .. } => Err(Refusal::Failed(sender, ending)),
        }
    }
}

fn unreadable() -> Refusal {
    Refusal::Stranger("its greeting cannot be read: run the same version of nystream everywhere".into())
}
