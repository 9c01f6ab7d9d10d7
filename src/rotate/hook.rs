//! The operator's program that knows the system a secret opens: run once for each step, a JSON line in and a JSON line out. Values go
//! through its standard input and output alone; it has no environment of ours. `docs/rotation.md` is the contract.

use std::{
    io::{self, Read, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    process::{PidfdFlags, pidfd_open},
};
use zeroize::Zeroizing;

use super::Step;
use crate::{
    alarm::hook::{kill_group, pid, start},
    name::{SecretName, Version, is_unprintable},
    secret::SecretValue,
    source::field::{Json, quoted},
};

/// No answer is longer: AWS keeps 64 KiB, and base64 with escapes takes twice that.
const LONGEST: usize = 256 * 1024;
/// What is kept of its complaints, and of the words of an error.
const COMPLAINTS: usize = 4096;
const WORDS: usize = 300;

/// What a step is told.
pub struct Told<'a> {
    pub step: Step,
    pub secret: &'a SecretName,
    pub token: &'a str,
    /// The value from before, where there still is one.
    pub old: Option<(&'a Version, &'a SecretValue)>,
    pub new: Option<&'a SecretValue>,
    /// Other secrets that it needs.
    pub with: &'a [(SecretName, SecretValue)],
}

/// What it answered.
#[derive(Debug, Default)]
pub struct Answer {
    /// The new value, from `create`.
    pub value: Option<SecretValue>,
    /// What it wrote to standard error. Not cleaned.
    pub complaints: Zeroizing<Vec<u8>>,
}

/// Why a step did not succeed.
#[derive(Debug)]
pub struct Failure {
    /// Not cleaned: a hook may say anything.
    pub words: String,
    /// It says that trying again makes no sense.
    pub is_final: bool,
    pub complaints: Zeroizing<Vec<u8>>,
}

impl Failure {
    fn new(words: impl Into<String>) -> Self {
        Self { words: words.into(), is_final: false, complaints: Zeroizing::default() }
    }
}

impl Told<'_> {
    /// One line of JSON, in a buffer that is large enough from the start.
    fn line(&self) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let old = self.old.map(|(version, value)| Ok((Some(version), text(value)?))).transpose()?;
        let new = self.new.map(text).transpose()?;
        let with = self.with.iter().map(|(name, value)| Ok((name, text(value)?))).collect::<Result<Vec<_>, Failure>>()?;
        let values = old.iter().map(|(_, text)| text).chain(&new).chain(with.iter().map(|(_, text)| text));
        let size = 1024 + values.map(|(_, text)| text.len() + 32).sum::<usize>() + with.len() * 160;
        let mut line = Zeroizing::new(Vec::with_capacity(size));
        // Names, tokens and words need no escapes; versions may.
        let (step, token, secret) = (self.step.word(), self.token, self.secret);
        line.extend_from_slice(
            format!("{{\"protocol\":1,\"step\":\"{step}\",\"rotation\":\"{token}\",\"secret\":\"{secret}\"").as_bytes(),
        );
        let mut object = |key: &str, version: Option<&Version>, value: &Text| {
            line.extend_from_slice(format!(",\"{key}\":{{").as_bytes());
            if let Some(version) = version {
                line.extend_from_slice(format!("\"version\":{},", serde_json::Value::from(version.as_str())).as_bytes());
            }
            line.extend_from_slice(value.0.as_bytes());
            line.extend_from_slice(&value.1);
            line.push(b'}');
        };
        if let Some((version, value)) = &old {
            object("old", *version, value);
        }
        if let Some(value) = &new {
            object("new", None, value);
        }
        line.extend_from_slice(b",\"with\":{");
        for (index, (name, value)) in with.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            line.extend_from_slice(format!("{comma}\"{name}\":{{{}", value.0).as_bytes());
            line.extend_from_slice(&value.1);
            line.push(b'}');
        }
        line.extend_from_slice(b"}}\n");
        Ok(line)
    }
}

