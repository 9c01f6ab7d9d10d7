//! One server of a client's file: what is secret in it, and how it is started without that.

use std::{collections::BTreeSet, path::Path};

use zeroize::Zeroizing;

use super::{
    launch::{self, Line, Piece},
    plan::names_in,
    servers::Server,
    suspect::{Verdict, is_filled_in, is_reference, judge},
    words::{self, judge_all},
};
use crate::config::{is_reserved_variable, is_variable, looks_like_a_value};

/// What the user decides otherwise than this program: `SERVER:NAME`.
#[derive(Debug, Default)]
pub struct Choices {
    pub secret: Vec<(String, String)>,
    pub keep: Vec<(String, String)>,
}

impl Choices {
    fn is_secret(&self, server: &str, key: &str) -> bool {
        self.secret.iter().any(|(s, k)| s == server && k == key)
    }

    fn is_kept(&self, server: &str, key: &str) -> bool {
        self.keep.iter().any(|(s, k)| s == server && k == key)
    }
}

/// A secret that can be moved.
pub struct Found {
    /// Where it stood: `env GITHUB_TOKEN`, `args --api-key`.
    pub place: String,
    /// Where the server will find it.
    pub variable: String,
    pub value: Zeroizing<String>,
    /// Does the server still show it to every user of the host, on its command line?
    pub exposed: bool,
}

/// Something that stays as it is, and why.
pub struct Left {
    pub place: String,
    pub why: String,
    /// A secret in plain text, that is, which this program cannot move.
    pub secret: Option<Zeroizing<String>>,
}

/// What is to be said of a server, and done.
#[derive(Default)]
pub struct Study {
    pub found: Vec<Found>,
    pub left: Vec<Left>,
    /// Does policy say what is run? Not where the client fills in a part of it.
    pub pinned: bool,
    pub command: Vec<String>,
    /// For policy: `NAME=value`, and names of what the client gives.
    pub environment: Vec<String>,
    /// Variables that stay in the client's file.
    pub stay: BTreeSet<String>,
    pub seen: Vec<String>,
}

/// Values found elsewhere in the same file are secrets here too, whatever they are called.
pub fn study(server: &Server<'_>, folder: &Path, choices: &Choices, known: &[Zeroizing<String>]) -> Study {
    let mut study = Study { pinned: true, ..Study::default() };
    let Some(command) = server.text("command") else {
        remote(server, &mut study);
        return study;
    };
    environment(server, choices, known, &mut study);
    let file = server.text("envFile").map(|file| names_in(file, folder));
    if let Some(Ok(names)) = &file {
        study.environment.extend(names.iter().cloned());
        study.left.push(Left {
            place: "envFile".into(),
            why: "the client reads it, and what it sets is passed on".into(),
            secret: None,
        });
    }
    arguments(server, command, choices, known, &mut study);
    let why = match file {
        Some(Err(why)) => Some(why),
        _ if server.is_ours() => {
            Some("the server runs through valetkey already: seal this by hand, and grant it in the tool's file".into())
        }
        _ => None,
    };
    if let Some(why) = why {
        let found = std::mem::take(&mut study.found);
        study.left.extend(found.into_iter().map(|found| Left {
            place: found.place,
            why: why.clone(),
            secret: Some(found.value),
        }));
    }
    study
}

/// A server that is not started here cannot be given anything.
fn remote(server: &Server<'_>, study: &mut Study) {
    let headers = server.table("headers").iter().filter_map(|member| Some((member.name.as_str(), member.value.text()?)));
    let address = server.text("url").or(server.text("serverUrl")).map(|url| ("url", url));
    for (name, text) in headers.chain(address) {
        if let Verdict::Secret(range) = judge(if name == "url" { "" } else { name }, text) {
            let why = "a remote server is not started on this host: use ${VAR}, or the client's own login";
            let place = if name == "url" { "url".into() } else { format!("headers {name}") };
            study.left.push(Left { place, why: why.into(), secret: Some(text[range].to_owned().into()) });
        }
    }
}

