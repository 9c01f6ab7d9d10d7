//! Job control: who has the terminal, and what stops whom.

use std::os::fd::AsFd;

use super::{Filter, Supervisor};
use crate::run::{
    process::{Channel, signals, wire::To},
    relay::lane::Step,
};

/// A tool that writes all the time is not waited for.
const AT_ONCE: u32 = 16;

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
        let wanted = self.wants_keys && self.tool.is_some();
        let Some(users) = self.streams.users.as_mut().filter(|users| wanted && !users.is_raw() && users.is_ours()) else {
            return;
        };
        // What the tool wrote without line ends of its own is shown while the user's terminal still makes them.
        self.streams.tools.iter().for_each(|tools| users.give_work(tools));
        for at in 0..self.streams.lanes.len() {
            let mut left = AT_ONCE;
            while left > 0 && self.streams.lanes[at].channel() == Channel::Terminal && self.streams.lanes[at].source().is_some() {
                left = if self.pull(at) == Step::Idle { 0 } else { left - 1 };
            }
        }
        let Some(users) = self.streams.users.as_mut().filter(|users| !users.is_raw()) else { return };
        if users.raw().is_err() {
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
