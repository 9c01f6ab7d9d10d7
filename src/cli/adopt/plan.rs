//! What is to be done with one file, before anything is done.

use std::path::Path;

use zeroize::Zeroizing;

use super::{
    Args, FAILED, Failure, USAGE, account_of, choices,
    edit::{Edit, apply},
    files::Target,
    json::{self, Value, cuts, list, quoted},
    launcher, names,
    policy::Policy,
    servers::{self, Server},
    store::{self, Place},
    study::{Study, study},
    suspect::is_filled_in,
};
use crate::{
    name::{SecretName, ToolName},
    source::sealed_file::SealedFile,
};

/// One server, and what becomes of it.
pub struct Planned {
    pub server: String,
    pub study: Study,
    /// `None`: it stays as it is.
    pub tool: Option<ToolName>,
    /// In the order of `study.found`: the secret's name, and whether another server has it too.
    pub secrets: Vec<(SecretName, bool)>,
}

pub struct Plan {
    pub servers: Vec<Planned>,
    /// The values that must be in the sealed file.
    pub values: Vec<(SecretName, Zeroizing<String>)>,
    /// The client's file without its mark, before and after.
    pub before: Zeroizing<String>,
    pub after: String,
    /// That store the values elsewhere, if that is wanted.
    pub commands: Vec<String>,
    pub user: String,
}

impl Plan {
    pub fn make(args: &Args, target: &Target, policy: &mut Policy, place: &Place) -> Result<Self, Failure> {
        let text = target.text()?;
        let document = parse(target, text)?;
        let servers = servers::find(&document).map_err(|unfit| unfitting(target, text, &unfit))?;
        let wanted: Vec<_> =
            servers.iter().filter(|server| args.only.is_empty() || args.only.iter().any(|only| only == server.name)).collect();
        check_names(args, &servers)?;
        let studies = study_all(args, target, &wanted);
        check_choices(args, &wanted, &studies)?;
        let user = args.user.clone().unwrap_or_else(|| account_of(target.facts.uid));
        let before = Zeroizing::new(text.to_owned());
        let mut plan = Self { servers: Vec::new(), values: Vec::new(), before, after: String::new(), commands: Vec::new(), user };
        let sealed = place.peek();
        let mut edits = Vec::new();
        for (server, study) in wanted.iter().zip(studies) {
            plan.add(args, target, server, study, policy, place, sealed.as_ref(), &mut edits, text)?;
        }
        plan.after = apply(text, &edits);
        // Own work is not trusted either: what a client cannot read must never be written.
        json::parse(&plan.after).map_err(|bad| {
            let what = format!("the new text of {} would not be JSON ({})", target.path.display(), bad.what);
            Failure::new(FAILED, what, "nothing was changed; please report this, with the layout of the file and no value")
        })?;
        Ok(plan)
    }

    pub fn adopts(&self) -> bool {
        self.servers.iter().any(|planned| planned.tool.is_some())
    }

    /// Every value that must not be shown, whether it can be moved or not.
    pub fn secrets(&self) -> impl Iterator<Item = &Zeroizing<String>> {
        let found = self.servers.iter().flat_map(|planned| planned.study.found.iter().map(|found| &found.value));
        let left = self.servers.iter().flat_map(|planned| planned.study.left.iter().filter_map(|left| left.secret.as_ref()));
        found.chain(left)
    }

    #[expect(clippy::too_many_arguments, reason = "they are what a plan is made from")]
    fn add(
        &mut self,
        args: &Args,
        target: &Target,
        server: &Server<'_>,
        study: Study,
        policy: &mut Policy,
        place: &Place,
        sealed: Option<&SealedFile>,
        edits: &mut Vec<Edit>,
        text: &str,
    ) -> Result<(), Failure> {
        let shown = server.shown();
        if study.found.is_empty() {
            self.servers.push(Planned { server: shown, study, tool: None, secrets: Vec::new() });
            return Ok(());
        }
        let unnamed =
            || Failure::new(FAILED, format!("no name is left for the server {shown}"), "rename it in the client's file");
        let tool = names::tool(server.name, |name| policy.has_tool(name)).ok_or_else(unnamed)?;
        policy.reserve_tool(&tool);
        let mut secrets: Vec<(SecretName, bool)> = Vec::new();
        for found in &study.found {
            let fresh = |name: &SecretName| !secrets.iter().any(|(used, _)| used == name);
            let known =
                self.values.iter().find(|(name, value)| *value == found.value && fresh(name)).map(|(name, _)| name.clone());
            let shared = known.is_some();
            let name = match known {
                Some(name) => name,
                None => {
                    let taken = |name: &str| {
                        let parsed = name.parse::<SecretName>().ok();
                        let sealed_otherwise = parsed.is_some_and(|name| {
                            sealed.is_some_and(|file| file.get(&name).is_some() && !store::holds(file, &name, &found.value))
                        });
                        policy.has_secret(name) || sealed_otherwise
                    };
                    let name = names::secret(&tool, &found.variable, taken).ok_or_else(unnamed)?;
                    self.define(args, policy, place, &name)?;
                    self.values.push((name.clone(), found.value.clone()));
                    name
                }
            };
            secrets.push((name, shared));
        }
        let granted: Vec<_> =
            secrets.iter().zip(&study.found).map(|((name, _), found)| (name.clone(), found.variable.clone())).collect();
        let of = format!("{shown} of {}", target.path.display());
        policy.add_tool(&tool, &of, &self.user, &study, &granted);
        edits.extend(rewrite(text, server, &tool, &study));
        self.servers.push(Planned { server: shown, study, tool: Some(tool), secrets });
        Ok(())
    }

