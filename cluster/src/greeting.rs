//! What processes tell each other about themselves, once both have proved that they hold the secret.
//!
//! All of it is read from bytes that a peer sent: lengths are checked against what is there, texts are bounded, and what does not
//! parse is a reason to refuse, never a panic.

use crate::frames::Transport;

/// Digests of the parts of a job, bytes each.
const DIGEST: usize = 8;
/// Longest text that is sent or taken, bytes.
const LONGEST: usize = 4096;
/// Most parts that are taken.
const PARTS: usize = 256;

/// What all processes of a job must agree on.
///
/// ```
/// use nystream_cluster::JobIdentity;
/// let ours = JobIdentity::new(2, &[("the version", [1; 8]), ("--seed", [7; 8])]);
/// let theirs = JobIdentity::new(2, &[("the version", [1; 8]), ("--seed", [8; 8])]);
/// assert_eq!(ours.differences(&theirs), ["--seed"]);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobIdentity {
    workers: usize,
    parts: Vec<(String, [u8; DIGEST])>,
}

impl JobIdentity {
    /// The identity of a job of `workers` threads a process and these parts (version, options, data and so on): the name by which a message calls
    /// each where it differs, and a digest of it. At most 256 parts with names of at most 100 bytes.
    pub fn new(workers: usize, parts: &[(&str, [u8; DIGEST])]) -> Self {
        JobIdentity { workers, parts: parts.iter().map(|(name, digest)| ((*name).to_owned(), *digest)).collect() }
    }

    /// The names of the parts that only one of them has or that have other digests, in the order of this one and then of the other.
    pub fn differences(&self, other: &JobIdentity) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for (ours, theirs) in [(self, other), (other, self)] {
            let differ = ours.parts.iter().filter(|part| !theirs.parts.contains(part)).map(|(name, _)| name);
            let new: Vec<String> = differ.filter(|name| !names.contains(name)).cloned().collect();
            names.extend(new);
        }
        names
    }
}

/// The end of a process that the others are told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    /// The process that is at fault.
    pub process: usize,
    /// Its exit code.
    pub code: u8,
    /// What happened, in words.
    pub message: String,
}

/// The first frame of either end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hello {
    /// It takes part.
    Joins(Member),
    /// It will not: it has failed, or another process of the job has.
    Fails { sender: usize, processes: usize, ending: Ending },
}

/// A process that takes part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub index: usize,
    pub processes: usize,
    pub transport: Transport,
    /// After so many milliseconds without a frame it takes the other end for lost.
    pub patience_millis: u64,
    pub identity: JobIdentity,
}

impl Hello {
    pub(crate) fn index(&self) -> usize {
        match self {
            Hello::Joins(member) => member.index,
            Hello::Fails { sender, .. } => *sender,
        }
    }

    fn processes(&self) -> usize {
        match self {
            Hello::Joins(member) => member.processes,
            Hello::Fails { processes, .. } => *processes,
        }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Out(Vec::new());
        match self {
            Hello::Joins(member) => {
                out.0.push(0);
                out.number(member.index as u64);
                out.number(member.processes as u64);
                out.0.push(member.transport as u8);
                out.number(member.patience_millis);
                out.number(member.identity.workers as u64);
                out.number(member.identity.parts.len() as u64);
                for (name, digest) in &member.identity.parts {
                    out.text(name);
                    out.0.extend_from_slice(digest);
                }
            }
            Hello::Fails { sender, processes, ending } => {
                out.0.push(1);
                out.number(*sender as u64);
                out.number(*processes as u64);
                out.ending(ending);
            }
        }
        out.0
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut input = In(bytes);
        let hello = match input.byte()? {
            0 => {
                let index = input.size()?;
                let processes = input.size()?;
                let transport = match input.byte()? {
                    0 => Transport::Noise,
                    1 => Transport::Plain,
                    _ => return None,
                };
                let patience_millis = input.number()?;
                let workers = input.size()?;
                let count = input.size().filter(|count| *count <= PARTS)?;
                let parts = (0..count).map(|_| Some((input.text()?, input.digest()?))).collect::<Option<_>>()?;
                let identity = JobIdentity { workers, parts };
                Hello::Joins(Member { index, processes, transport, patience_millis, identity })
            }
            1 => Hello::Fails { sender: input.size()?, processes: input.size()?, ending: input.ending()? },
            _ => return None,
        };
        input.0.is_empty().then_some(hello)
    }
}

impl Ending {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Out(Vec::new());
        out.ending(self);
        out.0
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut input = In(bytes);
        let ending = input.ending()?;
        input.0.is_empty().then_some(ending)
    }
}

impl Member {
    /// What keeps `hello` and this process from being of one job, in words.
    pub(crate) fn disagreement(&self, hello: &Hello) -> Option<String> {
        let theirs = hello.processes();
        if theirs != self.processes || hello.index() >= self.processes {
            return Some(format!("its host file names {theirs} processes, this one's {}", self.processes));
        }
        let Hello::Joins(other) = hello else { return None };
        let (ours, theirs) = (&self.identity, &other.identity);
        if theirs.workers != ours.workers {
            return Some(format!("it runs --workers {}, this process {}", theirs.workers, ours.workers));
        }
        if other.transport != self.transport {
            return Some(format!("it was given --transport {}, this process {}", other.transport, self.transport));
        }
        match ours.differences(theirs).as_slice() {
            [] => None,
            [one] => Some(format!("it runs another job: {one} differs from this process's")),
            several => {
                Some(format!("it runs another job, which differs from this process's in: {}", several.join("; ")))
            }
        }
    }
}

