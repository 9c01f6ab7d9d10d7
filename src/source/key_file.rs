//! The files that hold a source's own way in: an age identity, a Vault token, an AppRole's secret id, keys of AWS.

use std::{
    fs::{self, File, Metadata},
    io::Read,
    os::unix::fs::MetadataExt,
    path::Path,
};

use zeroize::Zeroizing;

use super::{Cause, SourceError};

/// Longer than any of them is. Also the size of the buffer, so that reading never outgrows it and leaves a copy behind.
const LONGEST: usize = 64 * 1024;

/// Reads such a file, without the white space around it. One that others on the host may read or write is refused: what is in it
/// opens everything.
pub(crate) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, SourceError> {
    read_where(path, "read or written", |facts| is_private(facts.mode(), facts.gid()))
}

/// The same with a file that others may read, because whoever writes it makes it so: a projected token of Kubernetes.
pub(super) fn read_shared(path: &Path) -> Result<Zeroizing<Vec<u8>>, SourceError> {
    read_where(path, "written", |facts| facts.mode() & 0o002 == 0)
}

fn read_where(path: &Path, fault: &str, is_fit: impl FnOnce(&Metadata) -> bool) -> Result<Zeroizing<Vec<u8>>, SourceError> {
    let shown = path.display();
    let unreadable = |error: std::io::Error| SourceError::new(Cause::Refused, format!("cannot read {shown}: {error}"));
    let file = File::open(path).map_err(unreadable)?;
    let facts = file.metadata().map_err(unreadable)?;
    judge(path, &facts, fault, is_fit)?;
    let mut content = Zeroizing::new(Vec::with_capacity(LONGEST + 1));
    file.take(LONGEST as u64).read_to_end(&mut content).map_err(unreadable)?;
    let end = content.trim_ascii_end().len();
    content.truncate(end);
    let start = content.len() - content.trim_ascii_start().len();
    content.drain(..start);
    match content.is_empty() {
        true => Err(SourceError::new(Cause::Refused, format!("{shown} is empty"))),
        false => Ok(content),
    }
}

/// The same judgement of a private file that somebody else will read. One that is not there is not judged.
pub(super) fn check(path: &Path) -> Result<(), SourceError> {
    fs::metadata(path)
        .map_or(Ok(()), |facts| judge(path, &facts, "read or written", |facts| is_private(facts.mode(), facts.gid())))
}

fn judge(path: &Path, facts: &Metadata, fault: &str, is_fit: impl FnOnce(&Metadata) -> bool) -> Result<(), SourceError> {
    let shown = path.display();
    if !facts.is_file() {
        return Err(SourceError::new(Cause::Refused, format!("{shown} is not a file")));
    }
    if !is_fit(facts) {
        let problem = format!("{shown} can be {fault} by others on this host: chmod 600 {shown}, and replace the key in it");
        return Err(SourceError::new(Cause::Refused, problem));
    }
    Ok(())
}

/// May nobody but the file's owner and root read it? Reading by group 0 is let pass, because that is how a systemd credential looks to a
/// service that is not root: owned by root, 0400, and an access list for the service's user whose mask shows as the group's bits.
fn is_private(mode: u32, group: u32) -> bool {
    let others = mode & 0o077;
    others == 0 || (others == 0o040 && group == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_read_the_file() {
        for (mode, group, private) in [
            (0o600, 1000, true),
            (0o400, 0, true),
            (0o440, 0, true),
            (0o440, 1000, false),
            (0o660, 0, false),
            (0o604, 0, false),
            (0o602, 0, false),
            (0o444, 0, false),
        ] {
            assert_eq!(is_private(mode, group), private, "{mode:o} {group}");
        }
    }
}
