//! Lines of JSON, from a file or from standard input.
//!
//! A file is read from where it was left ([`Position::Lines`]): its first bytes, and the last ones before that place, must be those of before. A last line without an end counts where it is a whole value of
//! JSON, to which nothing could be added; otherwise it is cut off, and left to whoever reads the file when it has grown ([`EventSource::remark`]). Standard input begins anew each time, since nobody can read it
//! twice, and all of it counts. Memory: one line of at most [`MAX_LINE`] bytes.

use super::{
    EventSource, Item, KNOWN, MAX_LINE, MAX_SHOWN, More, PIECE_EVENTS, Place, Position, Rejected, SourceError,
    fingerprint,
};
use crate::events::lines::{Line, next_line};
use crate::events::{StreamSchema, json};
use std::fs::File;
use std::io::{self, BufReader, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// A source of lines.
pub struct JsonLines {
    name: String,
    schema: StreamSchema,
    input: Input,
    line: Vec<u8>,
    bytes: u64,
    lines: u64,
    /// The hash of the head, once it is complete.
    head: Option<[u8; 16]>,
    /// What was left unread.
    cut: Option<String>,
    /// The lines of the piece that is read, as much of each as is shown of one that is refused, and where those of its events are: the item, and the bytes.
    texts: Vec<u8>,
    events: Vec<(usize, Range<usize>)>,
}

enum Input {
    File(PathBuf, BufReader<File>),
    Standard(BufReader<io::Stdin>),
}

impl JsonLines {
    /// The lines of `path`; `-` is standard input. `name` is what the user wrote.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn open(name: &str, path: &str, schema: StreamSchema) -> Result<Self, SourceError> {
        let input = match path {
            "-" => Input::Standard(BufReader::with_capacity(1 << 16, io::stdin())),
            path => {
                let file = File::open(path).map_err(|source| SourceError::Io { name: name.into(), source })?;
                Input::File(path.into(), BufReader::with_capacity(1 << 18, file))
            }
        };
        Ok(JsonLines {
            name: name.into(),
            schema,
            input,
            line: Vec::new(),
            bytes: 0,
            lines: 0,
            head: None,
            cut: None,
            texts: Vec::new(),
            events: Vec::new(),
        })
    }

    fn io(&self, source: io::Error) -> SourceError {
        SourceError::Io { name: self.name.clone(), source }
    }
}

impl EventSource for JsonLines {
    fn name(&self) -> &str {
        &self.name
    }

    fn resume(&mut self, position: &Position) -> Result<(), SourceError> {
        let Position::Lines { bytes, lines, head, head_bytes, tail } = position else { return Ok(()) };
        let Input::File(path, reader) = &mut self.input else { return Ok(()) };
        let another = |reason: &str| SourceError::Another { path: path.clone(), reason: reason.into() };
        let io = |source| SourceError::Io { name: self.name.clone(), source };
        let length = std::fs::metadata(&*path).map_err(io)?.len();
        if length < *bytes {
            return Err(another(&format!("{bytes} bytes of it were read, and it has {length}")));
        }
        if fingerprint(path, 0, *head_bytes).map_err(io)? != (*head, *head_bytes) {
            return Err(another("it begins otherwise"));
        }
        let last = fingerprint(path, bytes.saturating_sub(KNOWN), *bytes).map_err(io)?.0;
        if tail.is_some_and(|tail| tail != last) {
            return Err(another(&format!("what stands before byte {bytes}, where it was left, is another")));
        }
        reader.seek(SeekFrom::Start(*bytes)).map_err(io)?;
        (self.bytes, self.lines) = (*bytes, *lines);
        Ok(())
    }