fn environment(server: &Server<'_>, choices: &Choices, known: &[Zeroizing<String>], study: &mut Study) {
    for (member, text) in server.variables() {
        let name = member.name.as_str();
        study.seen.push(name.into());
        let secret = match judge(name, &text) {
            _ if choices.is_kept(server.name, name) => false,
            Verdict::Reference => choices.is_secret(server.name, name) && !text.starts_with('$'),
            Verdict::Secret(_) => true,
            Verdict::Placeholder | Verdict::Plain => choices.is_secret(server.name, name) || holds_known(&text, known).is_some(),
        };
        let place = format!("env {name}");
        let stays = |why: &str, secret: bool, study: &mut Study| {
            study.stay.insert(name.into());
            if is_variable(name) {
                study.environment.push(name.into());
            }
            let secret = secret.then(|| text.clone().into());
            study.left.push(Left { place: place.clone(), why: why.into(), secret });
        };
        if secret && !is_variable(name) {
            stays("no program can be given a variable of this name by policy", true, study);
        } else if secret && is_reserved_variable(name) {
            stays("this variable decides what programs run or trust, and is not filled with a secret", true, study);
        } else if secret && is_reference(&text) {
            stays("the client fills in a part of it, so it cannot be sealed", true, study);
        } else if secret {
            let value = text.clone().into();
            study.found.push(Found { place, variable: name.into(), value, exposed: false });
        } else if is_reference(&text) {
            stays("the client fills it in, and it is passed on", false, study);
        } else if choices.is_kept(server.name, name) {
            stays("kept, as you said, and passed on", false, study);
        } else if !is_variable(name) {
            stays("no variable has such a name", false, study);
        } else if looks_like_a_value(&text) {
            // What this program may have misjudged is not copied into a file that more can read.
            stays("random, but by its name no secret: passed on; --secret SERVER:NAME seals it", false, study);
        } else {
            // In policy, because who can change it can often send the secret elsewhere: API_URL, for one.
            study.environment.push(format!("{name}={text}"));
        }
        if judge(name, &text) == Verdict::Placeholder {
            let why = "this is what an example says, and no secret";
            study.left.push(Left { place: format!("env {name}"), why: why.into(), secret: None });
        }
    }
}

fn arguments(server: &Server<'_>, command: &str, choices: &Choices, known: &[Zeroizing<String>], study: &mut Study) {
    let texts: Vec<String> = server.arguments().into_iter().map(|(_, text)| text).collect();
    let mut line = Line::new(command, &texts);
    let script = launch::script(command, &texts);
    for (index, (judged, text)) in judge_all(&texts).into_iter().zip(&texts).enumerate() {
        if Some(index) == script {
            script_words(server, text, index, choices, known, &mut line, study);
            continue;
        }
        study.seen.push(judged.key.clone());
        let range = match judged.verdict {
            _ if choices.is_kept(server.name, &judged.key) => {
                study.pinned &= !looks_like_a_value(text);
                continue;
            }
            Verdict::Secret(range) => range,
            Verdict::Reference => continue,
            _ if choices.is_secret(server.name, &judged.key) => text.find('=').map_or(0, |at| at + 1)..text.len(),
            _ => match holds_known(text, known) {
                Some(range) => range,
                None => continue,
            },
        };
        if is_reference(text) {
            let why = "the client fills in a part of it, so it cannot be sealed".into();
            study.left.push(Left { place: format!("args {}", judged.key), why, secret: Some(text[range].to_owned().into()) });
            continue;
        }
        let value = text[range.clone()].to_owned();
        let variable = launch::equivalent(command, &texts, &judged.key).map_or(judged.variable, String::from);
        let variable = claim(study, &variable, &value, &format!("args {}", judged.key), judged.assigned);
        line.words[index] =
            [Piece::Text(text[..range.start].into()), Piece::Variable(variable), Piece::Text(text[range.end..].into())]
                .into_iter()
                .filter(|piece| *piece != Piece::Text(String::new()))
                .collect();
    }
    study.pinned &= !is_filled_in(command) && !texts.iter().any(|text| is_filled_in(text));
    if study.found.iter().any(|found| found.place.starts_with("args")) {
        let exposed = line.settle(study.pinned);
        study.found.iter_mut().for_each(|found| found.exposed |= exposed.contains(&found.variable));
    }
    study.command = line.texts();
}