struct Out(Vec<u8>);

impl Out {
    fn number(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// One line without control characters: it is shown to people.
    fn text(&mut self, text: &str) {
        let text = text.replace(char::is_control, " ");
        let mut end = text.len().min(LONGEST);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.number(end as u64);
        self.0.extend_from_slice(&text.as_bytes()[..end]);
    }

    fn ending(&mut self, ending: &Ending) {
        self.number(ending.process as u64);
        self.0.push(ending.code);
        self.text(&ending.message);
    }
}

struct In<'a>(&'a [u8]);

impl In<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*number))
    }

    /// A count or an index: nothing that is counted here comes near 2^32.
    fn size(&mut self) -> Option<usize> {
        self.number().filter(|n| *n <= u64::from(u32::MAX)).map(|n| n as usize)
    }

    fn digest(&mut self) -> Option<[u8; DIGEST]> {
        let (digest, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*digest)
    }

    fn text(&mut self) -> Option<String> {
        let length = self.size().filter(|length| *length <= LONGEST)?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        let text = std::str::from_utf8(text).ok()?;
        (!text.contains(char::is_control)).then(|| text.to_owned())
    }

    fn ending(&mut self) -> Option<Ending> {
        Some(Ending { process: self.size()?, code: self.byte()?, message: self.text()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn member(tag: u8) -> Member {
        let identity = JobIdentity::new(2, &[("the version", [9; 8]), ("--seed", [tag; 8])]);
        Member { index: 1, processes: 3, transport: Transport::Plain, patience_millis: 30_000, identity }
    }

    #[test]
    fn differences_are_named_from_both_sides() {
        let known = |name: &'static str, digest| (name, [digest; 8]);
        let ours = JobIdentity::new(1, &[known("a", 1), known("b", 2), known("c", 3)]);
        let theirs = JobIdentity::new(1, &[known("a", 1), known("b", 9), known("d", 3)]);
        assert_eq!(ours.differences(&theirs), ["b", "c", "d"]);
        assert!(ours.differences(&ours).is_empty());
    }

    #[test]
    fn each_disagreement_has_its_words() {
        let ours = member(1);
        assert_eq!(ours.disagreement(&Hello::Joins(ours.clone())), None);
        let identity = JobIdentity::new(3, &[]);
        for (theirs, wanted) in [
            (Member { processes: 4, ..ours.clone() }, "names 4 processes"),
            (Member { index: 3, ..ours.clone() }, "names 3 processes"),
            (Member { transport: Transport::Noise, ..ours.clone() }, "--transport noise"),
            (Member { identity, ..ours.clone() }, "--workers 3"),
            (member(2), "--seed differs"),
        ] {
            let words = ours.disagreement(&Hello::Joins(theirs)).unwrap();
            assert!(words.contains(wanted), "{words}");
        }
    }

    proptest! {
        /// Whatever arrives is refused or read, and what is read is what its bytes say.
        #[test]
        fn no_bytes_break_the_parser(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(hello) = Hello::from_bytes(&bytes) {
                prop_assert_eq!(Hello::from_bytes(&hello.to_bytes()), Some(hello));
            }
            if let Some(ending) = Ending::from_bytes(&bytes) {
                prop_assert_eq!(Ending::from_bytes(&ending.to_bytes()), Some(ending));
            }
        }

        /// A greeting with bytes changed, left out or added is another greeting or none; a whole one comes back.
        #[test]
        fn greetings_come_back(
            names in prop::collection::vec("[a-z, -]{0,100}", 0..256), digest in any::<[u8; 8]>(), message in "\\PC{0,900}",
            at in any::<prop::sample::Index>(), flip in 1..=255u8,
        ) {
            let parts: Vec<_> = names.iter().map(|name| (name.as_str(), digest)).collect();
            let joins = Hello::Joins(Member { identity: JobIdentity::new(4, &parts), ..member(0) });
            let fails = Hello::Fails { sender: 1, processes: 3, ending: Ending { process: 2, code: 4, message } };
            for hello in [joins, fails] {
                let bytes = hello.to_bytes();
                prop_assert!(bytes.len() <= crate::frames::PAYLOAD);
                prop_assert_eq!(Hello::from_bytes(&bytes), Some(hello.clone()));
                let at = at.index(bytes.len());
                prop_assert_eq!(Hello::from_bytes(&bytes[..at]), None);
                let mut other = bytes.clone();
                other[at] ^= flip;
                prop_assert_ne!(Hello::from_bytes(&other), Some(hello.clone()));
                other.clone_from(&bytes);
                other.push(flip);
                prop_assert_eq!(Hello::from_bytes(&other), None);
            }
        }
    }
}
