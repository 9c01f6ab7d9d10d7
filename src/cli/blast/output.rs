//! Where a map goes: it is one for an attacker too.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
};

use crate::cli::{FAILED, Failure, Outcome};

#[derive(Debug, clap::Args)]
pub struct Target {
    /// Write it to this file, which its owner alone can read, instead of standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Writes it whole, or leaves what was there.
pub fn write(target: &Target, text: &[u8]) -> Outcome {
    let Some(file) = &target.output else { return Ok(std::io::stdout().lock().write_all(text)?) };
    let failed = |error: std::io::Error| {
        Failure::new(
            FAILED,
            format!("{} cannot be written: {}", file.display(), error.kind()),
            "name a file in a folder of yours",
        )
    };
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let beside = file.with_file_name(format!(".{name}.{}", std::process::id()));
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside).and_then(|mut out| {
        out.write_all(text)?;
        out.sync_all()?;
        fs::rename(&beside, file)
    });
    written.map_err(|error| {
        let _ = fs::remove_file(&beside);
        failed(error)
    })
}
