//! Where the audit log is, and what it is sealed with.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use tracing::{info, warn};

use super::{
    assemble::{Captured, aws_settings},
    places,
};
use crate::{
    audit::{Event, Kind, Log, Outcome, PublicKey, Settings, SigningKey, disk::Directory},
    broker::Broker,
    config::{AuditSettings, ExportSettings, FileRef, OtlpSettings},
    export::{
        Exports, Target, TellGap,
        cloudwatch_logs::{self, CloudWatchLogs},
        journald::Journald,
        otlp::{self, Otlp},
        s3::{self, S3},
        stdout::Stdout,
    },
    name::ExporterName,
};

const KEY: &str = "audit-signing-key.pem";
const PUBLIC_KEY: &str = "audit-signing-key.pub";

/// The log's directory.
pub fn directory(settings: &AuditSettings) -> PathBuf {
    settings.directory.clone().unwrap_or_else(|| places::state_dir().join("audit"))
}

/// Where the daemon puts the public half of its key, for those who verify.
pub fn public_key_file(settings: &AuditSettings) -> PathBuf {
    beside(&directory(settings), PUBLIC_KEY)
}

fn beside(directory: &Path, name: &str) -> PathBuf {
    directory.parent().unwrap_or(directory).join(name)
}

/// Opens the log. Where the disk fails now it is there and down, and nothing is handed out until it can be written.
pub fn open(settings: &AuditSettings, captured: &Captured) -> Result<Log, String> {
    if !settings.enabled {
        return Ok(Log::off());
    }
    let path = directory(settings);
    // Before the key, which is made beside it.
    let disk = Arc::new(Directory::take(&path).map_err(|bad| bad.to_string())?);
    let key = match &settings.signing_key {
        Some(file) => SigningKey::read(&captured.file(file).map_err(|why| format!("signing-key in [audit]: {why}"))?),
        None => SigningKey::read_or_make(&beside(&path, KEY)),
    };
    let key = key.map_err(|bad| bad.to_string())?;
    publish(&key.public(), &public_key_file(settings));
    let settings = Settings { durability: settings.durability, rules: settings.rules };
    let (log, taken) = Log::open(disk, key, settings).map_err(|error| format!("cannot start the audit log's thread: {error}"))?;
    if let Some(taken) = taken {
        let durability = settings.durability.as_str();
        info!(directory = %path.display(), next = taken.next, durability, "audit log");
    }
    Ok(log)
}

/// Starts what sends the log elsewhere, on the runtime of the caller.
pub fn export(settings: &AuditSettings, captured: &Captured, broker: &Arc<Broker>) -> Result<Exports, String> {
    let make = |(name, settings): (&ExporterName, &ExportSettings)| match target(settings, captured) {
        Ok(target) => Ok((name.clone(), target)),
        Err(why) => Err(format!("[audit.export.{name}]: {why}")),
    };
    let targets: Vec<_> = settings.exports.iter().map(make).collect::<Result<_, _>>()?;
    let recorder = broker.clone();
    let tell_gap: TellGap = Arc::new(move |gap| {
        let (name, range) = (Some(gap.exporter.as_str()), Some((gap.first, gap.last)));
        let (reason, count) = (Some("gone"), Some(gap.last - gap.first + 1));
        let event = Event { action: name, range, reason, count, ..Event::new(Kind::ExportGap, Outcome::Failure) };
        recorder.audit().note(&event);
    });
    if targets.is_empty() {
        return Ok(Exports::default());
    }
    for (exporter, target) in &targets {
        info!(%exporter, kind = target.kind(), "the audit log is sent");
    }
    Exports::start(targets, &directory(settings), broker.audit().durable(), &tell_gap).map_err(|bad| bad.to_string())
}

fn target(settings: &ExportSettings, captured: &Captured) -> Result<Target, String> {
    let file = |file: &Option<FileRef>| file.as_ref().map(|file| captured.file(file)).transpose();
    Ok(match settings {
        ExportSettings::Journald { socket } => Target::Journald(Journald::new(socket.clone())),
        ExportSettings::Otlp(OtlpSettings { endpoint, headers_file, ca_file }) => Target::Otlp(Otlp::new(&otlp::Settings {
            endpoint: endpoint.clone(),
            headers_file: file(headers_file)?,
            ca_file: file(ca_file)?,
        })?),
        ExportSettings::CloudWatchLogs { account, group, stream, create_group } => {
            let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
            let (account, stream) = (aws_settings(account, captured, 1)?, stream.clone().unwrap_or_else(host));
            let (group, create_group) = (group.clone(), *create_group);
            let settings = cloudwatch_logs::Settings { account, group, stream, create_group };
            Target::CloudWatchLogs(CloudWatchLogs::new(settings)?)
        }
        ExportSettings::S3 { account, bucket, prefix, every } => {
            let account = aws_settings(account, captured, 1)?;
            let (bucket, prefix, every) = (bucket.clone(), prefix.clone(), *every);
            Target::S3(S3::new(s3::Settings { account, bucket, prefix, every })?)
        }
        ExportSettings::Stdout => Target::Stdout(Stdout::default()),
    })
}

/// Of use to others, and of no use to the daemon.
fn publish(key: &PublicKey, file: &Path) {
    let pem = key.to_pem();
    if std::fs::read_to_string(file).is_ok_and(|text| text == pem) {
        return;
    }
    if let Err(error) = std::fs::write(file, pem) {
        warn!(
            "cannot write the public half of the audit log's key to {}: {error}; `valetkey audit key` prints it",
            file.display()
        );
    }
}
