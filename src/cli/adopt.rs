//! `valetkey adopt`: takes the secrets out of an MCP client's file, and puts `valetkey run` in the place of its servers' commands.
//!
//! The order is what makes it safe: the values are sealed and read back, the way back is kept, the policy is written and checked, and
//! only then does the client's file change, by a rename. Whatever fails before that leaves it as it was.

mod edit;
mod elsewhere;
mod files;
mod json;
mod launch;
mod names;
mod plan;
mod policy;
mod report;
mod servers;
mod shown;
mod store;
mod study;
mod suspect;
mod undo;
mod words;
mod write;

use std::path::{Path, PathBuf};

use self::{
    files::Target,
    plan::Plan,
    policy::Policy,
    report::{FileReport, Mode},
    store::{Place, Store},
    study::Choices,
};
use super::{DENIED, FAILED, Failure, Outcome, USAGE};
use crate::daemon;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "The values go into the sealed file, each server gets a file in tools.d/, and the client starts `valetkey run SERVER` \
    from then on. No value is printed, in no diff either. The way back is kept sealed: --undo restores the file byte for byte.\n\n\
    With --dry-run the exit code is 3 where there is something to adopt, or a secret that has to stay in plain text; 0 where there is no \
    secret.\n\n\
    Examples:\n  valetkey adopt --dry-run .mcp.json                     what would change, as a diff\n  \
    valetkey adopt ~/.cursor/mcp.json\n  \
    valetkey adopt .vscode/mcp.json --only github\n  \
    valetkey adopt .mcp.json --secret db:PGHOST --keep web:SESSION_KEY\n  \
    valetkey adopt .mcp.json --store aws --prefix prod/mcp  prints the commands that store the values\n  \
    valetkey adopt --undo .mcp.json"
)]
pub struct Args {
    /// The client's file: claude_desktop_config.json, .mcp.json, .cursor/mcp.json, .vscode/mcp.json, ~/.claude.json
    #[arg(value_name = "FILE", required_unless_present = "all_known")]
    files: Vec<PathBuf>,
    /// All files of clients that this user and this folder have, in their usual places
    #[arg(long, conflicts_with = "undo")]
    all_known: bool,
    /// Write nothing; print the diff of every file
    #[arg(long)]
    dry_run: bool,
    /// Restore the file as it was
    #[arg(long, conflicts_with_all = ["only", "secret", "keep", "store"])]
    undo: bool,
    /// Restore it even where it has been changed since
    #[arg(long, requires = "undo")]
    force: bool,
    /// Only this server; may be repeated
    #[arg(long, value_name = "SERVER")]
    only: Vec<String>,
    /// Take this variable, option or header for a secret: its name, or `args[N]`
    #[arg(long, value_name = "SERVER:NAME", value_parser = choice)]
    secret: Vec<(String, String)>,
    /// Do not take it for one
    #[arg(long, value_name = "SERVER:NAME", value_parser = choice)]
    keep: Vec<(String, String)>,
    /// The main configuration file; tools.d is beside it [default: /etc/valetkey/valetkey.toml for root,
    /// ~/.config/valetkey/valetkey.toml for others]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Who starts the servers [default: the owner of the client's file]
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// The sealed file [default: the configured one, or secrets.sealed beside the configuration]
    #[arg(long, value_name = "PATH")]
    sealed: Option<PathBuf>,
    /// The identity that opens it [default: the configured one, or identity.key beside the configuration]
    #[arg(long, value_name = "PATH")]
    identity: Option<PathBuf>,
    /// Print the commands that move the values on into the configured source of this kind
    #[arg(long, value_name = "aws|vault")]
    store: Option<Store>,
    /// What the names in that source begin with
    #[arg(long, value_name = "PREFIX", default_value = "mcp", requires = "store")]
    prefix: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn choice(text: &str) -> Result<(String, String), String> {
    // A server's name may hold a colon; a variable's may not.
    match text.rsplit_once(':') {
        Some((server, name)) if !server.is_empty() && !name.is_empty() => Ok((server.into(), name.into())),
        _ => Err("such as github:GITHUB_TOKEN".into()),
    }
}

pub fn run(args: &Args) -> Outcome {
    let main = std::path::absolute(args.config.clone().unwrap_or_else(default_config))?;
    let mut policy = Policy::read(&main)?;
    let place = Place::choose(args.sealed.as_deref(), args.identity.as_deref(), &policy)?;
    if args.undo {
        return undo_all(args, &main, &place);
    }
    let files = files(args)?;
    let mut reports: Vec<FileReport> = Vec::new();
    let mode = Mode { dry_run: args.dry_run, json: args.json };
    for file in &files {
        match one(args, file, &mut policy, &place) {
            Ok(report) if args.json => reports.push(report),
            Ok(report) => {
                report.print(mode);
                reports.push(report);
            }
            // What was done before is done: it is said before what failed.
            Err(failure) => {
                report::print_json(mode, &reports)?;
                return Err(failure);
            }
        }
    }
    report::print_json(mode, &reports)?;
    let found = reports.iter().any(FileReport::holds_secrets);
    if args.dry_run && found { Err(Failure::silent(DENIED)) } else { Ok(()) }
}

/// The use case, for one file.
fn one(args: &Args, file: &Path, policy: &mut Policy, place: &Place) -> Result<FileReport, Failure> {
    let target = Target::read(file)?;
    let plan = Plan::make(args, &target, policy, place)?;
    if args.dry_run {
        let report = FileReport::of(&target, &plan, policy, None)?;
        policy.written(policy.after()?);
        return Ok(report);
    }
    let undo = if plan.adopts() { Some(write::write(&target, &plan, policy, place)?) } else { None };
    let report = FileReport::of(&target, &plan, policy, undo)?;
    policy.written(policy.after()?);
    Ok(report)
}

fn undo_all(args: &Args, main: &Path, place: &Place) -> Outcome {
    let identity = place.identity()?;
    for file in &args.files {
        let undone = undo::undo(file, main, &identity, args.force, args.dry_run)?;
        report::print_undone(&undone, args.dry_run, args.json)?;
    }
    Ok(())
}

fn files(args: &Args) -> Result<Vec<PathBuf>, Failure> {
    if !args.all_known {
        return Ok(args.files.clone());
    }
    let home = std::env::home_dir().unwrap_or_default();
    let of_user = [
        ".claude.json",
        ".config/Claude/claude_desktop_config.json",
        ".cursor/mcp.json",
        ".config/Code/User/mcp.json",
        ".copilot/mcp-config.json",
    ];
    let of_project = [".mcp.json", ".cursor/mcp.json", ".vscode/mcp.json"];
    let known = of_user.iter().map(|name| home.join(name)).chain(of_project.iter().map(PathBuf::from));
    let mut files = args.files.clone();
    for file in known.filter(|file| file.exists()) {
        let same = |other: &PathBuf| other.canonicalize().ok() == file.canonicalize().ok();
        // A file in a usual place need not list servers: .claude.json holds much else.
        if !files.iter().any(same) && lists_servers(&file) {
            files.push(file);
        }
    }
    match files.is_empty() {
        true => Err(Failure::new(FAILED, "no client's file is in its usual place", "name it: valetkey adopt FILE")),
        false => Ok(files),
    }
}

/// One that cannot be read counts: why not is then said.
fn lists_servers(file: &Path) -> bool {
    let Ok(target) = Target::read(file) else { return true };
    target.text().map_or(true, |text| json::parse(text).map_or(true, |document| servers::find(&document).is_ok()))
}

/// Where this user's daemon is configured.
fn default_config() -> PathBuf {
    let system = PathBuf::from(daemon::DEFAULT_CONFIG);
    let folder = system.parent().unwrap_or(Path::new("/"));
    let ours = rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_ok();
    let own = std::env::home_dir().map(|home| home.join(".config/valetkey/valetkey.toml"));
    if rustix::process::geteuid().is_root() || ours { system } else { own.unwrap_or(system) }
}

/// The user and group of an account of this host.
fn account_named(name: &str) -> Option<(u32, u32)> {
    accounts().find(|(found, ..)| found == name).map(|(_, uid, gid)| (uid, gid))
}

/// An account's name where the host's own list has it, its number otherwise.
fn account_of(uid: u32) -> String {
    accounts().find(|(_, found, _)| *found == uid).map_or_else(|| uid.to_string(), |(name, ..)| name)
}

fn accounts() -> impl Iterator<Item = (String, u32, u32)> {
    let list = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let account = |line: &str| {
        let mut parts = line.split(':');
        let name = parts.next()?.to_owned();
        Some((name, parts.nth(1)?.parse().ok()?, parts.next()?.parse().ok()?))
    };
    list.lines().filter_map(account).collect::<Vec<_>>().into_iter()
}

/// As the client is to start it: clients have short search paths.
fn launcher() -> String {
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name("valetkey")).filter(|path| path.exists());
    let Some(path) = beside else { return "valetkey".into() };
    let usual = [Path::new("/usr/bin"), Path::new("/usr/local/bin")];
    if path.parent().is_some_and(|folder| usual.contains(&folder)) {
        "valetkey".into()
    } else {
        path.to_string_lossy().into_owned()
    }
}

fn choices(args: &Args) -> Choices {
    Choices { secret: args.secret.clone(), keep: args.keep.clone() }
}