    fn define(&mut self, args: &Args, policy: &mut Policy, place: &Place, name: &SecretName) -> Result<(), Failure> {
        match args.store {
            None => {
                let source = policy.sealed_source(&place.file, &place.identity);
                policy.add_secret(name, &source, None);
            }
            Some(store) => {
                let (source, at) = store.source(policy)?;
                let (path, field) = store.place(&args.prefix, name);
                policy.add_secret(name, &source, Some((&path, field)));
                self.commands.push(store.command(at.as_deref(), &path, name, place));
            }
        }
        Ok(())
    }
}

fn parse(target: &Target, text: &str) -> Result<Value, Failure> {
    json::parse(text).map_err(|bad| {
        let what = format!("{}:{}:{}: not JSON: {}", target.path.display(), bad.line, bad.column, bad.what);
        Failure::new(FAILED, what, "mend it there; nothing was changed")
    })
}

fn unfitting(target: &Target, text: &str, unfit: &servers::Unfit) -> Failure {
    let place = match unfit.at {
        Some(at) => format!("{}:{}", target.path.display(), json::line(text, at)),
        None => target.path.display().to_string(),
    };
    Failure::new(FAILED, format!("{place}: {}", unfit.what), unfit.hint.clone())
}

/// Twice: what is a secret in one place is one wherever it stands.
fn study_all(args: &Args, target: &Target, servers: &[&Server<'_>]) -> Vec<Study> {
    let (choices, folder) = (choices(args), project(&target.path));
    let all = |known: &[Zeroizing<String>]| -> Vec<Study> {
        servers.iter().map(|server| study(server, folder, &choices, known)).collect()
    };
    let known = all(&[]).into_iter().flat_map(|study| study.found).map(|found| found.value).collect::<Vec<_>>();
    all(&known)
}

/// The folder that VS Code calls `${workspaceFolder}`.
fn project(file: &Path) -> &Path {
    let folder = file.parent().unwrap_or(Path::new("/"));
    if folder.ends_with(".vscode") || folder.ends_with(".cursor") { folder.parent().unwrap_or(folder) } else { folder }
}

fn check_names(args: &Args, servers: &[Server<'_>]) -> Result<(), Failure> {
    let named = args.only.iter().chain(args.secret.iter().chain(&args.keep).map(|(server, _)| server));
    for name in named {
        if !servers.iter().any(|server| server.name == name) {
            let all: Vec<_> = servers.iter().map(|server| server.name).collect();
            return Err(Failure::new(USAGE, format!("the file has no server {name}"), format!("it has: {}", all.join(", "))));
        }
    }
    Ok(())
}

fn check_choices(args: &Args, servers: &[&Server<'_>], studies: &[Study]) -> Result<(), Failure> {
    for (server, name) in args.secret.iter().chain(&args.keep) {
        let of: Vec<_> = servers.iter().zip(studies).filter(|(one, _)| one.name == server).map(|(_, study)| study).collect();
        if !of.iter().any(|study| study.seen.contains(name)) {
            let all: Vec<_> = of.iter().flat_map(|study| study.seen.iter().map(String::as_str)).collect();
            let what = format!("the server {server} has no such variable or argument");
            return Err(Failure::new(USAGE, what, format!("it has: {}", all.join(", "))));
        }
    }
    Ok(())
}

/// The changes that make the client start `valetkey run` in the server's place.
fn rewrite(text: &str, server: &Server<'_>, tool: &ToolName, study: &Study) -> Vec<Edit> {
    let mut edits = Vec::new();
    let mut words = vec!["run".to_owned(), tool.to_string()];
    if !study.pinned {
        words.push("--".into());
        words.extend(study.command.iter().cloned());
    }
    let members = server.value.table().unwrap_or_default();
    if let Some(command) = server.value.get("command") {
        let mut program = quoted(&launcher());
        match server.value.get("args") {
            Some(args) => edits.push(Edit::new(args.value.range.clone(), list(&words))),
            None => {
                let before = &text[..command.range.start];
                let line = before.rfind('\n').map_or(0, |at| at + 1);
                let own_line = line > 0 && before[line..].trim().is_empty();
                let newline = if before[..line].ends_with("\r\n") { "\r\n" } else { "\n" };
                let gap = if own_line { format!("{newline}{}", &before[line..]) } else { " ".into() };
                program.push_str(&format!(",{gap}\"args\": {}", list(&words)));
            }
        }
        edits.push(Edit::new(command.value.range.clone(), program));
    }
    let variables = server.table("env");
    let stays = |name: &str| study.stay.contains(name);
    if !variables.is_empty() {
        let cut = match variables.iter().any(|member| stays(&member.name)) {
            true => cuts(text, variables, |member| !stays(&member.name)),
            false => cuts(text, members, |member| member.name == "env"),
        };
        edits.extend(cut.into_iter().map(Edit::cut));
    }
    edits
}

/// Does the client read more variables from a file? Their names, or why they cannot be had.
pub fn names_in(file: &str, folder: &Path) -> Result<Vec<String>, String> {
    let path = file.replace("${workspaceFolder}", &folder.to_string_lossy());
    if is_filled_in(&path) {
        return Err("its `envFile` is known to the client alone".into());
    }
    let text = std::fs::read_to_string(folder.join(path)).map_err(|error| format!("its `envFile` cannot be read: {error}"))?;
    let name = |line: &str| {
        let line = line.trim().strip_prefix("export ").unwrap_or(line.trim());
        let name = line.split_once('=')?.0.trim();
        crate::config::is_variable(name).then(|| name.to_owned())
    };
    Ok(text.lines().filter_map(name).collect())
}
