//! Arrow IPC streams, from a file, standard input, or connections over TCP and Unix sockets.
//!
//! The problem: a frame says how long it is before it comes, and the decoder believes it. Here each frame's lengths are read first and held to [`MAX_METADATA`] and [`MAX_FRAME`]; only then is it read
//! and given to the decoder, whose own failures (panics included) end the connection and nothing else. A stream that ends in the middle, or holds what is no frame, is one rejected item; what was
//! whole before it counts.
//!
//! *Connections* are taken one at a time, in the order in which they come; others wait in the system's queue. They are at least once: who sends again what was not acknowledged sends keys that are
//! there, which are refused. A connection from which nothing comes for [`SILENCE`] is ended, so that the next has its turn.

use super::{EventSource, Item, More, Place, Position, Rejected, SourceError};
use crate::events::{EventError, StreamSchema, arrow};
use crate::scan::guarded;
use arrow_array::RecordBatch;
use arrow_buffer::Buffer;
use arrow_ipc::reader::StreamDecoder;
use arrow_ipc::root_as_message;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::SchemaRef;
use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::net::TcpListener;
#[cfg(unix)]
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of a frame's metadata at most.
pub const MAX_METADATA: usize = 16 << 20;
/// Bytes of a frame's body at most.
pub const MAX_FRAME: usize = 256 << 20;
/// The mark of the end of a stream.
const END: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
/// How long a connection may say nothing.
pub const SILENCE: Duration = Duration::from_secs(60);
/// How long a source waits before it says that there is nothing now.
const WAIT: Duration = Duration::from_millis(200);

/// What is not read, and why: nothing of the stream after it is.
#[derive(Debug)]
enum Broken {
    /// The stream is no stream of frames.
    Bad(String),
    /// The system's reason.
    Io(io::Error),
    /// Nothing came in time.
    NotNow,
}

/// Frames of a stream, decoded.
struct Frames<R> {
    reader: R,
    decoder: StreamDecoder,
    /// What has come of the frame that is being read.
    partial: Vec<u8>,
    /// Bytes of the frames before.
    bytes: u64,
    heard: Instant,
}

impl<R: Read> Frames<R> {
    fn new(reader: R) -> Self {
        Frames { reader, decoder: StreamDecoder::new(), partial: Vec::new(), bytes: 0, heard: Instant::now() }
    }

    /// Has `bytes` of the frame in `partial`; false where the stream ends before the first of them, which is its end if nothing was read before.
    fn fill(&mut self, bytes: usize) -> Result<bool, Broken> {
        while self.partial.len() < bytes {
            // Memory grows with what comes, not with what was announced.
            let start = self.partial.len();
            let piece = (bytes - start).min(1 << 20);
            self.partial.resize(start + piece, 0);
            let read = self.reader.read(&mut self.partial[start..]);
            self.partial.truncate(start + read.as_ref().copied().unwrap_or(0));
            match read {
                Ok(0) => return Ok(false),
                Ok(_) => self.heard = Instant::now(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if self.heard.elapsed() > SILENCE {
                        return Err(Broken::Bad(format!("nothing came for {} s", SILENCE.as_secs())));
                    }
                    return Err(Broken::NotNow);
                }
                Err(error) => return Err(Broken::Io(error)),
            }
        }
        Ok(true)
    }

    /// The next batch; `None` at the end.
    fn next(&mut self) -> Result<Option<RecordBatch>, Broken> {
        loop {
            let cut = |partial: &[u8]| {
                Broken::Bad(format!("the stream ends within a frame, after {} bytes of it", partial.len()))
            };
            if !self.fill(8)? {
                // The mark of the end may be left out, and its length too.
                let rest = &self.partial[..];
                return if rest.is_empty() || rest == [0xff; 4] || rest == [0; 4] { Ok(None) } else { Err(cut(rest)) };
            }
            let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| self.partial[at + i]));
            if word(0) != u32::MAX {
                return Err(Broken::Bad("it does not begin like an Arrow IPC frame".into()));
            }
            let metadata = word(4) as usize;
            if metadata == 0 {
                return Ok(None);
            }
            if metadata > MAX_METADATA {
                return Err(Broken::Bad(format!(
                    "a frame announces {metadata} bytes of metadata; at most {MAX_METADATA} are read"
                )));
            }
            if !self.fill(8 + metadata)? {
                return Err(cut(&self.partial));
            }
            let message = root_as_message(&self.partial[8..])
                .map_err(|error| Broken::Bad(format!("its metadata is damaged: {error}")))?;
            let body = message.bodyLength();
            let body = usize::try_from(body).ok().filter(|body| *body <= MAX_FRAME);
            let Some(body) = body else {
                return Err(Broken::Bad(format!(
                    "a frame announces {} bytes; at most {MAX_FRAME} are read",
                    message.bodyLength()
                )));
            };
            if let Some(codec) = compression(&message) {
                return Err(Broken::Bad(format!(
                    "its batches are compressed ({codec}), which is not read: write the stream without compression"
                )));
            }
            if !self.fill(8 + metadata + body)? {
                return Err(cut(&self.partial));
            }
            self.bytes += self.partial.len() as u64;
            let mut frame = Buffer::from_vec(std::mem::take(&mut self.partial));
            let decoder = &mut self.decoder;
            let decoded = guarded(|| decoder.decode(&mut frame)).map_err(Broken::Bad)?;
            if let Some(batch) = decoded.map_err(|error| Broken::Bad(error.to_string()))? {
                return Ok(Some(batch));
            }
        }
    }
}