    fn next(&mut self, items: &mut Vec<Item>) -> Result<More, SourceError> {
        let more = self.lines(items);
        let texts: Arc<[u8]> = std::mem::take(&mut self.texts).into();
        for (item, bytes) in self.events.drain(..) {
            if let Some(Item::Event(_, place)) = items.get_mut(item) {
                *place = place.clone().read_from(&texts, bytes);
            }
        }
        let more = more?;
        if let (None, Input::File(path, _)) = (&self.head, &self.input)
            && self.bytes >= KNOWN
        {
            self.head = Some(fingerprint(path, 0, KNOWN).map_err(|error| self.io(error))?.0);
        }
        Ok(more)
    }

    fn position(&self) -> Position {
        let Input::File(path, _) = &self.input else { return Position::Rows(self.lines) };
        let (bytes, lines) = (self.bytes, self.lines);
        let (head, head_bytes) = match self.head {
            Some(head) => (head, KNOWN),
            None => fingerprint(path, 0, bytes.min(KNOWN)).unwrap_or_default(),
        };
        let tail = fingerprint(path, bytes.saturating_sub(KNOWN), bytes).ok().map(|(hash, _)| hash);
        Position::Lines { bytes, lines, head, head_bytes, tail }
    }

    fn repeats(&self) -> bool {
        matches!(self.input, Input::File(..))
    }

    fn remark(&self) -> Option<String> {
        self.cut.clone()
    }
}

impl JsonLines {
    fn lines(&mut self, items: &mut Vec<Item>) -> Result<More, SourceError> {
        for taken in 0..PIECE_EVENTS {
            let before = self.bytes;
            let read = match &mut self.input {
                Input::File(_, reader) => next_line(reader, MAX_LINE, &mut self.line, &mut self.bytes),
                Input::Standard(reader) => {
                    // What has come is given before more is waited for.
                    if taken > 0 && !reader.buffer().contains(&b'\n') {
                        return Ok(More::Yes);
                    }
                    next_line(reader, MAX_LINE, &mut self.line, &mut self.bytes)
                }
            };
            let place = || Place::line(self.lines + 1).to_string();
            match read.map_err(|error| self.io(error))? {
                Line::End => return Ok(More::End),
                Line::TooLong { bytes } => {
                    let reason = format!("the line has {bytes} bytes, and at most {MAX_LINE} are read");
                    items.push(Item::Rejected(Rejected { key: None, reason, place: Some(place()), text: None }));
                }
                Line::Last if matches!(self.input, Input::File(..)) && is_cut(&self.line) => {
                    let left = self.bytes - before;
                    self.cut = Some(format!(
                        "{}, {}: the last line is cut off after {left} bytes; it is taken when the file has the rest of it",
                        self.name,
                        place()
                    ));
                    self.bytes = before;
                    return Ok(More::End);
                }
                Line::Whole | Line::Last if self.line.iter().all(u8::is_ascii_whitespace) => {}
                Line::Whole | Line::Last => match json::event(&self.line, &self.schema) {
                    Ok(event) => {
                        let begin = self.texts.len();
                        self.texts.extend_from_slice(&self.line[..self.line.len().min(MAX_SHOWN)]);
                        self.events.push((items.len(), begin..self.texts.len()));
                        items.push(Item::Event(event, Place::line(self.lines + 1)));
                    }
                    Err(error) => items.push(Item::Rejected(Rejected::new(&error, place(), Some(&self.line)))),
                },
            }
            self.lines += 1;
        }
        Ok(More::Yes)
    }
}

/// Whether a line ends within a value of JSON.
fn is_cut(line: &[u8]) -> bool {
    let read = serde_json::from_slice::<serde::de::IgnoredAny>(line);
    !line.iter().all(u8::is_ascii_whitespace) && read.is_err_and(|error| error.is_eof())
}

/// One rejected item as a line of JSON, for a dead-letter file.
///
/// # Errors
/// The writer's.
pub fn write_rejected(out: &mut impl Write, rejected: &Rejected) -> io::Result<()> {
    serde_json::to_writer(&mut *out, rejected)?;
    out.write_all(b"\n")
}
