//! The log of a process, line by line.
//!
//! Lines of several processes share one stream, so each is written whole, behind its prefix. A carriage return overwrites on a terminal what stands before it: only what
//! it leaves visible is a line. What never ends its line is cut at [`LONGEST`] bytes, so that memory stays bounded, and what stands without an end when the process closes its
//! stream is a line too.

use std::io::{ErrorKind, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

/// Longest line that is kept together, bytes.
const LONGEST: usize = 64 << 10;

/// Where log lines go; clones share it.
#[derive(Clone)]
pub struct Log(Arc<Mutex<Box<dyn Write + Send>>>);

impl Log {
    /// Lines go to `to`, one `write_all` each.
    pub fn new(to: impl Write + Send + 'static) -> Self {
        Log(Arc::new(Mutex::new(Box::new(to))))
    }

    /// Writes one line behind a prefix.
    pub(super) fn line(&self, prefix: &str, line: &[u8]) {
        let whole = [prefix.as_bytes(), line, b"\n"].concat();
        let mut to = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Nothing can be done about a closed log; the job goes on.
        let _ = to.write_all(&whole).and_then(|()| to.flush());
    }

    /// Shows every line of `from` to `see`, until its end, and writes it behind `prefix` where that gives true.
    pub(super) fn follow(&self, prefix: &str, mut from: impl Read, see: &dyn Fn(&[u8]) -> bool) {
        let mut lines = Lines::default();
        let mut emit = |line: &[u8]| {
            if see(line) {
                self.line(prefix, line);
            }
        };
        let mut bytes = [0; 8192];
        loop {
            match from.read(&mut bytes) {
                Ok(0) => break,
                Ok(read) => lines.feed(&bytes[..read], &mut emit),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        lines.end(&mut emit);
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Log")
    }
}

/// Cuts bytes into lines.
#[derive(Default)]
struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    fn feed(&mut self, bytes: &[u8], emit: &mut impl FnMut(&[u8])) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            for part in piece.chunks(LONGEST) {
                self.partial.extend_from_slice(part);
                if part.ends_with(b"\n") || self.partial.len() >= LONGEST {
                    self.end(emit);
                }
            }
        }
    }

    /// What there is becomes a line.
    fn end(&mut self, emit: &mut impl FnMut(&[u8])) {
        if self.partial.is_empty() {
            return;
        }
        let whole = self.partial.strip_suffix(b"\n").unwrap_or(&self.partial);
        let kept = whole.iter().rposition(|byte| *byte != b'\r').map_or(0, |last| last + 1);
        let whole = &whole[..kept];
        let visible = whole.rsplit(|byte| *byte == b'\r').next().unwrap_or(whole);
        emit(visible);
        self.partial.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(chunks: &[&[u8]]) -> Vec<String> {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        let mut emit = |line: &[u8]| found.push(String::from_utf8_lossy(line).into_owned());
        chunks.iter().for_each(|chunk| lines.feed(chunk, &mut emit));
        lines.end(&mut emit);
        found
    }

    #[test]
    fn lines_do_not_depend_on_how_they_arrive() {
        let text = b"one\r\n\ntwo 10%\rtwo 90%\rtwo done\n\xff\xfe\nlast without end\r";
        let whole = cut(&[text]);
        assert_eq!(whole, ["one", "", "two done", "\u{fffd}\u{fffd}", "last without end"]);
        for at in 0..text.len() {
            assert_eq!(cut(&[&text[..at], &text[at..]]), whole, "cut at {at}");
        }
        let each: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(cut(&each), whole);
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let long = vec![b'x'; 3 * LONGEST + 5];
        let lines = cut(&[&long, b"y\nz"]);
        assert_eq!(lines.iter().map(String::len).collect::<Vec<_>>(), [LONGEST, LONGEST, LONGEST, 6, 1]);
    }

    #[test]
    fn every_line_has_its_prefix_and_is_written_at_once() {
        #[derive(Clone, Default)]
        struct Writes(Arc<Mutex<Vec<String>>>);
        impl Write for Writes {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().push(String::from_utf8_lossy(bytes).into_owned());
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let writes = Writes::default();
        let seen = Mutex::new(Vec::new());
        Log::new(writes.clone()).follow("[2 beta:4100] ", &b"a\nc\nb"[..], &|line| {
            seen.lock().unwrap().push(line.to_vec());
            line != b"c"
        });
        assert_eq!(seen.into_inner().unwrap(), [b"a", b"c", b"b"]);
        assert_eq!(*writes.0.lock().unwrap(), ["[2 beta:4100] a\n", "[2 beta:4100] b\n"]);
    }
}
