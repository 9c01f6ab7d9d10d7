//! How far a restart has come.

use std::time::{Duration, Instant};

use super::{Number, Start};

/// Several secrets change together, and the tool is started once.
const COALESCE: Duration = Duration::from_millis(200);
/// How long requests under way may take before they are cut off.
const UNDER_WAY: Duration = Duration::from_secs(5);

pub(super) enum Restart {
    None,
    /// Not before `after`, so that what comes together is one; and then when nothing is under way, or at `by`.
    Asked {
        next: Box<Start>,
        number: Number,
        after: Instant,
        by: Instant,
        /// The tool that is there has been told what it must know, and may have what waits.
        introduced: bool,
    },
    /// The old tool is on its way out.
    Ending {
        next: Box<Start>,
        number: Number,
    },
    /// The new tool is there, or almost, and has not been told yet what it must know.
    Starting,
}

impl Restart {
    pub fn ask(&mut self, new: Box<Start>, as_number: Number) {
        match self {
            Self::Asked { next, number, .. } | Self::Ending { next, number } => (*next, *number) = (new, as_number),
            Self::None | Self::Starting => {
                let after = Instant::now() + COALESCE;
                *self =
                    Self::Asked { next: new, number: as_number, after, by: after + UNDER_WAY, introduced: !self.is_starting() };
            }
        }
    }

    /// Whether the client's requests are to wait.
    pub fn must_hold(&self) -> bool {
        matches!(self, Self::Asked { after, .. } if *after <= Instant::now())
    }

    /// Whether the old tool is to end now; that is so once.
    pub fn is_due(&mut self, idle: bool) -> bool {
        let now = Instant::now();
        match std::mem::replace(self, Self::None) {
            Self::Asked { next, number, after, by, .. } if after <= now && (idle || by <= now) => {
                *self = Self::Ending { next, number };
                true
            }
            other => {
                *self = other;
                false
            }
        }
    }

    /// The next moment that matters.
    pub fn next(&self, idle: bool) -> Option<Instant> {
        match self {
            Self::Asked { after, by, .. } => Some(if idle || *after > Instant::now() { *after } else { *by }),
            _ => None,
        }
    }

    /// What is to be started, now that the old tool is gone.
    pub fn take_next(&mut self) -> Option<(Box<Start>, Number)> {
        match std::mem::replace(self, Self::None) {
            Self::Ending { next, number } => {
                *self = Self::Starting;
                Some((next, number))
            }
            _ => None,
        }
    }

    /// Whether another tool is to be started once this one is gone.
    pub fn is_ending(&self) -> bool {
        matches!(self, Self::Ending { .. })
    }

    pub fn is_starting(&self) -> bool {
        matches!(self, Self::Starting)
    }

    /// Whether the tool that comes is one that takes another's place, be it that a third is asked for already.
    pub fn introduces(&self) -> bool {
        matches!(self, Self::Starting | Self::Asked { introduced: false, .. })
    }

    /// The tool is to end for good: nothing is started in its place. Until it does it may have what waits for the next, if that is
    /// so: then `true`. One that is still to be introduced comes to that by its introduction.
    pub fn give_up(&mut self) -> bool {
        match std::mem::replace(self, Self::None) {
            Self::Asked { introduced, .. } if introduced => true,
            Self::Asked { .. } | Self::Starting => {
                *self = Self::Starting;
                false
            }
            Self::None | Self::Ending { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next() -> Box<Start> {
        Box::new(Start {
            program: c"true".into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            keep: Vec::new(),
            confinement: None,
            relay_input: true,
            ends_with_input: true,
        })
    }

    #[test]
    fn a_tool_that_is_still_to_be_introduced_is_so_also_when_its_successor_is_given_up() {
        let mut restart = Restart::None;
        restart.ask(next(), 1);
        assert!(restart.give_up() && matches!(restart, Restart::None));
        let mut restart = Restart::Starting;
        restart.ask(next(), 1);
        assert!(restart.introduces() && !restart.is_starting());
        assert!(!restart.give_up() && restart.is_starting());
        let mut restart = Restart::Ending { next: next(), number: 1 };
        assert!(!restart.give_up() && restart.take_next().is_none());
    }
}
