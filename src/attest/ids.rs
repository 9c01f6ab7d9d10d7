//! Which users and groups this process sees by their own numbers: in a user namespace the kernel shows all others as 65534
//! (user_namespaces(7)), and a selector that names one of them would fit nobody.

use std::{fs, io};

/// Ranges of numbers: the first, and how many.
type Ranges = Vec<(u32, u32)>;

/// The numbers that mean somebody here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenIds {
    users: Ranges,
    groups: Ranges,
}

impl SeenIds {
    /// As the kernel tells it of this process.
    ///
    /// # Errors
    /// As reading `/proc/self`.
    pub fn of_this_process() -> io::Result<Self> {
        Ok(Self {
            users: ranges(&fs::read_to_string("/proc/self/uid_map")?),
            groups: ranges(&fs::read_to_string("/proc/self/gid_map")?),
        })
    }

    pub fn has_user(&self, id: u32) -> bool {
        has(&self.users, id)
    }

    pub fn has_group(&self, id: u32) -> bool {
        has(&self.groups, id)
    }
}

fn has(ranges: &Ranges, id: u32) -> bool {
    ranges.iter().any(|(first, count)| id.checked_sub(*first).is_some_and(|offset| offset < *count))
}

/// Lines of a first number inside, the same outside, and a count. What is outside does not matter: numbers are shown as of inside.
fn ranges(map: &str) -> Ranges {
    let line = |line: &str| {
        let mut numbers = line.split_ascii_whitespace().map(|number| number.parse().ok());
        Some((numbers.next()??, numbers.nth(1)??))
    };
    map.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps() {
        let whole = ranges("         0          0 4294967295\n");
        assert!(has(&whole, 0) && has(&whole, 1000) && has(&whole, u32::MAX - 1) && !has(&whole, u32::MAX));
        let private = ranges("         0          0          1\n       998        998          1\n");
        assert!(has(&private, 0) && has(&private, 998));
        assert!(!has(&private, 1) && !has(&private, 997) && !has(&private, 999) && !has(&private, 65534));
        assert!(!has(&ranges(""), 0) && !has(&ranges("0 0\nx y z\n"), 0));
    }

    #[test]
    fn this_process_sees_itself() {
        let seen = SeenIds::of_this_process().unwrap();
        assert!(seen.has_user(rustix::process::geteuid().as_raw()));
        assert!(seen.has_group(rustix::process::getegid().as_raw()));
    }
}
