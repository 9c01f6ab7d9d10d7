//! What is said of an adoption: for people, with a diff where nothing was written, and as JSON. Names and lengths, never a value.

use std::path::PathBuf;

use serde::Serialize;

use super::{
    Failure,
    edit::diff,
    elsewhere,
    files::Target,
    plan::{Plan, Planned},
    policy::Policy,
    shown::Mask,
    undo::Undone,
    write,
};
use crate::cli::table::{layout, printable};

#[derive(Clone, Copy)]
pub struct Mode {
    pub dry_run: bool,
    pub json: bool,
}

#[derive(Serialize)]
pub struct FileReport {
    file: String,
    /// `clean`, `left` (a secret that cannot be adopted), `found` (of a dry run) or `adopted`.
    state: &'static str,
    servers: Vec<ServerReport>,
    /// The files that were, or would be, written.
    writes: Vec<String>,
    undo: Option<String>,
    /// That store the values elsewhere.
    commands: Vec<String>,
    /// What stood in plain text, and should be replaced by its issuer.
    rotate: Vec<String>,
    warnings: Vec<String>,
    #[serde(skip)]
    diffs: String,
    #[serde(skip)]
    next: Vec<String>,
}

#[derive(Serialize)]
struct ServerReport {
    server: String,
    /// `clean`, `left` or `adopted`.
    state: &'static str,
    tool: Option<String>,
    pinned: Option<bool>,
    secrets: Vec<SecretReport>,
    left: Vec<LeftReport>,
}

#[derive(Serialize)]
struct SecretReport {
    secret: String,
    from: String,
    variable: String,
    bytes: usize,
    shared: bool,
    exposed_in_argv: bool,
}

#[derive(Serialize)]
struct LeftReport {
    place: String,
    why: String,
    secret: bool,
}

impl FileReport {
    pub fn of(target: &Target, plan: &Plan, policy: &Policy, undo: Option<PathBuf>) -> Result<Self, Failure> {
        let mask = Mask::new(plan.secrets());
        let changes = write::changes(policy)?;
        let file = printable(&target.path.display().to_string());
        let mut diffs = diff((&file, &file), &plan.before, &plan.after, |line| mask.line(line));
        let mut writes = Vec::new();
        if plan.adopts() {
            writes.push(file.clone());
            for change in &changes {
                let name = change.path.display().to_string();
                let old = if change.before.is_some() { name.as_str() } else { "/dev/null" };
                diffs.push_str(&diff((old, &name), change.before.as_deref().unwrap_or_default(), &change.after, |line| {
                    mask.line(line)
                }));
                writes.push(name);
            }
        }
        let found: Vec<_> = plan.values.iter().map(|(_, value)| value).collect();
        let mut warnings = match found.is_empty() {
            true => Vec::new(),
            false => elsewhere::warnings(target, &plan.after, &found),
        };
        warnings.extend(
            target.link.as_ref().map(|link| format!("{} is a link: the file it leads to is what changes", link.display())),
        );
        let servers: Vec<_> = plan.servers.iter().map(ServerReport::of).collect();
        let leaves = servers.iter().flat_map(|server| &server.left).any(|left| left.secret);
        let state = match (plan.adopts(), &undo) {
            (false, _) => {
                if leaves {
                    "left"
                } else {
                    "clean"
                }
            }
            (true, None) => "found",
            (true, Some(_)) => "adopted",
        };
        let exposed = servers.iter().flat_map(|server| &server.secrets).filter(|secret| secret.exposed_in_argv);
        warnings.extend(exposed.map(|secret| {
            format!(
                "{} is in no file any more, but the server takes it on its command line, where every user of this host can read it: \
                 choose a server that reads {} from its environment",
                secret.secret, secret.variable
            )
        }));
        let rotate = plan.values.iter().map(|(name, _)| name.to_string()).collect();
        let undo = undo.map(|path| path.display().to_string());
        let next = next(policy);
        Ok(Self { file, state, servers, writes, undo, commands: plan.commands.clone(), rotate, warnings, diffs, next })
    }

    pub fn adopts(&self) -> bool {
        matches!(self.state, "found" | "adopted")
    }

    /// Stands a secret in the file, or will it after this?
    pub fn holds_secrets(&self) -> bool {
        self.state == "found" || self.servers.iter().flat_map(|server| &server.left).any(|left| left.secret)
    }

