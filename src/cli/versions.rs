//! `valetkey secrets --versions`: which versions of each secret are in use, by whom, and how far its rotation is. Never a value.

use serde::Serialize;

use super::{
    Outcome,
    listings::{Args, print},
    rotate::place,
    table::{cell, layout, or_dash, printable},
    when,
};
use crate::proto::v1;

#[derive(Serialize)]
struct Listing {
    secrets: Vec<Secret>,
}

#[derive(Serialize)]
struct Secret {
    name: String,
    versions: Vec<Version>,
    /// The rotation that is under way, or the last; `null`: none that this daemon knows.
    rotation: Option<Rotation>,
}

#[derive(Serialize)]
struct Version {
    version: String,
    stage: String,
    holders: Vec<Holder>,
}

#[derive(Serialize)]
struct Holder {
    session: Option<String>,
    unit: Option<String>,
    tool: String,
    pid: u32,
    by: String,
}

#[derive(Serialize)]
struct Rotation {
    rotation: String,
    way: String,
    step: String,
    end: Option<String>,
    started: Option<String>,
    deadline: Option<String>,
    ended: Option<String>,
    problem: Option<String>,
}

/// Prints what the daemon told.
pub fn show(args: &Args, secrets: Vec<v1::SecretInfo>) -> Outcome {
    let text = text(&secrets);
    let listing = Listing { secrets: secrets.into_iter().map(secret).collect() };
    print(args, &listing, || text)
}

fn secret(secret: v1::SecretInfo) -> Secret {
    let time = |time: Option<prost_types::Timestamp>| time.map(|time| time.to_string());
    let some = |text: String| (!text.is_empty()).then_some(text);
    let holder = |one: v1::RotationHolder| {
        let (session, unit) = (some(one.session), some(one.unit));
        Holder { session, unit, tool: one.tool, pid: one.pid, by: one.by }
    };
    let version = |one: v1::VersionInUse| Version {
        version: one.version,
        stage: one.stage,
        holders: one.holders.into_iter().map(holder).collect(),
    };
    let rotation = |one: v1::Rotation| Rotation {
        rotation: one.rotation,
        way: one.way,
        step: one.step,
        end: some(one.end),
        started: time(one.started),
        deadline: time(one.deadline),
        ended: time(one.ended),
        problem: some(one.problem),
    };
    Secret {
        name: secret.name,
        versions: secret.versions.into_iter().map(version).collect(),
        rotation: secret.rotation.map(rotation),
    }
}

fn text(secrets: &[v1::SecretInfo]) -> String {
    let rows = secrets.iter().flat_map(|secret| {
        secret.versions.iter().map(|version| {
            let holders = version.holders.iter().map(|one| format!("{} ({}, {})", one.tool, place(one), one.by));
            let rotation = secret.rotation.as_ref().filter(|_| version.stage != "previous");
            vec![
                secret.name.clone(),
                version.version.clone(),
                version.stage.clone(),
                rotation.map_or_else(|| "-".into(), how_far),
                cell(&holders.collect::<Vec<_>>()),
            ]
        })
    });
    layout(&["SECRET", "VERSION", "STAGE", "ROTATION", "HOLDERS"], &rows.collect::<Vec<_>>())
}

fn how_far(rotation: &v1::Rotation) -> String {
    let v1::Rotation { step, end, ended, started, deadline, problem, .. } = rotation;
    let trouble = if problem.is_empty() { String::new() } else { format!(": {}", printable(problem)) };
    match (step.as_str(), deadline) {
        ("over", _) => format!("{} {}{trouble}", or_dash(end), when::relative(ended.as_ref())),
        (step, Some(deadline)) => format!("{step}, until {}{trouble}", when::relative(Some(deadline))),
        (step, None) => format!("{step}, since {}{trouble}", when::relative(started.as_ref())),
    }
}
