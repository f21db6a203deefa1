//! How processes end, and which end of several is the cause.
//!
//! Processes of a job take each other along: a lost one makes the others end with code 5 at once, one that cannot join makes them end with 6 a minute later, and what the
//! launcher stops ends as it was told to. The order in which ends are seen says little, since a peer may be gone before the shell of the lost process has told so. What an end is says more:
//!
//! 1. a code of its own (1, 2, 4, 101, any other that is not listed below): the process knows what is wrong and has said so; 130 too, unless the launcher stopped it;
//! 2. a signal: it was killed, by somebody or by the system for its memory;
//! 3. ssh's 255: its host cannot be reached, or the connection broke;
//! 4. code 5: another process was lost;
//! 5. code 6: the processes did not come together.
//!
//! The first of these that is there is the cause, of equal ones the one seen first. Without any, 3 (stopped at a limit) wins over 0.
//!
//! Whose end is the cause need not be who is at fault: processes that end because of another one name it, and most of those that do name the one that the verdict is about.

use super::HostLine;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// The code of ssh itself, for whatever went wrong with the connection.
const SSH_FAILED: i32 = 255;
/// Exit codes of nystream that this module knows by meaning.
const STOPPED_AT_LIMIT: u8 = 3;
const PEER_LOST: u8 = 5;
const JOIN_REFUSED: u8 = 6;
const INTERRUPTED: u8 = 130;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With an exit code.
    Code(u8),
    /// By a signal.
    Signal(i32),
    /// ssh could not reach the host, or lost it.
    Unreachable,
}

impl End {
    /// Of the shell of a process: a shell gives 128 + n for a program that signal n ended. With `ssh`, 255 is ssh's own.
    pub(super) fn of(status: ExitStatus, ssh: bool) -> Self {
        match status.code() {
            Some(SSH_FAILED) if ssh => End::Unreachable,
            // 130 is nystream's own as well, and means the same.
            Some(code @ 129..=192) if code != i32::from(INTERRUPTED) => End::Signal(code - 128),
            Some(code) => End::Code(u8::try_from(code).unwrap_or(1)),
            None => End::Signal(status.signal().unwrap_or(0)),
        }
    }

    /// Whether it says nothing of what ended the job, when the launcher had stopped the process before.
    fn obeyed(self) -> bool {
        matches!(
            self,
            End::Signal(_)
                | End::Unreachable
                | End::Code(0 | STOPPED_AT_LIMIT | PEER_LOST | JOIN_REFUSED | INTERRUPTED)
        )
    }

    /// The lower, the nearer to the cause.
    fn distance(self) -> u8 {
        match self {
            End::Signal(_) => 1,
            End::Unreachable => 2,
            End::Code(PEER_LOST) => 3,
            End::Code(JOIN_REFUSED) => 4,
            End::Code(STOPPED_AT_LIMIT) => 5,
            End::Code(0) => 6,
            End::Code(_) => 0,
        }
    }

    /// Whether all is well with the process, its result saved.
    pub fn is_success(self) -> bool {
        matches!(self, End::Code(0 | STOPPED_AT_LIMIT))
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            End::Code(126 | 127) => {
                f.write_str("could not start its program (the shell's message is above; --remote-program names it)")
            }
            End::Code(code) => write!(f, "ended with code {code}"),
            End::Signal(number) => match nix::sys::signal::Signal::try_from(*number) {
                Ok(signal) => write!(f, "was ended by signal {number} ({})", signal.as_str()),
                Err(_) => write!(f, "was ended by signal {number}"),
            },
            End::Unreachable => f.write_str("was lost: ssh cannot reach its host, or the connection broke"),
        }
    }
}

/// The end of one process.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Its index.
    pub process: usize,
    /// Where it ran.
    pub host: HostLine,
    /// How it ended.
    pub end: End,
    /// Whether the launcher had asked it to end.
    pub stopped: bool,
    /// The process that its own message names as the one at fault, and where that ran.
    pub blames: Option<(usize, HostLine)>,
    /// Whether that is for another secret: which of the two is wrong a word of one of them does not say.
    pub differs: bool,
    /// Whether it had ended as if all were well, without having met the others, and these went on.
    pub unjoined: bool,
}

impl Ended {
    /// The lower, the nearer to the cause. Of those that an interrupt ended, one that names another followed that one.
    fn distance(&self) -> (u8, bool) {
        match self.end {
            _ if self.unjoined => (End::Code(PEER_LOST).distance(), false),
            End::Code(INTERRUPTED) => (self.end.distance(), self.blames.is_some()),
            end => (end.distance(), false),
        }
    }
}

