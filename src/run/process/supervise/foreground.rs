//! Job control: who has the terminal, and what stops whom.

use std::os::fd::AsFd;

use super::{Filter, Supervisor};
use crate::run::process::{signals, wire::To};

impl<F: Filter> Supervisor<'_, F> {
    pub(super) fn stopped(&mut self, signal: i32) {
        let asks_for_keys = matches!(signal, libc::SIGTTIN | libc::SIGTTOU);
        match &mut self.streams.users {
            Some(users) if asks_for_keys && !self.wants_keys => {
                if !users.is_ours() {
                    // As the tool would be itself, in the background.
                    signals::suffer(signal, true);
                }
                self.wants_keys = true;
                return self.take_foreground();
            }
            Some(users) => {
                users.restore();
                self.streams.tools.iter().for_each(|tools| users.share_work(tools));
                self.streams.keys.iter_mut().for_each(|keys| keys.enabled = false);
                // With all that the shell started beside it, or the shell would not take the terminal back.
                signals::suffer(libc::SIGTSTP, true);
            }
            None => signals::suffer(libc::SIGSTOP, false),
        }
        self.go_on();
    }

    pub(super) fn go_on(&mut self) {
        self.take_foreground();
        self.guardian.signal(libc::SIGCONT, To::Group);
    }

    pub(super) fn has_keys(&self) -> bool {
        self.streams.users.as_ref().is_some_and(|users| users.is_raw())
    }

    /// Lets what is typed reach the tool, if it wants it and the terminal is ours to read.
    pub(super) fn take_foreground(&mut self) {
        let Some(users) = self.streams.users.as_mut().filter(|_| self.wants_keys && self.tool.is_some()) else { return };
        if users.is_raw() || !users.is_ours() || users.raw().is_err() {
            return;
        }
        users.copy_size_to(self.streams.tools.as_ref());
        self.streams.tools.iter().for_each(|tools| users.share_work(tools));
        self.streams.keys.iter_mut().for_each(|keys| keys.enabled = true);
        if let Some(tools) = self.streams.tools.as_ref().filter(|_| !self.streams.eager) {
            self.guardian.foreground(tools.as_fd());
        }
    }
}
