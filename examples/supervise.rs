//! Starts a program as `valetkey run` does, without a broker and with a filter that changes nothing. For tests and benchmarks of
//! the process half alone.
//!
//!     supervise [--relay-input] [--stay] [--replace] [--confined] [--stop-at TEXT] [--restart-file FILE] -- PROGRAM ARGS...

use std::{
    env,
    ffi::{CString, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    process::ExitCode,
};

use valetkey::run::process::{
    self, Channel, Confinement, Filter, Guardian, Limit, NotStarted, Signals, Start, Variable, Verdict, find,
};

/// Passes everything, unless it holds a word that it was told of.
struct Identity(Option<Vec<u8>>);

impl Filter for Identity {
    fn push(&mut self, _: Channel, bytes: &[u8], out: &mut Vec<u8>) -> Verdict {
        if self.0.as_ref().is_some_and(|word| bytes.windows(word.len()).any(|window| window == word)) {
            return Verdict::Stop;
        }
        out.extend_from_slice(bytes);
        Verdict::Pass
    }

    fn finish(&mut self, _: Channel, _: &mut Vec<u8>) -> Verdict {
        Verdict::Pass
    }
}

#[derive(Clone, Default)]
struct Asked {
    relay_input: bool,
    stay: bool,
    replace: bool,
    confined: bool,
    stop_at: Option<OsString>,
    /// A file; each time that it appears the tool is restarted, and the file removed.
    restart_file: Option<OsString>,
    command: Vec<OsString>,
}

#[global_allocator]
static ALLOCATOR: valetkey::secret::WipingAllocator<std::alloc::System> =
    valetkey::secret::WipingAllocator::over(std::alloc::System);

fn main() -> ExitCode {
    let asked = parse();
    let guardian = Guardian::new().unwrap();
    let outcome = if asked.replace {
        drop(guardian);
        start(&asked, 0).map(|start| Err(process::replace(&start, None)))
    } else {
        start(&asked, 0).map(|start| supervise(&asked, guardian, start))
    };
    match outcome.and_then(|outcome| outcome) {
        Ok(ended) => ExitCode::from(ended.code),
        Err(error) => {
            eprintln!("supervise: {error}");
            ExitCode::from(error.code())
        }
    }
}

fn supervise(asked: &Asked, guardian: Guardian, start: Start) -> Result<process::Ended, NotStarted> {
    let signals = Signals::hold().unwrap();
    let (sender, events) = process::channel().unwrap();
    if let Some(file) = asked.restart_file.clone() {
        let asked = asked.clone();
        std::thread::spawn(move || watch(&asked, &file.into(), &sender));
    }
    let mut filter = Identity(asked.stop_at.as_ref().map(|word| word.as_bytes().to_vec()));
    process::supervise(guardian, &signals, start, &mut filter, &events)
}

fn watch(asked: &Asked, file: &std::path::PathBuf, sender: &process::Sender) {
    let mut version = 0;
    loop {
        if let Ok(text) = std::fs::read_to_string(file) {
            let _ = std::fs::remove_file(file);
            for _ in 0..text.trim().parse().unwrap_or(1) {
                version += 1;
                if let Ok(start) = self::start(asked, version) {
                    sender.restart(Box::new(start));
                }
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

fn start(asked: &Asked, version: u32) -> Result<Start, NotStarted> {
    let path = env::var_os("PATH");
    let environment = env::vars_os().filter_map(|(name, value)| Variable::new(name.as_bytes(), value.as_bytes()));
    let version = Variable::new(b"VERSION", version.to_string().as_bytes());
    Ok(Start {
        program: find(&asked.command[0], path.as_deref())?,
        arguments: asked.command.iter().map(|text| CString::new(text.clone().into_vec()).unwrap()).collect(),
        environment: environment.chain(version).collect(),
        keep: Vec::new(),
        confinement: asked.confined.then(confinement),
        relay_input: asked.relay_input,
        ends_with_input: !asked.stay,
    })
}

/// Some of each kind: a limit, no capabilities, and a seccomp filter that allows everything.
fn confinement() -> Confinement {
    let allow = [6, 0, 0, 0, 0, 0, 0xff, 0x7f];
    Confinement {
        no_new_privileges: true,
        no_capabilities: true,
        seccomp: vec![allow],
        limits: vec![Limit { resource: 7, soft: 99, hard: 100 }],
        ..Confinement::default()
    }
}

fn parse() -> Asked {
    let (mut asked, mut arguments) = (Asked::default(), env::args_os().skip(1));
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--relay-input") => asked.relay_input = true,
            Some("--stay") => asked.stay = true,
            Some("--confined") => asked.confined = true,
            Some("--replace") => asked.replace = true,
            Some("--stop-at") => asked.stop_at = arguments.next(),
            Some("--restart-file") => asked.restart_file = arguments.next(),
            _ => break,
        }
    }
    asked.command = arguments.collect();
    asked
}
