//! `valetkey seal` and `unseal`: the sealed file of a single machine. A value comes in on standard input or at a prompt that does not
//! echo, never as an argument: arguments are public.

use std::{
    fs::OpenOptions,
    io::{IsTerminal, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use secrecy::ExposeSecret;
use zeroize::Zeroizing;

use super::{FAILED, Failure, Outcome, USAGE, keep_off_terminals, table::layout};
use crate::{
    name::SecretName,
    secret::SecretValue,
    source::{
        SourceError,
        sealed_file::{Identity, SealedFile},
    },
};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  valetkey seal init\n  printf %s \"$KEY\" | valetkey seal set stripe/api-key\n  \
    valetkey seal set stripe/api-key             asks, without echo\n  valetkey seal list")]
pub struct SealArgs {
    #[command(subcommand)]
    command: SealCommand,
    #[command(flatten)]
    place: Place,
}

/// Where the file and its key are.
#[derive(Debug, clap::Args)]
struct Place {
    /// The sealed file
    #[arg(long, global = true, value_name = "PATH", default_value = "/etc/valetkey/secrets.sealed")]
    file: PathBuf,
    /// The identity that opens it: an age X25519 key, readable by its owner alone
    #[arg(long, global = true, value_name = "PATH", default_value = "/etc/valetkey/identity.key")]
    identity: PathBuf,
}

#[derive(Debug, clap::Subcommand)]
enum SealCommand {
    /// Make an empty sealed file, and an identity where there is none
    Init,
    /// Put in a secret, or a new version of one; the value comes from standard input
    Set {
        name: String,
        /// Keep the line break at the end of the input, which is left out otherwise
        #[arg(long)]
        keep_newline: bool,
    },
    /// Take a secret out
    Remove { name: String },
    /// List names and versions, never values
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  valetkey unseal stripe/api-key | wc -c")]
pub struct UnsealArgs {
    name: String,
    #[command(flatten)]
    place: Place,
    /// Print even where standard output is a terminal
    #[arg(long)]
    reveal: bool,
}

/// No value is longer: AWS Secrets Manager stops at 64 KiB.
const LONGEST: u64 = 1024 * 1024;

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        Self { code: FAILED, what: error.detail, hint: None }
    }
}

impl Place {
    fn open(&self) -> Result<SealedFile, Failure> {
        if !self.file.exists() {
            let what = format!("there is no {}", self.file.display());
            return Err(Failure::new(FAILED, what, "make one with: valetkey seal init --file PATH --identity PATH"));
        }
        Ok(SealedFile::open(&self.file, &Identity::read(&self.identity)?)?)
    }
}

fn name(text: &str) -> Result<SecretName, Failure> {
    text.parse().map_err(|bad: crate::name::BadName| Failure::new(USAGE, bad.to_string(), "such as: stripe/api-key"))
}

pub fn seal(args: &SealArgs) -> Outcome {
    let place = &args.place;
    match &args.command {
        SealCommand::Init => init(place),
        SealCommand::Set { name: text, keep_newline } => {
            let name = name(text)?;
            let value = read_value(&name, *keep_newline)?;
            let mut file = place.open()?;
            let version = file.set(&name, &value)?;
            file.save()?;
            eprintln!("{name} is sealed as version {version} in {}; tell the daemon with: valetkey reload", place.file.display());
            Ok(())
        }
        SealCommand::Remove { name: text } => {
            let name = name(text)?;
            let mut file = place.open()?;
            if !file.remove(&name) {
                return Err(Failure::new(FAILED, format!("{} holds no {name}", place.file.display()), "valetkey seal list"));
            }
            file.save()?;
            eprintln!("{name} is gone from {}", place.file.display());
            Ok(())
        }
        SealCommand::List { json } => list(&place.open()?, *json),
    }
}

fn init(place: &Place) -> Outcome {
    let identity = if place.identity.exists() { Identity::read(&place.identity)? } else { make_identity(&place.identity)? };
    SealedFile::create(&place.file, &[identity.recipient()])?;
    eprintln!("made {}, sealed to {}", place.file.display(), identity.recipient());
    eprintln!("keep {} safe and apart from backups of the file: whoever has both has every secret", place.identity.display());
    Ok(())
}

/// Writes a new identity that its owner alone can read, before a byte of it is in the file.
pub(super) fn make_identity(path: &Path) -> Result<Identity, Failure> {
    let (secret, _) = Identity::generate();
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|error| {
        Failure::new(FAILED, format!("cannot make {}: {error}", path.display()), "--identity PATH names another place")
    })?;
    file.write_all(secret.expose_secret().as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    Ok(Identity::read(path)?)
}

fn list(file: &SealedFile, json: bool) -> Outcome {
    #[derive(serde::Serialize)]
    struct Row<'a> {
        name: &'a str,
        version: u64,
    }
    let rows: Vec<_> = file.names().map(|name| Row { name: name.as_str(), version: file.version(name).unwrap_or(0) }).collect();
    if json {
        let listing = serde_json::json!({ "secrets": rows });
        println!("{}", serde_json::to_string_pretty(&listing).map_err(std::io::Error::other)?);
    } else {
        let rows: Vec<_> = rows.iter().map(|row| vec![row.name.to_owned(), row.version.to_string()]).collect();
        print!("{}", layout(&["SECRET", "VERSION"], &rows));
    }
    Ok(())
}

pub fn unseal(args: &UnsealArgs) -> Outcome {
    let mut out = std::io::stdout();
    keep_off_terminals(args.reveal)?;
    let name = name(&args.name)?;
    let file = args.place.open()?;
    let value = file
        .get(&name)
        .ok_or_else(|| Failure::new(FAILED, format!("{} holds no {name}", args.place.file.display()), "valetkey seal list"))?;
    Ok(value.expose(|bytes| out.write_all(bytes).and_then(|()| out.flush()))?)
}

fn read_value(name: &SecretName, keep_newline: bool) -> Result<SecretValue, Failure> {
    let stdin = std::io::stdin();
    // Enough at once for all but the largest: a buffer that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(64 * 1024));
    if stdin.is_terminal() {
        eprint!("{name}: ");
        let quiet = Quiet::start()?;
        let mut byte = Zeroizing::new([0]);
        // Byte by byte from the descriptor: the standard library's buffer would keep the line.
        while rustix::io::read(&stdin, &mut *byte).map_err(std::io::Error::from)? == 1 && byte[0] != b'\n' {
            bytes.push(byte[0]);
        }
        drop(quiet);
        eprintln!();
    } else {
        std::fs::File::open("/dev/stdin")?.take(LONGEST + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > LONGEST {
            return Err(Failure::new(USAGE, "the value is longer than 1 MiB", "a secret is a key, not a file"));
        }
        if !keep_newline && bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
    }
    if bytes.is_empty() {
        return Err(Failure::new(USAGE, "the value is empty", "pipe it in: printf %s \"$KEY\" | valetkey seal set NAME"));
    }
    SecretValue::copy_from(&bytes).map_err(|unprotected| Failure { code: FAILED, what: unprotected.to_string(), hint: None })
}

/// The terminal without echo, for as long as this lives.
struct Quiet(rustix::termios::Termios);

impl Quiet {
    fn start() -> Result<Self, Failure> {
        let before = tcgetattr(std::io::stdin()).map_err(std::io::Error::from)?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(std::io::stdin(), OptionalActions::Flush, &quiet).map_err(std::io::Error::from)?;
        Ok(Self(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, &self.0);
    }
}
