//! The steps of a rotation, and what follows from what. Pure: no clock, no runtime, no names and no values.
//!
//! A state says what is tried *now*; it is on disk before it is tried, and everything that is tried may be tried again. So after a crash
//! there is nothing to find out but which state was written last. `machine/tests.rs` goes through every state, every outcome and every crash.

use serde::{Deserialize, Serialize};

/// What is tried. The first four are those of AWS (create, set, test, finish).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// A new value is made, and staged at the source.
    Create,
    /// The system that the secret opens is told of it. It takes the old one too from here on.
    Set,
    /// The new value is used there.
    Test,
    /// It becomes current at the source.
    Finish,
    /// Holders move to it. Both values are good.
    Overlap,
    /// The system stops taking the old value.
    Retire,
    /// The old value becomes current again, because an operator said so.
    Restore,
    /// Holders move back. Both values are good.
    Return,
    /// The system stops taking the new value, and nothing is staged any more.
    Undo,
    /// Nothing is left to do.
    Over,
}

/// How a rotation ended, or will.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// The new value is current, and the old one retired.
    Rotated,
    /// A step before the finish failed, or was broken off: all is as it was.
    Undone,
    /// Somebody else rotated the secret at the same time, and was first.
    Lost,
    /// An operator had the old value back.
    RolledBack,
}

/// Where a rotation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct State {
    pub step: Step,
    /// How often this step has failed.
    pub failed: u32,
    pub end: Option<End>,
}

/// What came of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Event {
    /// It is done. For the overlap: every holder has moved, or may not be waited for any longer.
    Done,
    /// It did not happen, or perhaps it did.
    Failed,
    /// It did not happen, and never will: it makes no sense to try again.
    Impossible,
    /// Somebody else was first.
    Lost,
    /// An operator wants the old value back.
    RollBack,
    /// The process that was at it is gone, and this is another.
    Resumed,
}

/// A step before the finish that fails is tried so often.
pub const TRIES: u32 = 3;

impl State {
    /// Of a rotation that begins.
    pub const BEGIN: Self = Self { step: Step::Create, failed: 0, end: None };

    const fn at(step: Step, end: Option<End>) -> Self {
        Self { step, failed: 0, end }
    }

    const fn again(self) -> Self {
        Self { failed: self.failed.saturating_add(1), ..self }
    }

    pub fn is_over(self) -> bool {
        self.step == Step::Over
    }

    /// May an operator have the old value back now?
    pub fn may_roll_back(self) -> bool {
        matches!(self.step, Step::Set | Step::Test | Step::Overlap)
    }

    /// What is tried next. The same state again: the same step again.
    pub fn next(self, event: Event) -> Self {
        use {End::*, Event::*, Step::*};
        let undo = |end| Self::at(Undo, Some(end));
        match (self.step, event) {
            (Over, _) => self,

            // Whether a value was made, and how far it came, nobody knows after a crash or a failure: it is taken back.
            (Create, Done) => Self::at(Set, None),
            (Create, Event::Lost) => undo(End::Lost),
            (Create, _) => undo(Undone),

            (Set, Done) => Self::at(Test, None),
            (Test, Done) => Self::at(Finish, None),
            (Set | Test, Failed) if self.failed + 1 < TRIES => self.again(),
            (Set | Test, Resumed) => self,
            (Set | Test, Event::Lost) => undo(End::Lost),
            (Set | Test, _) => undo(Undone),

            // It may have happened: there is no way back from here but by finding out that it did not.
            (Finish, Done) => Self::at(Overlap, None),
            (Finish, Event::Lost) => undo(End::Lost),
            (Finish, Impossible) => undo(Undone),
            (Finish, Failed) => self.again(),
            (Finish, RollBack | Resumed) => self,

            (Overlap, Done) => Self::at(Retire, Some(Rotated)),
            (Overlap, RollBack) => Self::at(Restore, Some(RolledBack)),
            (Overlap, _) => self,

            // Both values are good until it succeeds, so it is tried for as long as it takes.
            (Retire, Done) => Self::at(Over, self.end),
            (Retire, Failed | Impossible) => self.again(),
            (Retire, _) => self,

            (Restore, Done) => Self::at(Return, self.end),
            // Another value is current by now, and this rotation's is none of anybody's business any more.
            (Restore, Event::Lost) => undo(End::Lost),
            (Restore, Failed | Impossible) => self.again(),
            (Restore, _) => self,

            (Return, Done) => Self::at(Undo, self.end),
            (Return, _) => self,

            (Undo, Done) => Self::at(Over, self.end),
            (Undo, Failed | Impossible) => self.again(),
            (Undo, _) => self,
        }
    }
}

impl Step {
    /// The word in logs, listings and the audit log.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Set => "set",
            Self::Test => "test",
            Self::Finish => "finish",
            Self::Overlap => "overlap",
            Self::Retire => "retire",
            Self::Restore => "restore",
            Self::Return => "return",
            Self::Undo => "undo",
            Self::Over => "over",
        }
    }
}

impl End {
    pub const fn word(self) -> &'static str {
        match self {
            Self::Rotated => "rotated",
            Self::Undone => "undone",
            Self::Lost => "lost",
            Self::RolledBack => "rolled-back",
        }
    }
}

#[cfg(test)]
mod tests;