    pub fn print(&self, mode: Mode) {
        if mode.dry_run {
            print!("{}", self.diffs);
        }
        if !self.adopts() {
            let that_can_be = if self.holds_secrets() { " that can be adopted; secrets stay in plain text" } else { " to adopt" };
            println!("{}: nothing{that_can_be}", self.file);
        }
        let rows: Vec<_> = self.servers.iter().flat_map(ServerReport::rows).collect();
        if !rows.is_empty() {
            println!("{}:", self.file);
            print!("{}", layout(&["SERVER", "WHAT", "BECOMES", "NOTE"], &rows));
        }
        self.warnings.iter().for_each(|warning| println!("warning: {warning}"));
        if !self.adopts() {
            return;
        }
        if mode.dry_run {
            println!("nothing was written; without --dry-run these would be: {}", self.writes.join(", "));
        } else {
            println!("written: {}", self.writes.join(", "));
            println!(
                "the way back: valetkey adopt --undo {} (kept sealed in {})",
                self.file,
                self.undo.as_deref().unwrap_or("-")
            );
        }
        if !self.commands.is_empty() {
            println!("store the values with these commands, which show none:");
            self.commands.iter().for_each(|command| println!("  {command}"));
        }
        if !mode.dry_run {
            self.next.iter().for_each(|line| println!("next: {line}"));
        }
        println!("rotate what stood in plain text, as who had the file may have it: {}", self.rotate.join(", "));
    }
}

/// What makes it work, once it is written.
fn next(policy: &Policy) -> Vec<String> {
    let main = policy.main.display();
    let system = policy.main == std::path::Path::new(crate::daemon::DEFAULT_CONFIG);
    let option = if system { String::new() } else { format!(" --config {main}") };
    let start = if system { "systemctl start valetkeyd".into() } else { format!("valetkeyd{option}") };
    vec![
        format!("valetkey check{option}"),
        format!("valetkey reload, where the daemon runs already; {start}, where it does not"),
        "restart the client; its servers start with a clean environment: what else they need is named in `environment` of their files".into(),
    ]
}

pub fn print_json(mode: Mode, reports: &[FileReport]) -> Result<(), Failure> {
    if mode.json {
        let all = serde_json::json!({ "dry_run": mode.dry_run, "files": reports });
        println!("{}", serde_json::to_string_pretty(&all).map_err(std::io::Error::other)?);
    }
    Ok(())
}

pub fn print_undone(undone: &Undone, dry: bool, json: bool) -> Result<(), Failure> {
    let file = undone.file.display().to_string();
    let removed: Vec<_> = undone.removed.iter().map(|path| path.display().to_string()).collect();
    if json {
        let all = serde_json::json!({ "dry_run": dry, "file": file, "taken_back": removed, "left": undone.left });
        println!("{}", serde_json::to_string_pretty(&all).map_err(std::io::Error::other)?);
        return Ok(());
    }
    println!("{file}: {}as it was, with its values in plain text", if dry { "would be " } else { "" });
    if !removed.is_empty() {
        println!("{}: {}", if dry { "would be taken back" } else { "taken back" }, removed.join(", "));
    }
    undone.left.iter().for_each(|left| println!("warning: {left}"));
    println!("the sealed file keeps its copies: valetkey seal list");
    Ok(())
}

impl ServerReport {
    fn of(planned: &Planned) -> Self {
        let study = &planned.study;
        let secrets = planned.secrets.iter().zip(&study.found).map(|((name, shared), found)| SecretReport {
            secret: name.to_string(),
            from: found.place.clone(),
            variable: found.variable.clone(),
            bytes: found.value.len(),
            shared: *shared,
            exposed_in_argv: found.exposed,
        });
        let left: Vec<_> = study
            .left
            .iter()
            .map(|left| LeftReport { place: left.place.clone(), why: left.why.clone(), secret: left.secret.is_some() })
            .collect();
        let state = match &planned.tool {
            Some(_) => "adopted",
            None if left.iter().any(|left| left.secret) => "left",
            None => "clean",
        };
        let tool = planned.tool.as_ref().map(ToString::to_string);
        let pinned = tool.is_some().then_some(study.pinned);
        Self { server: planned.server.clone(), state, tool, pinned, secrets: secrets.collect(), left }
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let server = printable(&self.server);
        let secret = |secret: &SecretReport| {
            let mut notes = vec![format!("{} bytes", secret.bytes)];
            notes.extend(secret.shared.then(|| "shared with another server".into()));
            notes.extend(secret.exposed_in_argv.then(|| "still in the server's arguments".into()));
            vec![server.clone(), printable(&secret.from), secret.secret.clone(), notes.join(", ")]
        };
        let left = |left: &LeftReport| {
            let becomes = if left.secret { "LEFT IN PLAIN TEXT" } else { "stays" };
            vec![server.clone(), printable(&left.place), becomes.into(), left.why.clone()]
        };
        let loose = (self.pinned == Some(false)).then(|| {
            let why = "the client fills in a part of it: policy does not say what runs under this name";
            vec![server.clone(), "command".into(), "stays".into(), why.into()]
        });
        self.secrets.iter().map(secret).chain(self.left.iter().map(left)).chain(loose).collect()
    }
}
