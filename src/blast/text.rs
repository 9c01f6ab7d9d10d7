//! The document for a terminal: worst first, in sentences that can be acted on.

use std::fmt::Write;

use super::{
    answer::{Answer, Holder, Opened, Rotation, SecretAnswer, SystemAnswer, SystemPart, ToolAnswer},
    compare::{Difference, ToolChange},
    document::{Document, View},
    findings::{Finding, NotJudged},
    moment::Moment,
    score::Score,
};
use crate::{config::Privilege, measure::rough, name::is_unprintable};

/// Text, one line after another. Names come from configuration and from callers: none of them steers a terminal.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn add(&mut self, line: impl AsRef<str>) {
        self.0.extend(line.as_ref().chars().map(|c| if is_unprintable(c) { '\u{fffd}' } else { c }));
        self.0.push('\n');
    }
}

/// The word of configuration.
pub fn word(privilege: Privilege) -> &'static str {
    match privilege {
        Privilege::Read => "read",
        Privilege::Write => "write",
        Privilege::Admin => "admin",
    }
}

/// `1 secret`, `2 secrets`.
pub fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

impl Document<'_> {
    /// For people.
    pub fn text(&self) -> String {
        let mut lines = Lines::default();
        match (&self.difference, &self.answer) {
            (Some(difference), _) => compare(&mut lines, difference),
            (None, None) => self.overview_text(&mut lines),
            (None, Some(Answer::Tool(answer))) => tool(&mut lines, answer, self.made),
            (None, Some(Answer::Secret(answer))) => secret(&mut lines, answer, self.made),
            (None, Some(Answer::System(answer))) => system(&mut lines, answer),
        }
        if self.view == View::Configuration && self.difference.is_none() {
            lines.add("");
            lines.add("From configuration alone: what is held now is not known. Without --config the running daemon is asked.");
        }
        lines.0
    }

    fn overview_text(&self, lines: &mut Lines) {
        for tool in self.worst_first() {
            let worst = tool
                .worst
                .as_ref()
                .map_or_else(|| "nothing is known of what it opens".into(), |worst| format!("worst is {}", part(worst)));
            let score = &tool.score;
            if score.secrets == 0 {
                lines.add(format!("{:>7}  {}: may have no secret", score.score.to_string(), tool.name));
                continue;
            }
            let held = tool.held.map_or(String::new(), |held| format!(", {held} held now"));
            lines.add(format!("{:>7}  {}: {}{held}; {worst}", score.score.to_string(), tool.name, reach(score)));
        }
        let findings = self.findings.iter().filter(|finding| finding.excluded.is_none()).count();
        lines.add("");
        lines.add(format!(
            "{}, worst first, by score of 100; {}. More: --tool NAME, --secret NAME, --system NAME; valetkey lint",
            count(self.nodes.tools.len(), "tool"),
            count(findings, "finding")
        ));
    }
}

/// `3 systems by 2 secrets`.
fn reach(score: &Score) -> String {
    let mut text = format!("{} by {}", count(score.systems, "system"), count(score.secrets, "secret"));
    if score.beyond > 0 {
        let _ = write!(text, " and {} more at their sources", score.beyond);
    }
    if score.undeclared > 0 {
        let _ = write!(text, ", {} of unknown reach", score.undeclared);
    }
    text
}

/// `write on api.stripe.com (prod)`.
fn part(part: &SystemPart) -> String {
    let environment = part.environment.as_ref().map_or(String::new(), |environment| format!(" ({environment})"));
    format!("{} on {}{environment}", word(part.privilege), part.system)
}

/// `stripe/api-key`, or through which sources.
fn path(path: &[String]) -> String {
    let stops = path.iter().map(|stop| match (stop.strip_prefix("secret:"), stop.strip_prefix("source:")) {
        (Some(secret), _) => secret.to_owned(),
        (_, Some(source)) => format!("[source {source}]"),
        _ => stop.clone(),
    });
    stops.collect::<Vec<_>>().join(" -> ")
}

