//! Which files are old enough, or too many, to go. Pure.

use std::time::{Duration, SystemTime};

use super::{files::FileName, line::Tip};

/// How much of the log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// How long a record is kept, at the least.
    pub age: Duration,
    /// Bytes of all files together, at the most; the current file is kept whatever it holds.
    pub bytes: u64,
}

/// A file of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub name: FileName,
    pub bytes: u64,
    /// The time of its first record, and what stood before that. `None`: it has no whole record.
    pub begins: Option<(SystemTime, Tip)>,
    /// Is it held by a flag of its file system?
    pub held: bool,
}

/// How many of the oldest files may go. A file's last record is as old as the first of the next, so the times of files do not matter.
pub fn too_many(files: &[Kept], keep: &Keep, now: SystemTime) -> usize {
    let mut total: u64 = files.iter().map(|file| file.bytes).sum();
    let mut count = 0;
    // What follows a file tells how it ended: the last one is never closed.
    while count + 1 < files.len() && !files[count].held {
        let Some((end, _)) = files[count + 1..].iter().find_map(|file| file.begins) else { break };
        let age = now.duration_since(end).unwrap_or_default();
        if age <= keep.age && total <= keep.bytes {
            break;
        }
        total -= files[count].bytes;
        count += 1;
    }
    count
}

/// What the chain had come to at the end of the file at this place.
pub fn end_of(files: &[Kept], at: usize) -> Option<Tip> {
    files[at + 1..].iter().find_map(|file| file.begins).map(|(_, before)| before)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::peer::Sha256;

    fn file(first: u64, day: u64) -> Kept {
        let before = Tip { seq: first - 1, hash: Sha256([0; 32]) };
        let begins = Some((UNIX_EPOCH + Duration::from_secs(day * 86_400), before));
        Kept { name: FileName { first, attempt: 0 }, bytes: 100, begins, held: false }
    }

    fn days(days: u64) -> Duration {
        Duration::from_secs(days * 86_400)
    }

    #[test]
    fn what_is_older_than_its_age_goes_and_the_current_file_never() {
        let files: Vec<_> = (0..5).map(|at| file(at * 10 + 1, at)).collect();
        let keep = Keep { age: days(2), bytes: u64::MAX };
        // The first file's last record is of day 1.
        assert_eq!(too_many(&files, &keep, UNIX_EPOCH + days(3)), 0);
        assert_eq!(too_many(&files, &keep, UNIX_EPOCH + days(3) + Duration::from_secs(1)), 1);
        assert_eq!(too_many(&files, &keep, UNIX_EPOCH + days(1000)), 4);
        assert_eq!(end_of(&files, 1).unwrap().seq, 20);
    }

    #[test]
    fn what_is_too_much_goes_oldest_first() {
        let files: Vec<_> = (0..5).map(|at| file(at * 10 + 1, at)).collect();
        for (bytes, count) in [(500, 0), (499, 1), (300, 2), (1, 4)] {
            assert_eq!(too_many(&files, &Keep { age: days(90), bytes }, UNIX_EPOCH + days(5)), count, "{bytes}");
        }
    }

    #[test]
    fn a_file_that_is_held_stays_and_so_do_all_after_it() {
        let mut files: Vec<_> = (0..5).map(|at| file(at * 10 + 1, at)).collect();
        files[1].held = true;
        assert_eq!(too_many(&files, &Keep { age: days(1), bytes: 1 }, UNIX_EPOCH + days(50)), 1);
    }
}