/// A key with its colon, and a quoted text.
type Text = (&'static str, Zeroizing<Vec<u8>>);

fn text(value: &SecretValue) -> Result<Text, Failure> {
    let unwritten = |_| Failure::new("a value cannot be written as JSON");
    value.expose(|bytes| match std::str::from_utf8(bytes) {
        Ok(_) => Ok(("\"value\":", quoted(bytes).map_err(unwritten)?)),
        Err(_) => {
            let encoded = Zeroizing::new(BASE64_STANDARD.encode(bytes));
            Ok(("\"base64\":", quoted(encoded.as_bytes()).map_err(unwritten)?))
        }
    })
}

/// Runs one step, on the thread of the caller.
pub fn run(command: &[String], told: &Told<'_>, within: Duration) -> Result<Answer, Failure> {
    let line = told.line()?;
    let mut child = start(command, Stdio::piped()).map_err(Failure::new)?;
    let mut said = Said { answer: Zeroizing::new(Vec::with_capacity(LONGEST)), ..Said::default() };
    let ended = converse(&mut child, &line, within, &mut said);
    // Before it is waited for: until then nobody else can have its number.
    kill_group(&child);
    let status = child.wait();
    let Said { answer, complaints, too_long } = said;
    let failed = |words: String, is_final| Failure { words, is_final, complaints: complaints.clone() };
    match (ended, status) {
        (Ok(true), Ok(_)) if too_long => Err(failed(format!("the hook's answer is longer than {LONGEST} bytes"), false)),
        (Ok(true), Ok(status)) => match parse(&answer) {
            Ok(Parsed::Error { words, is_final }) => Err(failed(words, is_final)),
            Ok(Parsed::Value(value)) if status.success() => Ok(Answer { value, complaints }),
            _ if !status.success() => Err(failed(format!("the hook failed: {status}"), false)),
            _ => Err(failed("the hook's answer is not one line of JSON, such as {}".into(), false)),
        },
        (Ok(false), _) => Err(failed(format!("the hook took longer than {} s, and was killed", within.as_secs_f32()), false)),
        (Err(error), _) | (_, Err(error)) => Err(failed(format!("the hook cannot be waited for: {error}"), false)),
    }
}

enum Parsed {
    Value(Option<SecretValue>),
    Error { words: String, is_final: bool },
}

fn parse(answer: &[u8]) -> Result<Parsed, ()> {
    let json = Json::parse(answer).filter(|json| json.kind() == "an object").ok_or(())?;
    if let Some(error) = json.at("error") {
        let words = error.leaf().and_then(Result::ok).ok_or(())?;
        let words =
            words.expose(|bytes| String::from_utf8_lossy(bytes).chars().filter(|c| !is_unprintable(*c)).take(WORDS).collect());
        return Ok(Parsed::Error { words, is_final: json.at("retry").is_some_and(|retry| retry.text() == b"false") });
    }
    let value = match (json.at("value"), json.at("base64")) {
        (Some(value), _) if value.kind() == "a text" => Some(value.leaf().and_then(Result::ok).ok_or(())?),
        (None, Some(encoded)) => {
            let encoded = encoded.leaf().and_then(Result::ok).ok_or(())?;
            let decoded = encoded.expose(|text| BASE64_STANDARD.decode(text)).map_err(|_| ())?;
            Some(SecretValue::copy_from_wiping(decoded).map_err(|_| ())?)
        }
        (None, None) => None,
        _ => return Err(()),
    };
    Ok(Parsed::Value(value.filter(|value| !value.is_empty())))
}

#[derive(Default)]
struct Said {
    answer: Zeroizing<Vec<u8>>,
    complaints: Zeroizing<Vec<u8>>,
    too_long: bool,
}

/// Writes the line and reads all that it says until it has ended. `false`: it takes too long.
fn converse(child: &mut Child, line: &[u8], within: Duration, said: &mut Said) -> io::Result<bool> {
    let begun = Instant::now();
    let pidfd = pidfd_open(pid(child)?, PidfdFlags::empty())?;
    let (mut input, mut output, mut errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    if let Some(input) = &input {
        // It may answer before it has read everything.
        fcntl_setfl(input, fcntl_getfl(input)? | OFlags::NONBLOCK)?;
    }
    let mut written = 0;
    let mut piece = Zeroizing::new([0; 4096]);
    loop {
        let Some(left) = within.checked_sub(begun.elapsed()) else { return Ok(false) };
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let ready = {
            let mut all = [
                PollFd::new(&pidfd, PollFlags::IN),
                watched(input.as_ref().map(AsFd::as_fd), PollFlags::OUT, &pidfd),
                watched(output.as_ref().map(AsFd::as_fd), PollFlags::IN, &pidfd),
                watched(errors.as_ref().map(AsFd::as_fd), PollFlags::IN, &pidfd),
            ];
            match poll(&mut all, Some(&timeout)) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let open = [true, input.is_some(), output.is_some(), errors.is_some()];
            std::array::from_fn::<bool, 4, _>(|at| open[at] && !all[at].revents().is_empty())
        };
        if ready[1]
            && let Some(to) = &mut input
        {
            match to.write(&line[written..]) {
                Ok(more) => written += more,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // A hook that does not read it has decided to do without.
                Err(_) => written = line.len(),
            }
            if written == line.len() {
                input = None;
            }
        }
        let mut read_any = false;
        if ready[2] {
            read_any = true;
            let room = LONGEST - said.answer.len();
            match output.as_mut().map(|from| from.read(&mut *piece)).transpose()?.unwrap_or(0) {
                0 => output = None,
                read if read > room => said.too_long = true,
                read => said.answer.extend_from_slice(&piece[..read]),
            }
        }
        if ready[3] {
            read_any = true;
            match errors.as_mut().map(|from| from.read(&mut *piece)).transpose()?.unwrap_or(0) {
                0 => errors = None,
                read => {
                    let room = COMPLAINTS.saturating_sub(said.complaints.len());
                    said.complaints.extend_from_slice(&piece[..read.min(room)]);
                }
            }
        }
        // All that it said before it ended is read first.
        if ready[0] && !read_any {
            return Ok(true);
        }
    }
}

/// What is closed has the pidfd stand in its place, asked for nothing.
fn watched<'a>(fd: Option<BorrowedFd<'a>>, flags: PollFlags, pidfd: &'a OwnedFd) -> PollFd<'a> {
    fd.map_or_else(|| PollFd::new(pidfd, PollFlags::empty()), |fd| PollFd::from_borrowed_fd(fd, flags))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    fn script(folder: &Path, text: &str) -> Vec<String> {
        vec![crate::alarm::hook::script(folder, text), "an-argument".into()]
    }

    fn told(step: Step, check: impl FnOnce(&Told<'_>)) {
        let (old, new) = (SecretValue::copy_from(b"old \"value\"").unwrap(), SecretValue::copy_from(b"\xff new").unwrap());
        let with = [("db/admin".parse().unwrap(), SecretValue::copy_from(b"admin").unwrap())];
        let (secret, version) = ("db/url".parse().unwrap(), Version::from(3));
        check(&Told { step, secret: &secret, token: "0a", old: Some((&version, &old)), new: Some(&new), with: &with });
    }

    const WITHIN: Duration = Duration::from_secs(10);

    #[test]
    fn it_is_told_what_it_needs_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let hook = script(
            folder.path(),
            &format!(
                "{{ cat; echo \"$1\"; env; pwd; }} > {}; echo complaint >&2; echo '{{\"value\":\"v\\u0041\"}}'",
                out.display()
            ),
        );
        told(Step::Create, |told| {
            let answer = run(&hook, told, WITHIN).unwrap();
            answer.value.unwrap().expose(|bytes| assert_eq!(bytes, b"vA"));
            assert_eq!(&**answer.complaints, b"complaint\n");
        });
        let said = fs::read_to_string(out).unwrap();
        let lines: Vec<_> = said.lines().filter(|line| !line.starts_with("_=") && !line.starts_with("SHLVL=")).collect();
        let line = r#"{"protocol":1,"step":"create","rotation":"0a","secret":"db/url","old":{"version":"3","value":"old \"value\""},"new":{"base64":"/yBuZXc="},"with":{"db/admin":{"value":"admin"}}}"#;
        assert_eq!(lines, [line, "an-argument", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "PWD=/", "/"]);
    }

    #[test]
    fn whatever_it_does_there_is_an_end() {
        let folder = tempfile::tempdir().unwrap();
        let fails = |text: &str, within: Duration| {
            let hook = script(folder.path(), text);
            let mut failed = None;
            let begun = Instant::now();
            told(Step::Set, |told| failed = Some(run(&hook, told, within).unwrap_err()));
            assert!(begun.elapsed() < Duration::from_secs(8));
            let failed = failed.unwrap();
            (failed.words, failed.is_final)
        };
        assert_eq!(fails("echo '{\"error\":\"no\\u0007pe\"}'", WITHIN), ("nope".into(), false));
        assert_eq!(fails("echo '{\"error\":\"never\",\"retry\":false}'; exit 1", WITHIN), ("never".into(), true));
        assert!(fails("cat >/dev/null; exit 3", WITHIN).0.contains("exit status: 3"));
        for nonsense in ["", "echo not json", "echo '[]'", "echo '{\"value\":7}'", "echo '{}'; echo '{}'"] {
            assert!(fails(nonsense, WITHIN).0.contains("not one line of JSON"), "{nonsense}");
        }
        assert!(fails("head -c 1000000 /dev/zero", WITHIN).0.contains("longer than"));
        let short = Duration::from_millis(300);
        for endless in ["sleep 60", "sleep 60 & sleep 60", "while :; do echo noise >&2; done", "exec >&-; sleep 60"] {
            assert!(fails(endless, short).0.contains("was killed"), "{endless}");
        }
    }

    #[test]
    fn a_hook_that_does_not_read_and_one_that_leaves_a_child_are_heard() {
        let folder = tempfile::tempdir().unwrap();
        for text in ["exec <&-; echo '{}'", "sleep 60 & echo '{}'"] {
            let hook = script(folder.path(), text);
            let begun = Instant::now();
            told(Step::Test, |told| assert!(run(&hook, told, WITHIN).unwrap().value.is_none(), "{text}"));
            assert!(begun.elapsed() < Duration::from_secs(5), "{text}");
        }
    }

    #[test]
    fn a_long_value_goes_through() {
        let folder = tempfile::tempdir().unwrap();
        let hook = script(folder.path(), "read -r line; printf '{\"value\":\"%s\"}\\n' \"$(printf %s \"$line\" | wc -c)\"");
        let long = SecretValue::copy_from(&[b'x'; 200_000]).unwrap();
        let (secret, version) = ("db/url".parse().unwrap(), Version::from(3));
        let told = Told { step: Step::Create, secret: &secret, token: "0a", old: Some((&version, &long)), new: None, with: &[] };
        run(&hook, &told, WITHIN).unwrap().value.unwrap().expose(|bytes| {
            let length: usize = std::str::from_utf8(bytes).unwrap().parse().unwrap();
            assert!(length > 200_000);
        });
    }
}