fn tool(lines: &mut Lines, answer: &ToolAnswer, now: Moment) {
    let name = &answer.tool;
    lines.add(format!(
        "If tool {name} is compromised: {}. Score {}, depth {}.",
        reach(&answer.score),
        answer.score.score,
        answer.score.depth
    ));
    lines.add(format!("It is a process that has: {} ({})", or_dash(&answer.run_as.join(", ")), answer.at));
    if answer.contained {
        lines.add(format!(
            "It is CONTAINED, and gets nothing: what follows is what it could have once it is released (valetkey release {name})."
        ));
    }
    if let Some(score) = &answer.now {
        lines.add(format!("Of this with what it holds now: {}. Score {}.", reach(score), score.score));
    }
    opened(lines, &answer.unlocks);
    lines.add("");
    lines.add("SYSTEMS, worst first");
    for system in &answer.systems {
        let when = match system.now {
            Some(true) => "now",
            Some(false) => "after asking",
            None => "may",
        };
        lines.add(format!("  {when}: {}, by {}", part(system), path(&system.path)));
    }
    for secret in &answer.undeclared {
        lines.add(format!("  unknown: nothing says what {secret} opens; add `reaches` to it"));
    }
    if answer.systems.is_empty() && answer.undeclared.is_empty() {
        lines.add("  none");
    }
    lines.add("");
    lines.add("SECRETS that it may have");
    for secret in &answer.secrets {
        let way =
            secret.variable.as_ref().map_or(secret.channel.to_string(), |variable| format!("{} {variable}", secret.channel));
        let mut line = format!("  {} by {way}{} ({})", secret.secret, over_network(secret.remote), secret.at);
        let others = secret.shared_by.saturating_sub(1);
        if others > 0 {
            let _ = write!(line, "; shared with {}", count(others, "other tool"));
        }
        if secret.canary {
            line += "; a canary";
        }
        if let Some(used) = &secret.used {
            let _ = write!(line, "; used {} times", used.count);
        }
        lines.add(line);
        secret.holders.iter().for_each(|one| lines.add(format!("    {}", holder(one, now))));
    }
    if answer.secrets.is_empty() {
        lines.add("  none");
    }
}

fn over_network(remote: bool) -> &'static str {
    if remote { ", over the network too" } else { "" }
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

fn opened(lines: &mut Lines, opened: &[Opened]) {
    for Opened { source, secrets, by, sure } in opened {
        let how = if *sure == "derived" { ", by the address it reaches" } else { "" };
        let secrets = count(*secrets, "secret");
        lines.add(format!("{by} opens source {source}{how}: {secrets} there can be read past the broker, policy and record."));
    }
}

fn holder(holder: &Holder, now: Moment) -> String {
    let Holder { tool, version, channel, since, .. } = holder;
    let who = process(holder);
    let unit = holder.unit.as_ref().map_or(String::new(), |unit| format!(" in {unit}"));
    let retired = if holder.retired { ", which is no longer current" } else { "" };
    format!(
        "held by {who} of {tool}{unit}: version {version}{retired}, by {channel}, for {} (since {since})",
        rough(now.since(*since))
    )
}

fn process(holder: &Holder) -> String {
    match &holder.remote {
        Some(address) => format!("the caller at {address}"),
        None => format!("pid {}", holder.pid),
    }
}

fn secret(lines: &mut Lines, answer: &SecretAnswer, now: Moment) {
    let name = &answer.secret;
    let environment = answer.environment.as_ref().map_or(String::new(), |environment| format!(" of {environment}"));
    let canary = if answer.canary { ", a canary that opens nothing" } else { "" };
    lines.add(format!("If {name}{environment} leaked{canary}: it comes from source {} ({})", answer.source, answer.at));
    opened(lines, &answer.unlocks);
    lines.add("");
    lines.add("OPENS");
    answer.systems.iter().for_each(|system| lines.add(format!("  {}, by {}", part(system), path(&system.path))));
    if answer.undeclared {
        lines.add(format!("  unknown: nothing says what {name} opens; add `reaches` to it"));
    } else if answer.systems.is_empty() {
        lines.add("  no system that is declared");
    }
    if let Some(holders) = &answer.holders {
        lines.add("");
        lines.add("WHO HAS IT NOW");
        holders.iter().for_each(|one| lines.add(format!("  {}", holder(one, now))));
        if holders.is_empty() {
            lines.add("  nobody");
        }
    }
    lines.add("");
    lines.add(format!("WHO MAY HAVE IT: {}", count(answer.tools.len(), "tool")));
    for tool in &answer.tools {
        let used = tool.used.as_ref().map_or(String::new(), |used| format!("; used {} times", used.count));
        lines.add(format!("  {} by {}{} ({}){used}", tool.tool, tool.channel, over_network(tool.remote), tool.at));
    }
    lines.add("");
    lines.add(format!("TO CHANGE IT: rotate it at source {}, then: valetkey refresh {name}", answer.source));
    for tool in &answer.tools {
        let holders = answer.holders.iter().flatten().filter(|holder| holder.tool == tool.tool);
        let holders: Vec<_> = holders.map(process).collect();
        let which = if holders.is_empty() { String::new() } else { format!(" ({})", holders.join(", ")) };
        lines.add(match tool.rotation {
            Rotation::Asks => format!("  {} is told and asks again{which}", tool.tool),
            Rotation::Restarts => format!("  {} is restarted by its launcher{which}", tool.tool),
            Rotation::Rewritten => format!("  {} finds the new value in the place of the old{which}", tool.tool),
            Rotation::KeepsOld => format!("  {} keeps the old value until you restart it{which}", tool.tool),
        });
    }
}

