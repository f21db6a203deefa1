//! What the shell of a host is told.
//!
//! The shell is started by [`BOOT`], one fixed line in which every login shell sees the same words, and reads a program of so many bytes from its standard input: the folder, the variables
//! (the secret among them), the host file, and the command with every argument in single quotes. Then it holds its input open for the watcher, which ends the process group once the input
//! ends. The program stands in braces, so that a half of it is a syntax error and nothing runs.

use super::job::Variable;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Starts a shell that takes its program from its input: a line with the number of its bytes, then the program.
pub const BOOT: &str =
    r#"exec /bin/sh -c 'IFS= read -r n && p=$(dd bs=1 count="$n" 2>/dev/null) && [ -n "$p" ] && eval "$p"'"#;

/// What one process is.
pub struct Start<'a> {
    /// Where it runs.
    pub folder: &'a Path,
    /// The program and its arguments, but for `--hosts` and `--process`.
    pub command: &'a [OsString],
    /// Variables to set.
    pub variables: &'a [&'a Variable],
    /// The host file.
    pub hosts: HostFile<'a>,
    /// Its index.
    pub process: usize,
    /// Seconds between the request to end and the kill.
    pub grace: u64,
}

/// How a process is given the host file.
pub enum HostFile<'a> {
    /// It is there.
    At(&'a Path),
    /// Its text, of which the shell makes a temporary file for as long as the process runs.
    Copy(&'a str),
}

/// The input of the shell of a process, up to where it is held open.
pub fn script(start: &Start<'_>) -> Vec<u8> {
    let mut text = Vec::new();
    let mut add = |parts: &[&[u8]]| {
        parts.iter().for_each(|part| text.extend_from_slice(part));
        text.push(b'\n');
    };
    let folder = quoted(start.folder.as_os_str());
    add(&[b"{ exec 3<&0 </dev/null"]);
    add(&[
        b"cd ",
        &folder,
        b" 2>/dev/null || { printf 'error: this host has no folder %s: make it, or name another one with --remote-folder\\n' ",
        &folder,
        b" >&2; exit 2; }",
    ]);
    for Variable { name, value } in start.variables {
        add(&[name.as_bytes(), b"=", &quoted(value), b"; export ", name.as_bytes()]);
    }
    match start.hosts {
        HostFile::At(path) => add(&[b"copy=; hosts=", &quoted(path.as_os_str())]),
        HostFile::Copy(hosts) => {
            add(&[b"hosts=$(mktemp \"${TMPDIR:-/tmp}/nystream.hosts.XXXXXX\") || exit 1; copy=$hosts"]);
            add(&[b"printf %s ", &quoted(OsStr::new(hosts)), b" >\"$hosts\" || exit 1"]);
        }
    }
    // The shell outlives what ends the group, to give the exit code; the watcher, to kill what does not end. It asks each second: the program may not have begun at first.
    add(&[b"trap : TERM HUP"]);
    add(&[b"( trap '' TERM HUP; while IFS= read -r line; do :; done; t=0"]);
    add(&[b"  while [ $t -lt ", start.grace.to_string().as_bytes(), b" ]; do kill -TERM 0; sleep 1; t=$((t+1)); done"]);
    add(&[b"  [ -z \"$copy\" ] || rm -f \"$copy\"; kill -KILL 0 ) <&3 >/dev/null 2>&1 &"]);
    add(&[b"watcher=$!"]);
    let command: Vec<Vec<u8>> = start.command.iter().map(|word| quoted(word)).collect();
    let process = start.process.to_string();
    // Results are those of process 0; what another prints is for people.
    let apart: &[u8] = if start.process == 0 { b"" } else { b" >&2" };
    add(&[&command.join(&b' '), b" --hosts \"$hosts\" --process ", process.as_bytes(), b" 3<&-", apart]);
    add(&[b"code=$?; exec 2>/dev/null 3<&-; kill -KILL $watcher"]);
    add(&[b"[ -z \"$copy\" ] || rm -f \"$copy\"; exit $code; }"]);
    [format!("{}\n", text.len()).into_bytes(), text].concat()
}

/// A word as every POSIX shell reads it again, whatever it holds.
fn quoted(word: &OsStr) -> Vec<u8> {
    let mut quoted = vec![b'\''];
    for byte in word.as_bytes() {
        match byte {
            b'\'' => quoted.extend_from_slice(br"'\''"),
            byte => quoted.push(*byte),
        }
    }
    quoted.push(b'\'');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::ffi::OsStringExt;
    use std::process::{Command, Stdio};

    /// Runs a shell by [`BOOT`] on `input`, after which its standard input ends when the shell has.
    fn shell(input: &[u8], through: &str) -> std::process::Output {
        let mut child = Command::new(through)
            .args(["-c", BOOT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        drop(stdin);
        output
    }

    /// Words that shells like to take apart.
    fn odd() -> Vec<OsString> {
        let text = [
            "",
            " ",
            "a b",
            "it's",
            "\"$HOME\"",
            "`id`",
            "$(id)",
            "\\",
            "\\n",
            "a\nb\n",
            "*",
            "~",
            "!!",
            "ünï→",
            "-n",
            "%s",
            "#",
            ";&|<>(){}[]",
            "''",
            "\t",
        ];
        let bytes = OsString::from_vec((1..=255).collect());
        text.iter().map(OsString::from).chain([bytes]).collect()
    }

    #[test]
    fn every_argument_arrives_as_it_is() {
        // Each argument between markers, NUL after each.
        let mut command: Vec<OsString> =
            ["/bin/sh", "-c", r#"printf '%s\0' "$SOME" "$@"; exit 7"#, "name"].map(Into::into).to_vec();
        command.extend(odd());
        let value = OsString::from("it's a \"value\"\nof $two lines");
        let variables = [&Variable { name: "SOME".into(), value: value.clone() }];
        let start = Start {
            folder: Path::new("/"),
            command: &command,
            variables: &variables,
            hosts: HostFile::At(Path::new("a b")),
            process: 0,
            grace: 1,
        };
        for through in ["/bin/sh", "bash"] {
            let output = shell(&script(&start), through);
            assert_eq!(output.status.code(), Some(7), "{}", String::from_utf8_lossy(&output.stderr));
            let words: Vec<&[u8]> = output.stdout.split(|byte| *byte == 0).collect();
            let mut wanted = vec![value.clone()];
            wanted.extend(odd());
            wanted.extend(["--hosts", "a b", "--process", "0", ""].map(Into::into));
            assert_eq!(words, wanted.iter().map(|word| word.as_bytes()).collect::<Vec<_>>(), "{through}");
        }
    }

    #[test]
    fn a_copy_of_the_host_file_lives_as_long_as_the_process() {
        let command: Vec<OsString> = ["/bin/sh", "-c", r#"cat "$2"; echo "$2" >&2"#, "name"].map(Into::into).to_vec();
        let hosts = "alpha:4100\nbeta:4101\n";
        let start = Start {
            folder: Path::new("/"),
            command: &command,
            variables: &[],
            hosts: HostFile::Copy(hosts),
            process: 0,
            grace: 1,
        };
        let output = shell(&script(&start), "/bin/sh");
        assert_eq!(String::from_utf8_lossy(&output.stdout), hosts);
        let path = String::from_utf8(output.stderr).unwrap();
        assert!(path.contains("nystream.hosts.") && !Path::new(path.trim()).exists(), "{path}");
    }

    #[test]
    fn half_a_program_runs_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let command: Vec<OsString> = ["/bin/sh", "-c", "touch ran"].map(Into::into).to_vec();
        let start = Start {
            folder: folder.path(),
            command: &command,
            variables: &[],
            hosts: HostFile::At(Path::new("h")),
            process: 0,
            grace: 1,
        };
        let whole = script(&start);
        let number = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        let eighths = (1..8).map(|share| whole.len() * share / 8);
        for length in eighths.chain([0, number - 1, number, whole.len() - 3]) {
            let mut child =
                Command::new("/bin/sh").args(["-c", BOOT]).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
            child.stdin.take().unwrap().write_all(&whole[..length]).unwrap();
            assert!(!child.wait().unwrap().success(), "{length} of {} bytes", whole.len());
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "{length} of {} bytes", whole.len());
        }
        let output = shell(&whole, "/bin/sh");
        assert!(output.status.success() && folder.path().join("ran").exists());
    }

    #[test]
    fn an_absent_folder_is_named_with_the_remedy() {
        let start = Start {
            folder: Path::new("/no/such folder"),
            command: &["true".into()],
            variables: &[],
            hosts: HostFile::At(Path::new("h")),
            process: 1,
            grace: 1,
        };
        let output = shell(&script(&start), "/bin/sh");
        assert_eq!(output.status.code(), Some(2));
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains("/no/such folder") && error.contains("--remote-folder"), "{error}");
    }
}