/// Whether the line is its own word that another process holds another secret.
pub(super) fn differs(line: &[u8]) -> bool {
    std::str::from_utf8(line).is_ok_and(|line| line.starts_with("error: process ") && line.contains(WORDS[4]))
}

/// How messages name a process that was lost, failed before or did not come to the join, was refused there, or proves another secret.
const WORDS: [&str; 5] =
    [" was lost: ", " failed before it joined: ", " did not join within ", " was refused: ", " holds another secret "];

/// The process that a line of a log names as the one at fault: one that was lost, that failed before or did not come to the join, or that was refused there; where it passes on what another one said, whom that names. And
/// the one that an interrupt ended, where that ended all.
pub(super) fn blamed(line: &[u8]) -> Option<usize> {
    let line = std::str::from_utf8(line).ok()?;
    match line.strip_prefix("interrupted: a signal to process ") {
        Some(rest) => rest.split(' ').next()?.parse().ok(),
        None => named(line.strip_prefix("error: ")?),
    }
}

fn named(text: &str) -> Option<usize> {
    let rest = text.strip_prefix("process ")?;
    let (number, rest) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
    // Behind the number there may be an address in parentheses.
    let rest = rest.strip_prefix(" (").and_then(|rest| rest.split_once(')')).map_or(rest, |(_, rest)| rest);
    if let Some(cause) = rest.strip_prefix(WORDS[1]).and_then(named) {
        return Some(cause);
    }
    WORDS.iter().any(|words| rest.starts_with(words)).then(|| number.parse().ok()).flatten()
}

/// What a job came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The exit code of the job: the cause's own; 5 for a process that was lost by a signal or with its host, 2 for a program that cannot be started.
    pub code: u8,
    /// Whether another attempt may end otherwise: a process or its host was lost.
    pub lost: bool,
    /// Which process ended how; empty where all is well.
    pub message: String,
}

/// The verdict on the ends of all processes, in the order in which they were seen.
///
/// ```
/// use nystream_cluster::launch::{End, Ended, verdict};
/// let ended = |process, end| Ended { process, host: "alpha:4100".parse().unwrap(), end, stopped: false, blames: None, differs: false, unjoined: false };
/// // Process 0 noticed that process 1 was killed before its shell told so.
/// let verdict = verdict(&[ended(0, End::Code(5)), ended(1, End::Signal(9))]);
/// assert_eq!((verdict.code, verdict.lost), (5, true));
/// assert!(verdict.message.starts_with("process 1 (alpha:4100) was ended by signal 9"));
/// ```
pub fn verdict(ends: &[Ended]) -> Verdict {
    let telling = ends.iter().filter(|ended| !(ended.stopped && ended.end.obeyed()));
    // The first of equal ones.
    let Some(cause) = telling.min_by_key(|ended| ended.distance()) else {
        return Verdict { code: INTERRUPTED, lost: false, message: "every process was stopped".into() };
    };
    let (code, lost) = match cause.end {
        _ if cause.unjoined => (JOIN_REFUSED, false),
        End::Code(126 | 127) => (2, false),
        End::Code(code) => (code, code == PEER_LOST),
        End::Signal(_) | End::Unreachable => (PEER_LOST, true),
    };
    let message = match (cause.end.is_success(), fault(ends, cause)) {
        _ if cause.unjoined => format!(
            "process {} ({}) {} before it joined the others: what was started there is not this command, or ended without it",
            cause.process, cause.host, cause.end
        ),
        (true, _) => String::new(),
        (false, None) => format!("process {} ({}) {}", cause.process, cause.host, cause.end),
        (false, Some((process, host, 1))) if cause.differs => format!(
            "process {} ({}) and process {process} ({host}) hold different secrets: process {} {}",
            cause.process, cause.host, cause.process, cause.end
        ),
        (false, Some((process, host, _))) => {
            let what = if cause.end == End::Code(PEER_LOST) { "was lost" } else { "kept the processes from joining" };
            format!("process {process} ({host}) {what}: process {} ({}) {}", cause.process, cause.host, cause.end)
        }
    };
    Verdict { code, lost, message }
}