/// How the buffers of a message are compressed, where they are.
fn compression(message: &arrow_ipc::Message<'_>) -> Option<&'static str> {
    let batch = message.header_as_record_batch().or_else(|| message.header_as_dictionary_batch()?.data())?;
    let codec = batch.compression()?.codec();
    Some(codec.variant_name().unwrap_or("by an unknown codec"))
}

/// A connection of either kind, which waits a fraction of a second at most.
type Connection = Box<dyn Read + Send>;

enum Listener {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(UnixListener, std::path::PathBuf),
}

impl Listener {
    /// The next connection, if there is one.
    fn accept(&self) -> io::Result<Option<(Connection, String)>> {
        let taken = match self {
            Listener::Tcp(listener) => listener.accept().and_then(|(socket, from)| {
                socket.set_nonblocking(false)?;
                socket.set_read_timeout(Some(WAIT))?;
                Ok((Box::new(BufReader::new(socket)) as Connection, from.to_string()))
            }),
            #[cfg(unix)]
            Listener::Unix(listener, _) => listener.accept().and_then(|(socket, _)| {
                socket.set_nonblocking(false)?;
                socket.set_read_timeout(Some(WAIT))?;
                Ok((Box::new(BufReader::new(socket)) as Connection, "a local process".to_owned()))
            }),
        };
        match taken {
            Ok(taken) => Ok(Some(taken)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            // A connection that went away before it was taken ends nothing.
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(unix)]
impl Drop for Listener {
    fn drop(&mut self) {
        if let Listener::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

enum Input {
    /// One stream, which can be read again from its beginning or not.
    Once(Option<Frames<Connection>>),
    Many(Listener, Option<(Frames<Connection>, Arc<str>)>),
}

/// A source of Arrow IPC streams.
pub struct Ipc {
    name: String,
    schema: StreamSchema,
    input: Input,
    /// The file whose rows can be read again, so that those that were taken are skipped.
    again: Option<PathBuf>,
    skip: u64,
    rows: u64,
    /// Bytes of the frames of these rows.
    bytes: u64,
    connections: u64,
}

impl Ipc {
    /// The stream in the file `path`; `-` is standard input.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn open(name: &str, path: &str, schema: StreamSchema) -> Result<Self, SourceError> {
        let reader: Connection = match path {
            "-" => Box::new(BufReader::with_capacity(1 << 16, io::stdin())),
            path => {
                let file = File::open(path).map_err(|source| SourceError::Io { name: name.into(), source })?;
                Box::new(BufReader::with_capacity(1 << 18, file))
            }
        };
        Ok(Self::new(name, schema, Input::Once(Some(Frames::new(reader))), (path != "-").then(|| path.into())))
    }

    /// Connections to `address`. `told` hears where it listens.
    ///
    /// # Errors
    /// An address that cannot be listened at.
    pub fn tcp(name: &str, address: &str, schema: StreamSchema, told: impl Fn(String)) -> Result<Self, SourceError> {
        let io = |source| SourceError::Io { name: name.into(), source };
        let listener = TcpListener::bind(address).map_err(io)?;
        listener.set_nonblocking(true).map_err(io)?;
        told(listener.local_addr().map_err(io)?.to_string());
        Ok(Self::new(name, schema, Input::Many(Listener::Tcp(listener), None), None))
    }

    /// Connections to the Unix socket `path`, which is made. One that a killed process has left is replaced.
    ///
    /// # Errors
    /// A path that cannot be listened at, or that something else has.
    #[cfg(unix)]
    pub fn unix(name: &str, path: &str, schema: StreamSchema) -> Result<Self, SourceError> {
        use std::os::unix::fs::FileTypeExt;
        let io = |source| SourceError::Io { name: name.into(), source };
        let left = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
        if left && std::os::unix::net::UnixStream::connect(path).is_err() {
            std::fs::remove_file(path).map_err(io)?;
        }
        let listener = UnixListener::bind(path).map_err(io)?;
        listener.set_nonblocking(true).map_err(io)?;
        Ok(Self::new(name, schema, Input::Many(Listener::Unix(listener, path.into()), None), None))
    }

    fn new(name: &str, schema: StreamSchema, input: Input, again: Option<PathBuf>) -> Self {
        Ipc { name: name.into(), schema, input, again, skip: 0, rows: 0, bytes: 0, connections: 0 }
    }

    /// The events of a batch, but those that were taken before.
    fn take(&mut self, batch: &RecordBatch, whence: Option<&Arc<str>>, items: &mut Vec<Item>) {
        let first = self.rows;
        self.rows += batch.num_rows() as u64;
        let place = |row: usize| {
            let row = Place::row(first + row as u64);
            whence.map_or(row.clone(), |connection| row.of(connection))
        };
        let skipped = (self.skip.saturating_sub(first)).min(batch.num_rows() as u64) as usize;
        if skipped == batch.num_rows() {
            return;
        }
        let events = match guarded(|| arrow::events(batch, &self.schema)) {
            Ok(events) => events,
            Err(reason) => Err(EventError::Malformed { key: None, reason }),
        };
        match events {
            // One item a row: none is passed over in silence.
            Err(error) => items.extend(
                (skipped..batch.num_rows())
                    .map(|row| Item::Rejected(Rejected::new(&error, place(row).to_string(), None))),
            ),
            Ok(events) => items.extend(events.into_iter().enumerate().skip(skipped).map(|(row, event)| match event {
                Ok(event) => Item::Event(event, place(row)),
                Err(error) => Item::Rejected(Rejected::new(&error, place(row).to_string(), None)),
            })),
        }
    }
}

impl EventSource for Ipc {
    fn name(&self) -> &str {
        &self.name
    }

    fn resume(&mut self, position: &Position) -> Result<(), SourceError> {
        let Some(path) = &self.again else { return Ok(()) };
        match position {
            // States of before know no more of a file.
            Position::Rows(rows) => self.skip = *rows,
            Position::Frames { rows, bytes, ends } => {
                let io = |source| SourceError::Io { name: self.name.clone(), source };
                let another = |reason: String| Err(SourceError::Another { path: path.clone(), reason });
                let length = std::fs::metadata(path).map_err(io)?.len();
                if length < *bytes {
                    return another(format!("{bytes} bytes of it were read, and it has {length}"));
                }
                if super::ends(path, *bytes).map_err(io)? != *ends {
                    return another(format!("what it has up to byte {bytes}, where it was left, is another"));
                }
                (self.skip, self.bytes) = (*rows, *bytes);
            }
            Position::Lines { .. } | Position::Files(_) | Position::Folder(_) | Position::Moved { .. } => {}
        }
        Ok(())
    }

    fn next(&mut self, items: &mut Vec<Item>) -> Result<More, SourceError> {
        if let Input::Many(listener, connection @ None) = &mut self.input {
            match listener.accept().map_err(|source| SourceError::Io { name: self.name.clone(), source })? {
                None => {
                    std::thread::sleep(Duration::from_millis(20));
                    return Ok(More::NotNow);
                }
                Some((reader, from)) => {
                    self.connections += 1;
                    let whence = format!("connection {} from {from}", self.connections);
                    *connection = Some((Frames::new(reader), whence.into()));
                }
            }
        }
        let many = matches!(self.input, Input::Many(..));
        let (read, whence) = match &mut self.input {
            Input::Once(Some(frames)) => (frames.next(), None),
            Input::Many(_, Some((frames, whence))) => (frames.next(), Some(Arc::clone(whence))),
            Input::Once(None) | Input::Many(_, None) => return Ok(More::End),
        };
        match read {
            Ok(Some(batch)) => {
                if let Input::Once(Some(frames)) = &self.input {
                    self.bytes = self.bytes.max(frames.bytes);
                }
                self.take(&batch, whence.as_ref(), items);
                return Ok(More::Yes);
            }
            Err(Broken::NotNow) => return Ok(More::NotNow),
            Ok(None) => {}
            Err(broken) => {
                let reason = match broken {
                    Broken::Bad(reason) => reason,
                    Broken::Io(error) => error.to_string(),
                    Broken::NotNow => String::new(),
                };
                let whence = whence.map_or_else(String::new, |connection| format!("{connection}, "));
                let place = format!("{whence}after row {}", self.rows);
                let reason = format!("the Arrow IPC stream cannot be read on: {reason}");
                items.push(Item::Rejected(Rejected { key: None, reason, place: Some(place), text: None }));
            }
        }
        match &mut self.input {
            Input::Once(frames) => *frames = None,
            Input::Many(_, connection) => *connection = None,
        }
        Ok(if many { More::NotNow } else { More::End })
    }

    fn repeats(&self) -> bool {
        self.again.is_some()
    }

    fn position(&self) -> Position {
        let rows = self.rows.max(self.skip);
        let ends = self.again.as_ref().map(|path| super::ends(path, self.bytes));
        match ends {
            Some(Ok(ends)) => Position::Frames { rows, bytes: self.bytes, ends },
            Some(Err(_)) | None => Position::Rows(rows),
        }
    }
}

/// The columns of the stream in the file `path`, where it has a batch that can be read.
pub fn columns(path: &str) -> Option<Vec<String>> {
    let mut frames = Frames::new(BufReader::new(File::open(path).ok()?));
    let batch = frames.next().ok()??;
    Some(batch.schema().fields().iter().map(|field| field.name().clone()).collect())
}

/// The batches of a whole stream in memory, under the same bounds.
///
/// ```
/// use arrow_array::{Float64Array, RecordBatch};
/// use nystream_datasets::stream::ipc::{batches, stream_of};
/// use std::sync::Arc;
/// let batch = RecordBatch::try_from_iter([("x", Arc::new(Float64Array::from(vec![0.5, 1.5])) as _)]).unwrap();
/// let bytes = stream_of(&batch).unwrap();
/// assert_eq!(batches(&bytes).unwrap(), [batch]);
/// assert!(batches(&bytes[..bytes.len() - 20]).unwrap_err().contains("ends within a frame"));
/// ```
///
/// # Errors
/// What is wrong with it.
pub fn batches(bytes: &[u8]) -> Result<Vec<RecordBatch>, String> {
    contents(bytes).map(|(_, batches)| batches)
}

/// The schema of a whole stream in memory, which it may have without a batch, and its batches.
///
/// # Errors
/// As [`batches`].
pub fn contents(bytes: &[u8]) -> Result<(Option<SchemaRef>, Vec<RecordBatch>), String> {
    let mut frames = Frames::new(bytes);
    let mut batches = Vec::new();
    loop {
        match frames.next() {
            Ok(Some(batch)) => batches.push(batch),
            Ok(None) => {
                // The decoder takes a message without a body when it is given what comes after it.
                let (decoder, mut end) = (&mut frames.decoder, Buffer::from(END));
                let decoded = guarded(|| decoder.decode(&mut end))?;
                decoded.map_err(|error| error.to_string())?;
                return Ok((frames.decoder.schema(), batches));
            }
            Err(Broken::Bad(reason)) => return Err(reason),
            Err(Broken::Io(error)) => return Err(error.to_string()),
            Err(Broken::NotNow) => return Err("the stream is not whole".into()),
        }
    }
}

/// A batch as a whole stream.
///
/// # Errors
/// A batch that Arrow IPC cannot hold.
pub fn stream_of(batch: &RecordBatch) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let writer = StreamWriter::try_new(&mut bytes, &batch.schema());
    let mut writer = writer.map_err(|error| error.to_string())?;
    writer.write(batch).and_then(|()| writer.finish()).map_err(|error| error.to_string())?;
    drop(writer);
    Ok(bytes)
}

/// The beginning of a stream of batches like this one, and its message: a stream is one beginning, messages, and eight bytes that end it.
///
/// # Errors
/// A batch that Arrow IPC cannot hold.
pub fn message_of(batch: &RecordBatch) -> Result<(Vec<u8>, Vec<u8>), String> {
    let mut head = stream_of_none(batch)?;
    let mut all = stream_of(batch)?;
    head.truncate(head.len() - END.len());
    let message = all.split_off(head.len());
    Ok((head, message[..message.len() - END.len()].to_vec()))
}

fn stream_of_none(batch: &RecordBatch) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut writer = StreamWriter::try_new(&mut bytes, &batch.schema()).map_err(|error| error.to_string())?;
    writer.finish().map_err(|error| error.to_string())?;
    drop(writer);
    Ok(bytes)
}
