//! How long an end may take.

use std::time::{Duration, Instant};

/// When the tree is told to go, when it is killed, and when the launcher leaves whatever is still unread. The earlier wins.
#[derive(Default, Clone, Copy)]
pub(super) struct Patience {
    pub term: Option<Instant>,
    pub kill: Option<Instant>,
    pub leave: Option<Instant>,
}

impl Patience {
    /// The client has closed the tool's input: clients wait two seconds.
    pub fn input_ended(&mut self) {
        self.lower(Some(1000), Some(1500), Some(1900));
    }

    /// Nobody reads standard output any more.
    pub fn unread(&mut self) {
        self.lower(Some(200), Some(700), None);
    }

    /// The tool is to make room for the next. Whose input was closed may go by itself first.
    pub fn restart(&mut self, input_was_closed: bool) {
        let first = if input_was_closed { 500 } else { 0 };
        self.lower(Some(first), Some(first + 2000), None);
    }

    fn lower(&mut self, term: Option<u64>, kill: Option<u64>, leave: Option<u64>) {
        let now = Instant::now();
        for (at, after) in [(&mut self.term, term), (&mut self.kill, kill), (&mut self.leave, leave)] {
            let wanted = after.map(|after| now + Duration::from_millis(after));
            *at = at.iter().copied().chain(wanted).min();
        }
    }

    pub fn next(&self) -> Option<Instant> {
        [self.term, self.kill, self.leave].into_iter().flatten().min()
    }
}

/// Whether the moment has come; it comes once.
pub(super) fn due(at: &mut Option<Instant>) -> bool {
    at.take_if(|at| *at <= Instant::now()).is_some()
}
