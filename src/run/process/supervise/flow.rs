//! What flows: the tool's output, and its input where it does not inherit that.

use super::{Filter, Supervisor};
use crate::run::{
    process::{Channel, Why, restart::Restart},
    relay::lane::Step,
};

impl<F: Filter> Supervisor<'_, F> {
    pub(super) fn pull(&mut self, at: usize) -> Step {
        let handshake = self.streams.handshake.as_mut();
        let step = self.streams.lanes[at].pull(&mut self.buffer, self.filter, handshake);
        self.after(at, step);
        if self.restart.is_starting() {
            self.release();
        }
        step
    }

    pub(super) fn after(&mut self, at: usize, step: Step) {
        let lane = &mut self.streams.lanes[at];
        match (step, lane.channel()) {
            (Step::Forbidden, _) => {
                self.why = Why::Forbidden;
                self.end_now();
            }
            // The tool finds its own pipe closed, as it would have found the client's.
            (Step::Unread, Channel::Stdout | Channel::Terminal) => {
                lane.close();
                self.restart = Restart::None;
                self.patience.unread();
            }
            _ => {}
        }
    }

    pub(super) fn end_now(&mut self) {
        self.restart = Restart::None;
        self.streams.lanes.iter_mut().for_each(|lane| lane.close());
        self.guardian.kill();
    }

    /// The tree is gone: takes what is left in the pipes. Says whether all of it is passed on.
    pub(super) fn drained(&mut self) -> bool {
        // The kernel says that a terminal has ended once nobody has its other end, and not before all is read.
        self.streams.hang_up();
        for at in 0..self.streams.lanes.len() {
            while self.streams.lanes[at].source().is_some() {
                if self.pull(at) == Step::Idle {
                    // A stranger has the other end. It is not waited for.
                    let handshake = self.streams.handshake.as_mut();
                    let step = self.streams.lanes[at].end(self.filter, handshake);
                    self.after(at, step);
                }
            }
        }
        self.streams.lanes.iter().all(|lane| lane.is_done())
    }

    pub(super) fn input(&mut self) {
        let Some(input) = &mut self.streams.input else { return };
        input.pull(&mut self.buffer, self.streams.handshake.as_mut());
        if input.has_ended() {
            self.input_ended();
        }
    }

    pub(super) fn input_ended(&mut self) {
        if self.ends_with_input {
            self.give_up_restart();
            self.patience.input_ended();
        }
    }

    pub(super) fn pass_on_the_end(&mut self) {
        let waits = self.streams.handshake.as_ref().is_some_and(|handshake| handshake.holds());
        if !waits {
            self.streams.input.iter_mut().for_each(|input| input.pass_on_the_end());
        }
    }

    pub(super) fn keys(&mut self) {
        let (Some(keys), Some(users)) = (&mut self.streams.keys, &mut self.streams.users) else { return };
        if users.is_ours() {
            keys.pull(&mut self.buffer, None);
        } else {
            users.forget();
            keys.enabled = false;
        }
    }
}