/// Whom the processes name that ended like `cause`, where they ended because of another one: the one that most of them name, of equal ones the first; and how many do.
fn fault<'a>(ends: &'a [Ended], cause: &Ended) -> Option<(usize, &'a HostLine, usize)> {
    if !matches!(cause.end, End::Code(PEER_LOST | JOIN_REFUSED)) {
        return None;
    }
    let named: Vec<_> = (ends.iter())
        .filter(|ended| ended.end == cause.end && !ended.stopped)
        .filter_map(|ended| ended.blames.as_ref().filter(|(process, _)| *process != ended.process))
        .collect();
    let votes = |(process, _): &(usize, HostLine)| named.iter().filter(|(other, _)| other == process).count();
    // The last of equal ones is the maximum of an iterator: so from the end.
    named.iter().rev().max_by_key(|one| votes(one)).map(|one| (one.0, &one.1, votes(one)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_name_who_is_at_fault() {
        for (line, wanted) in [
            (
                "error: process 12 (127.0.0.1:4100) was lost: it died (stage `gram`). Start all processes again",
                Some(12),
            ),
            ("error: process 1 failed before it joined: no such file", Some(1)),
            ("error: process 0 ([::1]:4100) did not join within 60 s", Some(0)),
            ("error: process 3 was refused: it runs another job", Some(3)),
            ("error: process 1 (h:1) holds another secret than this process", Some(1)),
            (
                "error: process 1 failed before it joined: process 0 (h:1) holds another secret than this process",
                Some(0),
            ),
            ("error: process 1 failed before it joined: process 2 (h:3) did not join within 60 s", Some(2)),
            ("interrupted: a signal to process 0 ended the run; the same command", Some(0)),
            ("interrupted: this process ends with the run", None),
            ("error: process 0 refused this process: there is such a process already", None),
            ("error: process x was lost: ", None),
            ("error: the file process 1 was lost: ", None),
            ("process 1 (h:1) was lost: ", None),
            ("error: process 99999999999999999999999 (h:1) was lost: ", None),
        ] {
            assert_eq!(blamed(line.as_bytes()), wanted, "{line}");
        }
    }

    /// The one that was stopped or cut off is at fault, not the one that noticed first.
    #[test]
    fn the_verdict_names_the_process_that_was_lost() {
        let host = |index: usize| -> HostLine { format!("h:{}", index + 1).parse().unwrap() };
        let ended = |process: usize, end, stopped, blames: Option<usize>| Ended {
            process,
            host: host(process),
            end,
            stopped,
            blames: blames.map(|at| (at, host(at))),
            differs: false,
            unjoined: false,
        };
        let message = |ends: &[Ended]| verdict(ends).message;
        let lost = End::Code(PEER_LOST);
        // The stopped one wakes up, and names one of those that have given it up.
        let ends = [ended(1, lost, false, Some(0)), ended(0, lost, false, Some(1)), ended(2, lost, false, Some(1))];
        assert_eq!(message(&ends), "process 1 (h:2) was lost: process 1 (h:2) ended with code 5");
        let ends =
            [ended(0, lost, false, Some(1)), ended(2, lost, false, Some(1)), ended(1, End::Signal(15), true, None)];
        assert_eq!(message(&ends), "process 1 (h:2) was lost: process 0 (h:1) ended with code 5");
        // What is known for certain goes before what is said.
        let ends = [ended(0, lost, false, Some(1)), ended(1, End::Signal(9), false, None)];
        assert_eq!(message(&ends), "process 1 (h:2) was ended by signal 9 (SIGKILL)");
        let ends = [ended(2, End::Code(6), false, Some(1)), ended(1, End::Code(2), false, None)];
        assert_eq!(message(&ends), "process 1 (h:2) ended with code 2");
        let ends = [ended(2, End::Code(6), false, Some(1)), ended(1, End::Code(6), false, None)];
        assert_eq!(
            message(&ends),
            "process 1 (h:2) kept the processes from joining: process 2 (h:3) ended with code 6"
        );
    }

    /// A signal to one that ends all is a signal to that one, whoever is seen first.
    #[test]
    fn who_was_interrupted_is_named_before_those_that_followed() {
        let host: HostLine = "h:1".parse().unwrap();
        let ended = |process: usize, end, blames: Option<usize>, unjoined| {
            let blames = blames.map(|at| (at, host.clone()));
            Ended { process, host: host.clone(), end, stopped: false, blames, differs: false, unjoined }
        };
        let code = End::Code(INTERRUPTED);
        let all = [ended(1, code, Some(0), false), ended(0, code, None, false), ended(2, code, Some(0), false)];
        assert_eq!(verdict(&all).message, "process 0 (h:1) ended with code 130");
        // One that has ended well, and for which the others wait.
        for end in [End::Code(0), End::Code(STOPPED_AT_LIMIT)] {
            let stopped = Ended { stopped: true, ..ended(0, code, None, false) };
            let verdict = verdict(&[ended(1, end, None, true), stopped]);
            assert_eq!((verdict.code, verdict.lost), (6, false));
            assert!(verdict.message.starts_with("process 1 (h:1) ended with code"), "{verdict:?}");
            assert!(verdict.message.contains("before it joined"), "{verdict:?}");
        }
    }

    /// One that says alone that another holds another secret may itself be the one that does.
    #[test]
    fn a_single_word_on_secrets_is_no_verdict() {
        let host = |index: usize| -> HostLine { format!("h:{}", index + 1).parse().unwrap() };
        let ended = |process: usize, stopped, blames: Option<usize>| {
            let (end, blames) = (End::Code(JOIN_REFUSED), blames.map(|at| (at, host(at))));
            Ended { process, host: host(process), end, stopped, differs: blames.is_some(), blames, unjoined: false }
        };
        let one = verdict(&[ended(1, false, Some(0)), ended(0, true, None), ended(2, true, None)]);
        assert!(one.message.starts_with("process 1 (h:2) and process 0 (h:1) hold different secrets"), "{one:?}");
        let two = verdict(&[ended(1, false, Some(0)), ended(2, false, Some(0)), ended(0, true, None)]);
        assert!(two.message.starts_with("process 0 (h:1) kept the processes from joining"), "{two:?}");
        let line = "error: process 0 (h:1) holds another secret than this process";
        assert!(differs(line.as_bytes()) && !differs(b"error: process 0 (h:1) was lost: it died"));
    }

    fn judge(ends: &[(End, bool)]) -> (u8, bool, String) {
        let host: HostLine = "h:1".parse().unwrap();
        let ended = |(process, (end, stopped)): (usize, &(End, bool))| Ended {
            process,
            host: host.clone(),
            end: *end,
            stopped: *stopped,
            blames: None,
            differs: false,
            unjoined: false,
        };
        let verdict = verdict(&ends.iter().enumerate().map(ended).collect::<Vec<_>>());
        (verdict.code, verdict.lost, verdict.message)
    }

    #[test]
    fn the_cause_wins_over_its_consequences_in_any_order() {
        use End::{Code, Signal, Unreachable};
        let live = |ends: &[End]| ends.iter().map(|end| (*end, false)).collect::<Vec<_>>();
        let ranked = [Code(1), Signal(9), Unreachable, Code(5), Code(6), Code(3), Code(0)];
        let wanted = [(1, false), (5, true), (5, true), (5, true), (6, false), (3, false), (0, false)];
        for (at, wanted) in wanted.iter().enumerate() {
            // What comes after it in rank never changes the verdict, before or behind it.
            for other in &ranked[at..] {
                for order in [[ranked[at], *other], [*other, ranked[at]]] {
                    let (code, lost, message) = judge(&live(&order));
                    assert_eq!((code, lost), *wanted, "{order:?}");
                    assert_eq!(message.is_empty(), ranked[at].is_success(), "{order:?}: {message}");
                }
            }
        }
        for code in [2, 4, 101, 130, 77] {
            assert_eq!(judge(&live(&[Code(5), Code(code), Signal(9)])).0, code);
        }
        // Of equal ones the first.
        assert_eq!(judge(&live(&[Code(0), Code(4), Code(1)])).0, 4);
        let (code, lost, message) = judge(&live(&[Code(6), Code(127)]));
        assert!(code == 2 && !lost && message.contains("--remote-program"), "{message}");
    }

    #[test]
    fn what_was_stopped_is_no_cause_unless_it_knows_better() {
        use End::{Code, Signal, Unreachable};
        for obeyed in [Code(130), Signal(9), Signal(15), Code(0), Unreachable, Code(5)] {
            assert_eq!(judge(&[(Code(5), false), (obeyed, true)]).2, "process 0 (h:1) ended with code 5");
            assert_eq!(judge(&[(obeyed, true), (obeyed, true)]).0, 130);
        }
        assert_eq!(judge(&[(Code(5), false), (Code(4), true)]).0, 4);
    }

    #[test]
    fn statuses_of_shells_are_read() {
        let exit = |code: i32, ssh| End::of(ExitStatus::from_raw(code << 8), ssh);
        assert_eq!(exit(137, false), End::Signal(9));
        assert_eq!(exit(130, true), End::Code(130));
        assert_eq!((exit(255, true), exit(255, false)), (End::Unreachable, End::Code(255)));
        assert_eq!(End::of(ExitStatus::from_raw(9), true), End::Signal(9));
        assert_eq!(End::Signal(9).to_string(), "was ended by signal 9 (SIGKILL)");
    }
}
