//! Directories in which a name decides: whoever may write there can put another file, or another socket, in the place of ours.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// The first of this directory and those above it that others than its owner may write. In a sticky one above (`/tmp`) nobody can replace
/// what is not theirs. Links are followed.
pub(crate) fn open_to_others(directory: &Path) -> io::Result<Option<PathBuf>> {
    for (at, one) in directory.canonicalize()?.ancestors().enumerate() {
        let mode = fs::metadata(one)?.mode();
        let sticky = at > 0 && mode & 0o1000 != 0;
        if mode & 0o022 != 0 && !sticky {
            return Ok(Some(one.to_owned()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn who_may_write_above_may_write_here() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().canonicalize().unwrap();
        let (between, below) = (top.join("a"), top.join("a/b"));
        fs::create_dir_all(&below).unwrap();
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        [&top, &between, &below].iter().for_each(|path| mode(path, 0o755));
        assert_eq!(open_to_others(&below).unwrap(), None);
        for (of, bits, found) in [
            (&between, 0o775, Some(&between)),
            (&between, 0o1777, None),
            (&below, 0o1777, Some(&below)),
            (&below, 0o757, Some(&below)),
        ] {
            mode(of, bits);
            assert_eq!(open_to_others(&below).unwrap().as_ref(), found, "{} {bits:o}", of.display());
            mode(of, 0o755);
        }
        // By the way that a link goes, not by the way that it is written.
        std::os::unix::fs::symlink(&below, top.join("link")).unwrap();
        mode(&between, 0o777);
        assert_eq!(open_to_others(&top.join("link")).unwrap(), Some(between));
        assert!(open_to_others(&top.join("none")).is_err());
    }
}
