//! How a tool is launched: the keys of `[tool.NAME]` that `valetkey run` acts on.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    pasted::holds_a_value,
    read::Section,
    sandbox,
    variable::{decides_what_runs, is_variable},
};
use crate::{
    name::SecretName,
    policy::{Launch, OnContain, OnRedaction, OnRotation, Rule, RunAs},
};

const ON_REDACTION: &[(&str, OnRedaction)] = &[("report", OnRedaction::Report), ("stop", OnRedaction::Stop)];
const ON_CONTAIN: &[(&str, OnContain)] = &[("notify-only", OnContain::NotifyOnly), ("stop", OnContain::Stop)];

/// Signals that a process can act on, by their names. The numbers are those of x86-64 and AArch64 (signal(7)).
const SIGNALS: &[(&str, i32)] = &[
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("USR1", libc::SIGUSR1),
    ("USR2", libc::SIGUSR2),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("CONT", libc::SIGCONT),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
];

/// execve(2) takes 128 KiB for one word, and the launcher's own message 256 KiB for all.
const MOST_WORDS: usize = 1000;
const LONGEST_WORD: usize = 16 * 1024;

pub(super) fn read(tool: &Section<'_>, run_as: &RunAs, grants: &BTreeMap<SecretName, Rule>) -> Launch {
    let default = Launch::default();
    let launch = Launch {
        command: command(tool, run_as),
        environment: environment(tool, grants),
        inherit: tool.boolean("inherit").unwrap_or(default.inherit),
        redact: tool.boolean("redact").unwrap_or(default.redact),
        redact_shapes: tool.boolean("redact-shapes").unwrap_or(default.redact_shapes),
        on_redaction: tool.choice("on-redaction", ON_REDACTION).unwrap_or(default.on_redaction),
        on_rotation: tool.parsed("on-rotation", on_rotation).unwrap_or(default.on_rotation),
        on_contain: tool.choice("on-contain", ON_CONTAIN).unwrap_or(default.on_contain),
        sandbox: tool.section("sandbox", sandbox::KEYS, &[]).map(|section| sandbox::read(&section)),
    };
    check_together(tool, &launch, grants);
    if launch.on_contain == OnContain::Stop && run_as.unit.is_none() {
        tool.reject_for(
            "on-contain",
            "is for a tool that is a systemd unit: what `valetkey run` starts is stopped in any case, and nothing else can be",
            "run-as = { unit = \"NAME.service\" }",
        );
    }
    launch
}

fn command(tool: &Section<'_>, run_as: &RunAs) -> Vec<String> {
    let command = tool.list("command", word).unwrap_or_default();
    if tool.has("command") && !tool.is_list_with_items("command") {
        tool.reject("command", "is empty: say what runs, or leave it out and anything may");
    } else if command.first().is_some_and(|program| program.trim().is_empty()) {
        tool.reject("command", "names no program");
    } else if !command.is_empty() && !run_as.needs_executable() {
        let what = format!(
            "`command` of {} binds only those who use `valetkey run`: any program that is `run-as` can ask for the same over gRPC",
            tool.title
        );
        tool.warn(tool.line_of("command"), what, "exe = \"/usr/bin/valetkey\" in `run-as`, so that the launcher alone may ask");
    }
    command
}

fn word(text: &str) -> Result<String, &'static str> {
    if text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t')) {
        return Err("holds a control character");
    }
    if text.len() > LONGEST_WORD {
        return Err("is longer than 16 KiB");
    }
    if holds_a_value(text) {
        return Err(
            "looks like a credential, and is not repeated here: arguments are public. Grant a secret to the tool instead, \
                    and rotate the value if it was a real one",
        );
    }
    Ok(text.into())
}

fn environment(tool: &Section<'_>, grants: &BTreeMap<SecretName, Rule>) -> Vec<String> {
    let delivered: BTreeSet<_> = grants.values().filter_map(|rule| rule.delivery.variable()).collect();
    let environment = tool.list("environment", |text| setting(text, &delivered)).unwrap_or_default();
    let mut names = BTreeSet::new();
    if !environment.iter().all(|setting| names.insert(name_of(setting))) {
        tool.reject("environment", "names a variable twice");
    }
    if environment.len() > MOST_WORDS {
        tool.reject("environment", "has more than 1,000 items");
    }
    environment
}

fn name_of(setting: &str) -> &str {
    setting.split_once('=').map_or(setting, |(name, _)| name)
}

