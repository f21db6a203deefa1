//! Lines of bounded length.

use std::io::{self, BufRead};

/// What a source holds next.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// A line without its end, in the buffer that was given.
    Whole,
    /// A last line that has no end (yet), in the buffer that was given.
    Last,
    /// A line of more bytes than allowed; it was skipped.
    TooLong {
        /// Its bytes, so far as the source has them.
        bytes: u64,
    },
    /// Nothing more.
    End,
}

/// Reads the next line into `line`, without `\n` or `\r\n`. A line longer than `limit` bytes is skipped, holding no more than that in memory. `read` is raised by the
/// bytes taken from the source, line ends included: where to go on after a restart.
///
/// Whether a last line without an end was cut off is for its parser to tell.
///
/// ```
/// use nystream_datasets::events::lines::{Line, next_line};
/// let (mut source, mut line, mut read) = (&b"one\r\nabcdefghijkl\nlast"[..], Vec::new(), 0);
/// assert_eq!((next_line(&mut source, 8, &mut line, &mut read).unwrap(), &line[..], read), (Line::Whole, &b"one"[..], 5));
/// assert_eq!(next_line(&mut source, 8, &mut line, &mut read).unwrap(), Line::TooLong { bytes: 12 });
/// assert_eq!((next_line(&mut source, 8, &mut line, &mut read).unwrap(), &line[..], read), (Line::Last, &b"last"[..], 22));
/// assert_eq!(next_line(&mut source, 8, &mut line, &mut read).unwrap(), Line::End);
/// ```
///
/// # Errors
/// The source's own; interrupted reads are repeated.
pub fn next_line(source: &mut impl BufRead, limit: usize, line: &mut Vec<u8>, read: &mut u64) -> io::Result<Line> {
    line.clear();
    let mut bytes = 0u64;
    let (mut any, mut ended) = (false, false);
    loop {
        let held = match source.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            held => held?,
        };
        if held.is_empty() {
            break;
        }
        any = true;
        let end = held.iter().position(|byte| *byte == b'\n');
        let piece = &held[..end.unwrap_or(held.len())];
        bytes += piece.len() as u64;
        // One byte more than allowed may be the `\r` of the end.
        let room = (limit + 1).saturating_sub(line.len());
        line.extend_from_slice(&piece[..piece.len().min(room)]);
        let taken = piece.len() + usize::from(end.is_some());
        source.consume(taken);
        *read += taken as u64;
        ended = end.is_some();
        if ended {
            break;
        }
    }
    if !any {
        return Ok(Line::End);
    }
    if line.last() == Some(&b'\r') && bytes == line.len() as u64 {
        line.pop();
        bytes -= 1;
    }
    if bytes > limit as u64 {
        line.clear();
        return Ok(Line::TooLong { bytes });
    }
    Ok(if ended { Line::Whole } else { Line::Last })
}
