//! Values that turned up where they should not be: counted exactly, and told to the log without letting a flood fill it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tracing::{error, warn};

use crate::name::{SecretName, SessionId, ToolName, Version};

/// Where a value was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Channel {
    Stdout,
    Stderr,
    Terminal,
    /// A text that somebody gave to the daemon to clean.
    Text,
    /// The daemon's own log.
    Log,
}

impl Channel {
    /// The word in events and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Terminal => "terminal",
            Self::Text => "text",
            Self::Log => "log",
        }
    }
}

/// What counts together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind {
    /// `None`: an operator's text, or the daemon's own log.
    pub tool: Option<ToolName>,
    /// `None`: the shape of a key, which is no secret of ours.
    pub secret: Option<SecretName>,
    pub channel: Channel,
    /// A word of [`crate::redact::Form`].
    pub encoding: &'static str,
}

/// Finds of one kind.
#[derive(Debug, Clone)]
pub struct Find {
    pub kind: Kind,
    pub session: Option<SessionId>,
    pub version: Option<Version>,
    pub count: u64,
    /// The tool is stopped for it.
    pub stopped: bool,
    /// Nobody uses this secret: something has leaked.
    pub canary: bool,
}

/// After the first of a kind, one line in this time tells of all that came since.
const QUIET: Duration = Duration::from_secs(10);

#[derive(Default)]
pub struct Redactions {
    seen: Mutex<BTreeMap<Kind, Seen>>,
}

struct Seen {
    total: u64,
    said_at: Duration,
    /// What no line has told of yet.
    unsaid: Option<Find>,
}

impl Redactions {
    /// Counts a find, and tells of it: the first of its kind at once. `now` is any monotonic time since a fixed point.
    pub fn add(&self, find: Find, now: Duration) {
        let mut seen = self.lock();
        let Some(known) = seen.get_mut(&find.kind) else {
            seen.insert(find.kind.clone(), Seen { total: find.count, said_at: now, unsaid: None });
            drop(seen);
            return say(&find, find.count);
        };
        known.total = known.total.saturating_add(find.count);
        let before = known.unsaid.take();
        let (count, stopped) = before.map_or((0, false), |before| (before.count, before.stopped));
        known.unsaid = Some(Find { count: count.saturating_add(find.count), stopped: stopped || find.stopped, ..find });
        let due = known.due(now);
        drop(seen);
        due.into_iter().for_each(|(find, total)| say(&find, total));
    }

    /// Tells of what has waited long enough.
    pub fn tell_due(&self, now: Duration) {
        let due: Vec<_> = self.lock().values_mut().filter_map(|known| known.due(now)).collect();
        due.iter().for_each(|(find, total)| say(find, *total));
    }

    /// Exact, by kind, since the daemon started.
    pub fn totals(&self) -> BTreeMap<Kind, u64> {
        self.lock().iter().map(|(kind, seen)| (kind.clone(), seen.total)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Kind, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn due(&mut self, now: Duration) -> Option<(Find, u64)> {
        if now.saturating_sub(self.said_at) < QUIET {
            return None;
        }
        let find = self.unsaid.take()?;
        self.said_at = now;
        Some((find, self.total))
    }
}

/// The event, in one place: these are its words and its fields. Names and fixed words alone; a version is a source's own word for it.
fn say(find: &Find, total: u64) {
    let Find { kind: Kind { tool, secret, channel, encoding }, session, version, count, stopped, canary } = find;
    let tool = tool.as_ref().map_or("-", |tool| tool.as_str());
    let secret = secret.as_ref().map_or("-", |secret| secret.as_str());
    let session = session.map_or_else(|| "-".into(), |session| session.to_string());
    let version = version.as_ref().map_or("-", |version| version.as_str());
    let channel = channel.word();
    if *canary {
        error!(
            %tool, %session, %secret, %version, channel, encoding, count, total, stopped,
            "CANARY: a secret that nobody uses was found: something has leaked"
        );
    } else {
        warn!(%tool, %session, %secret, %version, channel, encoding, count, total, stopped, "a value was found where none should be");
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        sync::{Arc, Mutex},
    };

    use super::*;
    use crate::redact::{
        Redactor,
        log::{Format, subscriber},
    };

    #[derive(Clone, Default)]
    struct Text(Arc<Mutex<Vec<u8>>>);

    impl Write for Text {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn find(secret: &str, count: u64) -> Find {
        let kind = Kind {
            tool: Some("server".parse().unwrap()),
            secret: Some(secret.parse().unwrap()),
            channel: Channel::Stdout,
            encoding: "raw",
        };
        Find { kind, session: None, version: Some(Version::from(3)), count, stopped: false, canary: secret == "decoy" }
    }

    /// The log's lines of what `happens` does.
    fn lines(happens: impl FnOnce(&Redactions)) -> Vec<String> {
        let text = Text::default();
        let log = subscriber(Format::Human, "info", Redactor::new().unwrap(), text.clone()).unwrap();
        tracing::subscriber::with_default(log, || happens(&Redactions::default()));
        String::from_utf8(text.0.lock().unwrap().clone()).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn the_first_is_told_at_once_and_a_flood_in_one_line() {
        let at = Duration::from_secs;
        let told = lines(|redactions| {
            redactions.add(find("a", 1), at(100));
            (0..5000).for_each(|_| redactions.add(find("a", 2), at(101)));
            redactions.tell_due(at(109));
            redactions.tell_due(at(110));
            redactions.tell_due(at(130));
            redactions.add(find("a", 7), at(131));
            assert_eq!(redactions.totals().into_values().collect::<Vec<_>>(), [10_008]);
        });
        let counts: Vec<_> = told.iter().map(|line| line.split("count=").nth(1).unwrap().split(' ').next().unwrap()).collect();
        assert_eq!(counts, ["1", "10000", "7"], "{told:#?}");
        assert!(told[1].contains("total=10001") && told[1].contains("WARN"), "{told:#?}");
    }

    #[test]
    fn another_kind_has_its_own_first_line_and_a_canary_its_own_word() {
        let told = lines(|redactions| {
            for secret in ["a", "b", "decoy"] {
                redactions.add(find(secret, 1), Duration::ZERO);
            }
        });
        assert_eq!(told.len(), 3, "{told:#?}");
        assert!(told[2].contains("ERROR") && told[2].contains("CANARY") && told[2].contains("secret=decoy"), "{told:#?}");
    }

    #[test]
    fn that_a_tool_is_stopped_is_not_lost_in_a_summary() {
        let told = lines(|redactions| {
            redactions.add(find("a", 1), Duration::ZERO);
            redactions.add(Find { stopped: true, ..find("a", 1) }, Duration::from_secs(1));
            redactions.add(find("a", 1), Duration::from_secs(2));
            redactions.tell_due(Duration::from_secs(20));
        });
        assert!(told[1].contains("stopped=true") && told[1].contains("count=2"), "{told:#?}");
    }
}