/// `NAME` or `NAME=value`.
fn setting(text: &str, delivered: &BTreeSet<&str>) -> Result<String, &'static str> {
    let name = name_of(text);
    if !is_variable(name) {
        return Err("is not the name of an environment variable, nor NAME=value");
    }
    if decides_what_runs(name) {
        return Err(
            "is a variable that makes programs run other code: set it inside `command`, with env(1), where that is meant",
        );
    }
    if delivered.contains(name) {
        return Err("is the variable of a secret");
    }
    word(text).map_err(|why| match why.starts_with("looks") {
        true => {
            "looks like a credential, and is not repeated here. Grant a secret to the tool instead, and rotate the value if it \
                 was a real one"
        }
        false => why,
    })
}

fn on_rotation(text: &str) -> Result<OnRotation, &'static str> {
    match text {
        "notify-only" => return Ok(OnRotation::NotifyOnly),
        "restart" => return Ok(OnRotation::Restart),
        "reload" => return Ok(OnRotation::Reload),
        "rewrite" => return Ok(OnRotation::Rewrite),
        _ => {}
    }
    let name =
        text.strip_prefix("signal:").ok_or("must be notify-only, restart, reload, rewrite or signal:NAME, such as signal:HUP")?;
    let name = name.strip_prefix("SIG").unwrap_or(name);
    if matches!(name, "KILL" | "STOP") {
        return Err("names a signal that no process can act on: restart starts it anew");
    }
    let known = SIGNALS.iter().find(|(known, _)| *known == name);
    known
        .map(|(_, number)| OnRotation::Signal(*number))
        .ok_or("names no signal that a tool can act on: HUP, USR1 and USR2 are usual")
}

/// What cannot work is a mistake, or its author would rely on it.
fn check_together(tool: &Section<'_>, launch: &Launch, grants: &BTreeMap<SecretName, Rule>) {
    let rewrites = matches!(launch.on_rotation, OnRotation::Rewrite | OnRotation::Signal(_));
    let credentials = grants.values().any(|rule| rule.delivery.credential().is_some());
    if launch.on_rotation == OnRotation::Reload && (!credentials || grants.values().any(|rule| rule.delivery.is_launched())) {
        tool.reject_for(
            "on-rotation",
            "is for a unit whose secrets are systemd's credentials, and no others: `valetkey run` cannot reload what it starts",
            "on-rotation = \"restart\", or secrets.\"NAME\" = { credential = \"name\" }",
        );
    }
    if !launch.redact {
        let gone = "needs a launcher that stays, and with `redact = false` it becomes the tool";
        if launch.on_rotation != OnRotation::NotifyOnly && !credentials {
            tool.reject_for("on-rotation", gone, "on-rotation = \"notify-only\", or redact = true");
        }
        if launch.redact_shapes {
            tool.reject_for("redact-shapes", gone, "redact = true");
        }
        if tool.has("on-redaction") {
            tool.reject_for("on-redaction", gone, "redact = true");
        }
    } else if rewrites && !grants.values().any(|rule| matches!(rule.delivery.word(), "file" | "fd")) {
        tool.reject_for(
            "on-rotation",
            "has nothing to rewrite: no secret of the tool is in a file or a descriptor, and a variable cannot be changed from outside",
            "on-rotation = \"restart\", or secrets.\"NAME\" = { file = \"NAME_FILE\" }",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotations() {
        assert_eq!(on_rotation("restart"), Ok(OnRotation::Restart));
        assert_eq!(on_rotation("signal:HUP"), Ok(OnRotation::Signal(1)));
        assert_eq!(on_rotation("signal:SIGUSR1"), Ok(OnRotation::Signal(libc::SIGUSR1)));
        for bad in ["", "signal", "signal:", "signal:KILL", "signal:SIGSTOP", "signal:hup", "signal:1", "Restart"] {
            assert!(on_rotation(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn settings() {
        let delivered = BTreeSet::from(["TOKEN"]);
        for good in ["HTTPS_PROXY", "NODE_ENV=production", "EMPTY=", "X=a=b", "PATH"] {
            assert_eq!(setting(good, &delivered).as_deref(), Ok(good));
        }
        for bad in [
            "",
            "=x",
            "A B",
            "LD_PRELOAD",
            "NODE_OPTIONS=--require=/tmp/x",
            "VALETKEY_SOCKET",
            "TOKEN",
            "TOKEN=x",
            "KEY=sk_live_51Hq7XzA9q2LmN",
            "HTTPS_PROXY=http://user:pass@proxy:3128",
            "A=\u{1b}",
        ] {
            assert!(setting(bad, &delivered).is_err(), "{bad}");
        }
    }
}
