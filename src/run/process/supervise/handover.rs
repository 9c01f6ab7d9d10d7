//! From one tool to the next: what each of them and the client must be told.

use super::{Filter, Supervisor};
use crate::run::process::{Channel, restart::Restart};

impl<F: Filter> Supervisor<'_, F> {
    /// Holds back what the client says, and ends the old tool when it is time.
    pub(super) fn prepare_restart(&mut self) {
        if self.restart.must_hold() {
            self.streams.handshake.iter_mut().for_each(|handshake| handshake.hold());
        }
        if self.status.is_none() && self.restart.is_due(self.is_idle()) {
            self.streams.input.iter_mut().for_each(|input| input.close());
            self.patience.restart(self.streams.input.is_some());
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.streams.handshake.as_ref().is_none_or(|handshake| handshake.is_idle())
    }

    /// The old tool is gone: says to the client what it owed it.
    pub(super) fn make_way(&mut self) {
        let mut owed = Vec::new();
        self.streams.handshake.iter_mut().for_each(|handshake| handshake.ended(&mut owed));
        let stdout = self.streams.lanes.iter_mut().find(|lane| lane.channel() == Channel::Stdout);
        if let Some(lane) = stdout {
            lane.say(&owed);
        }
        self.streams.users.iter_mut().for_each(|users| users.restore());
    }

    /// The new tool is there: says to it what the client said to the old one first.
    pub(super) fn introduce(&mut self) {
        let mut opening = Vec::new();
        self.streams.handshake.iter_mut().for_each(|handshake| handshake.started(&mut opening));
        self.streams.input.iter_mut().for_each(|input| input.say(&opening));
        if self.restart.is_starting() {
            self.release();
        }
    }

    /// The tool is to end for good. Until it does, it is the one that the client speaks to.
    pub(super) fn give_up_restart(&mut self) {
        let mut waited = Vec::new();
        if self.restart.give_up() {
            self.streams.handshake.iter_mut().for_each(|handshake| handshake.resume(&mut waited));
            self.streams.input.iter_mut().for_each(|input| input.say(&waited));
        } else if self.restart.is_starting() && self.tool.is_some() {
            self.release();
        }
    }

    /// Lets the new tool have what has waited, once it may.
    pub(super) fn release(&mut self) {
        let mut waited = Vec::new();
        if self.streams.handshake.as_mut().is_none_or(|handshake| handshake.release(&mut waited)) {
            self.restart = Restart::None;
        }
        self.streams.input.iter_mut().for_each(|input| input.say(&waited));
    }
}