fn system(lines: &mut Lines, answer: &SystemAnswer) {
    lines.add(format!("{} can be reached by {}.", answer.system, count(answer.tools.len(), "tool")));
    lines.add("");
    lines.add("TOOLS, worst first");
    for tool in &answer.tools {
        let when = match tool.now {
            Some(true) => "now: ",
            Some(false) => "after asking: ",
            None => "",
        };
        lines.add(format!("  {when}{} has {}, by {}", tool.tool, word(tool.privilege), path(&tool.path)));
    }
    if answer.tools.is_empty() {
        lines.add("  none");
    }
    lines.add("");
    lines.add("SECRETS that open it");
    answer.secrets.iter().for_each(|one| lines.add(format!("  {} ({}) ({})", one.secret, word(one.privilege), one.at)));
}

fn compare(lines: &mut Lines, difference: &Difference) {
    if difference.tools.is_empty() {
        lines.add(format!("{} changes nothing that any tool can reach.", difference.with));
    }
    difference.tools.iter().for_each(|tool| change(lines, tool));
    for (findings, what) in [(&difference.findings_new, "new"), (&difference.findings_gone, "gone")] {
        findings.iter().for_each(|one| lines.add(format!("{what}: {} {}: {}", one.id, one.level, one.what)));
    }
    lines.add("");
    lines.add(match difference.grows {
        true => format!("With {} something can reach more than now.", difference.with),
        false => format!("With {} nothing can reach more than now.", difference.with),
    });
}

fn change(lines: &mut Lines, change: &ToolChange) {
    let name = &change.tool;
    lines.add(match (&change.before, &change.after) {
        (None, Some(after)) => format!("+ {name}: a new tool: {}; score {}", reach(after), after.score),
        (Some(before), None) => format!("- {name}: gone; it had {}; score {}", reach(before), before.score),
        (Some(before), Some(after)) if before.score == after.score => format!("  {name}: score {} as before", after.score),
        (Some(before), Some(after)) => format!("  {name}: score {}, now {}", after.score, before.score),
        (None, None) => return,
    });
    if let Some(run_as) = &change.run_as {
        lines.add(format!("  ! another caller: {}, now {}", run_as.after.join(", "), run_as.before.join(", ")));
    }
    change.secrets_gained.iter().for_each(|one| lines.add(format!("  + may have {} ({})", one.secret, one.at)));
    change.secrets_lost.iter().for_each(|secret| lines.add(format!("  - may no longer have {secret}")));
    for one in &change.delivery {
        lines.add(format!("  ! {} by {}, now by {}", one.secret, one.after, one.before));
    }
    change.remote_gained.iter().for_each(|secret| lines.add(format!("  + {secret} over the network too")));
    change.remote_lost.iter().for_each(|secret| lines.add(format!("  - {secret} no longer over the network")));
    for one in change.systems_gained.iter().chain(&change.systems_lost) {
        lines.add(match (one.before, one.after) {
            (None, Some(after)) => format!("  + reaches {} ({})", one.system, word(after)),
            (Some(before), None) => format!("  - no longer reaches {} ({})", one.system, word(before)),
            (before, after) => {
                let word = |privilege: Option<Privilege>| privilege.map_or("none", word);
                format!("  {} {}: {}, now {}", if after > before { '+' } else { '-' }, one.system, word(after), word(before))
            }
        });
    }
}

/// Findings for people, worst first; `all` shows those that are excluded too.
pub fn findings(findings: &[Finding], not_judged: &[NotJudged], all: bool) -> String {
    let mut lines = Lines::default();
    for finding in findings.iter().filter(|finding| all || finding.excluded.is_none()) {
        let excluded = finding.excluded.as_ref().map_or(String::new(), |excluded| {
            format!(
                " (excluded until {}: {})",
                excluded.expires.to_string().chars().take(10).collect::<String>(),
                excluded.reason
            )
        });
        lines.add(format!("{}:{}: {}: {} [{}]{excluded}", finding.file, finding.line, finding.level, finding.what, finding.id));
        lines.add(format!("  instead: {}", finding.instead));
    }
    let excluded = findings.iter().filter(|finding| finding.excluded.is_some()).count();
    let shown = findings.len() - excluded;
    lines.add(format!("{}, {excluded} excluded", count(shown, "finding")));
    for one in not_judged {
        lines.add(format!("not judged: {}, {}", one.id, one.why));
    }
    lines.0
}