fn script_words(
    server: &Server<'_>,
    script: &str,
    index: usize,
    choices: &Choices,
    known: &[Zeroizing<String>],
    line: &mut Line,
    study: &mut Study,
) {
    let mut out = String::new();
    let (mut at, mut before): (usize, Option<&str>) = (0, None);
    // The start of a word that goes on behind a quote: NAME='VALUE', --option="VALUE".
    let mut begun: Option<std::ops::Range<usize>> = None;
    for range in words::in_script(script) {
        let word = &script[range.clone()];
        if word.ends_with('=') && script[range.end..].starts_with(['"', '\'']) {
            begun = Some(range);
            continue;
        }
        let start = begun.take().filter(|start| start.end + 1 == range.start).map_or("", |start| &script[start]);
        let judged = words::judge_word(before, &format!("{start}{word}"), &format!("args[{index}]"));
        let verdict = match judged.verdict {
            Verdict::Secret(part) if part.start >= start.len() => {
                Verdict::Secret(part.start - start.len()..part.end - start.len())
            }
            other => other,
        };
        let assigns = judged.assigned && before.is_none_or(|before| !before.starts_with('-'));
        before = Some(word);
        let part = match verdict {
            Verdict::Secret(part) if !choices.is_kept(server.name, &judged.key) => part,
            _ => match holds_known(word, known) {
                Some(part) => part,
                None => continue,
            },
        };
        let value = word[part.clone()].to_owned();
        let variable = claim(study, &judged.variable, &value, &format!("args {}", judged.key), false);
        if !assigns && let Some(found) = study.found.iter_mut().find(|found| found.variable == variable) {
            found.exposed = true;
        }
        let (start, end) = (range.start + part.start, range.start + part.end);
        out.push_str(&script[at..start]);
        out.push_str(&words::expansion_at(script, start, &variable));
        at = end;
    }
    out.push_str(&script[at..]);
    line.words[index] = vec![Piece::Text(out)];
}

/// The variable in which this value is delivered: the wanted one, if no other value has it.
fn claim(study: &mut Study, wanted: &str, value: &str, place: &str, as_named: bool) -> String {
    if let Some(same) = study.found.iter().find(|found| *found.value == value && (!as_named || found.variable == wanted)) {
        return same.variable.clone();
    }
    let wanted = if is_reserved_variable(wanted) { format!("MCP_{wanted}") } else { wanted.into() };
    let taken = |name: &str| {
        study.found.iter().any(|found| found.variable == name)
            || study.environment.iter().any(|set| set.split('=').next() == Some(name))
            || study.stay.contains(name)
    };
    let variable = (1..).map(|n| if n == 1 { wanted.clone() } else { format!("{wanted}_{n}") }).find(|name| !taken(name));
    let variable = variable.unwrap_or(wanted);
    let value = value.to_owned().into();
    study.found.push(Found { place: place.into(), variable: variable.clone(), value, exposed: false });
    variable
}

/// Where a value that is known to be a secret stands in this text. Short ones would be found by chance.
fn holds_known(text: &str, known: &[Zeroizing<String>]) -> Option<std::ops::Range<usize>> {
    let value = known.iter().filter(|value| value.len() >= 8).find(|value| text.contains(value.as_str()))?;
    let at = text.find(value.as_str())?;
    Some(at..at + value.len())
}
