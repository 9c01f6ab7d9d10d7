//! The launcher's one loop: it waits for streams, signals, the guardian, other threads and the clock, with poll(2).

use std::{
    ffi::CString,
    io,
    os::fd::{AsFd, AsRawFd},
    time::{Duration, Instant},
};

use zeroize::Zeroizing;

use super::{
    Channel, Ended, Event, Events, Filter, Guardian, NotStarted, Signals, Start, Why, ends,
    patience::{Patience, due},
    restart::Restart,
    signals::{self, Come},
    spawn,
    streams::{Streams, given},
    wire::{Report, Sent, To},
};
use crate::run::relay::lane::Step;

/// How much is read at once: what a pipe holds.
const BUFFER: usize = 64 << 10;
/// How often a launcher in the background looks whether it has come to the foreground. A shell says so only to what is stopped.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Starts the tool and stands between it and whoever started the launcher, until it has ended. Then nothing of its tree is left.
///
/// In the main thread; see [`Signals::hold`] for when to start others. Errors of the streams or the filter never end the tool
/// silently: a client that is gone ends it as a closed pipe would.
pub fn supervise<F: Filter>(
    guardian: Guardian,
    signals: &Signals,
    start: Start,
    filter: &mut F,
    events: &Events,
) -> Result<Ended, NotStarted> {
    let program = start.program.clone();
    let streams = Streams::new(&start).map_err(|error| NotStarted::new(spawn::DESCRIPTORS, &program, error))?;
    let mut supervisor = Supervisor {
        watches_input: start.ends_with_input && streams.conversation && streams.input.is_none(),
        ends_with_input: start.ends_with_input && streams.conversation,
        wants_keys: streams.eager,
        guardian,
        signals,
        events,
        filter,
        streams,
        program,
        buffer: Zeroizing::new(vec![0; BUFFER]),
        tool: None,
        status: None,
        gone: false,
        why: Why::Itself,
        patience: Patience::default(),
        restart: Restart::None,
    };
    supervisor.launch(start)?;
    supervisor.run()
}

struct Supervisor<'a, F> {
    guardian: Guardian,
    signals: &'a Signals,
    events: &'a Events,
    filter: &'a mut F,
    streams: Streams,
    program: CString,
    /// What was read last, before it was filtered.
    buffer: Zeroizing<Vec<u8>>,
    tool: Option<i32>,
    /// The wait status of the tool's first process, once it has ended.
    status: Option<i32>,
    /// Nothing is left of the tree.
    gone: bool,
    why: Why,
    patience: Patience,
    restart: Restart,
    /// The tool has inherited its input, so that only its end can be seen here.
    watches_input: bool,
    ends_with_input: bool,
    /// The tool reads from the terminal, or has tried to.
    wants_keys: bool,
}

/// What poll(2) waited for.
#[derive(Clone, Copy)]
enum Source {
    Signals,
    Guardian,
    Events,
    InputEnd,
    Input,
    InputSink,
    Keys,
    KeysSink,
    Lane(usize),
    LaneSink(usize),
}

impl<F: Filter> Supervisor<'_, F> {
    fn launch(&mut self, start: Start) -> Result<(), NotStarted> {
        self.program.clone_from(&start.program);
        (self.tool, self.status, self.gone, self.patience) = (None, None, false, Patience::default());
        let program = &start.program;
        let failed = |step| move |error| NotStarted::new(step, program, error);
        let ends = self.streams.open().map_err(failed(spawn::DESCRIPTORS))?;
        let terminal = ends.terminal.zip(self.streams.users.as_ref().map(AsFd::as_fd));
        self.guardian.start(&start, ends.standard(), terminal).map_err(failed(spawn::PREPARE))
    }

    fn run(&mut self) -> Result<Ended, NotStarted> {
        let (mut sources, mut polled) = (Vec::new(), Vec::new());
        loop {
            if self.gone && self.drained() {
                let Some(next) = self.restart.take_next() else { return Ok(self.ended()) };
                self.make_way();
                self.launch(*next)?;
            }
            self.watch(&mut sources, &mut polled);
            self.wait(&mut polled);
            for (source, polled) in sources.iter().zip(&polled).filter(|(_, polled)| polled.revents != 0) {
                self.handle(*source, polled.revents)?;
            }
            if self.look_at_the_clock() {
                return Ok(self.ended());
            }
        }
    }

    fn ended(&self) -> Ended {
        // Where the guardian was killed and the status lost with it: as if by SIGKILL.
        Ended { code: ends::code(self.status.unwrap_or(libc::SIGKILL)), why: self.why }
    }

    fn watch(&self, sources: &mut Vec<Source>, polled: &mut Vec<libc::pollfd>) {
        sources.clear();
        polled.clear();
        let mut add = |source, fd: &dyn AsRawFd, events| {
            sources.push(source);
            polled.push(libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 });
        };
        for (at, lane) in self.streams.lanes.iter().enumerate() {
            // Of a tool that is gone, all is there already: `drained` takes it.
            lane.source().filter(|_| !self.gone).inspect(|fd| add(Source::Lane(at), fd, libc::POLLIN));
            lane.sink().inspect(|fd| add(Source::LaneSink(at), fd, libc::POLLOUT));
        }
        add(Source::Signals, &self.signals.as_fd(), libc::POLLIN);
        add(Source::Events, &self.events.as_fd(), libc::POLLIN);
        if !self.gone {
            add(Source::Guardian, &self.guardian.as_fd(), libc::POLLIN);
        }
        if self.watches_input {
            add(Source::InputEnd, &given(0), libc::POLLRDHUP);
        }
        if let Some(input) = &self.streams.input {
            input.source().inspect(|fd| add(Source::Input, fd, libc::POLLIN));
            input.sink().inspect(|fd| add(Source::InputSink, fd, libc::POLLOUT));
        }
        if let Some(keys) = &self.streams.keys {
            keys.source().inspect(|fd| add(Source::Keys, fd, libc::POLLIN));
            keys.sink().inspect(|fd| add(Source::KeysSink, fd, libc::POLLOUT));
        }
    }

    fn wait(&self, polled: &mut [libc::pollfd]) {
        let looks_again = (self.wants_keys && !self.has_keys() && !self.gone).then(|| Instant::now() + LOOK_AGAIN);
        let until = [self.patience.next(), self.restart.next(self.is_idle()), looks_again].into_iter().flatten().min();
        // Rounded up, so that the moment has come when it wakes.
        let limit = until.map_or(-1, |at| at.saturating_duration_since(Instant::now()).as_micros().div_ceil(1000) as i32);
        // SAFETY: a slice and its length.
        let ready = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as _, limit) };
        if ready < 0 {
            // Interrupted: nothing is known of any.
            polled.iter_mut().for_each(|polled| polled.revents = 0);
        }
    }

    fn handle(&mut self, source: Source, ready: i16) -> Result<(), NotStarted> {
        match source {
            Source::Lane(at) => {
                self.pull(at);
            }
            Source::LaneSink(at) => {
                let step = self.streams.lanes[at].push();
                self.after(at, step);
            }
            Source::Signals => {
                while let Some(come) = self.signals.next() {
                    self.signal(come);
                }
            }
            Source::Guardian => self.reports()?,
            Source::Events => self.events.take().into_iter().for_each(|event| self.event(event)),
            Source::InputEnd if ready & (libc::POLLHUP | libc::POLLRDHUP | libc::POLLERR | libc::POLLNVAL) != 0 => {
                self.watches_input = false;
                self.input_ended();
            }
            Source::InputEnd => {}
            Source::Input => self.input(),
            Source::InputSink => self.streams.input.iter_mut().for_each(|input| input.push()),
            Source::Keys => self.keys(),
            Source::KeysSink => self.streams.keys.iter_mut().for_each(|keys| keys.push()),
        }
        self.pass_on_the_end();
        Ok(())
    }

    // Output.

    fn pull(&mut self, at: usize) -> Step {
        let handshake = self.streams.handshake.as_mut();
        let step = self.streams.lanes[at].pull(&mut self.buffer, self.filter, handshake);
        self.after(at, step);
        if self.restart.is_starting() {
            self.release();
        }
        step
    }

    fn after(&mut self, at: usize, step: Step) {
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

    fn end_now(&mut self) {
        self.restart = Restart::None;
        self.streams.lanes.iter_mut().for_each(|lane| lane.close());
        self.guardian.kill();
    }

    /// The tree is gone: takes what is left in the pipes. Says whether all of it is passed on.
    fn drained(&mut self) -> bool {
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

    // Input.

    fn input(&mut self) {
        let Some(input) = &mut self.streams.input else { return };
        input.pull(&mut self.buffer, self.streams.handshake.as_mut());
        if input.has_ended() {
            self.input_ended();
        }
    }

    fn input_ended(&mut self) {
        if self.ends_with_input {
            self.restart.give_up();
            self.patience.input_ended();
        }
    }

    fn pass_on_the_end(&mut self) {
        let waits = self.streams.handshake.as_ref().is_some_and(|handshake| handshake.holds());
        if !waits {
            self.streams.input.iter_mut().for_each(|input| input.pass_on_the_end());
        }
    }

    fn keys(&mut self) {
        let (Some(keys), Some(users)) = (&mut self.streams.keys, &mut self.streams.users) else { return };
        if users.is_ours() {
            keys.pull(&mut self.buffer, None);
        } else {
            users.forget();
            keys.enabled = false;
        }
    }

    // What the guardian says.

    fn reports(&mut self) -> Result<(), NotStarted> {
        loop {
            match self.guardian.report() {
                Ok(None) => return Ok(()),
                Ok(Some(Report::Failed(step, error))) => {
                    return Err(NotStarted::new(step, &self.program, io::Error::from_raw_os_error(error)));
                }
                Ok(Some(report)) => self.report(report),
                Err(_) => {
                    self.status = self.guardian.stand_in(self.tool).or(self.status);
                    self.restart = Restart::None;
                    self.gone = true;
                    return Ok(());
                }
            }
        }
    }

    fn report(&mut self, report: Report) {
        match report {
            Report::Started(pid) => self.started(pid),
            Report::Stopped(signal) => self.stopped(signal),
            Report::Exited(status) => self.status = Some(status),
            Report::Gone | Report::Remains => self.gone = true,
            Report::Failed(..) => {}
        }
    }

    fn started(&mut self, pid: i32) {
        self.tool = Some(pid);
        self.take_foreground();
        if self.restart.is_starting() {
            let mut opening = Vec::new();
            self.streams.handshake.iter_mut().for_each(|handshake| handshake.started(&mut opening));
            self.streams.input.iter_mut().for_each(|input| input.say(&opening));
            self.release();
        }
    }

    // Job control.

    fn stopped(&mut self, signal: i32) {
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

    fn go_on(&mut self) {
        self.take_foreground();
        self.guardian.signal(libc::SIGCONT, To::Group);
    }

    fn has_keys(&self) -> bool {
        self.streams.users.as_ref().is_some_and(|users| users.is_raw())
    }

    /// Lets what is typed reach the tool, if it wants it and the terminal is ours to read.
    fn take_foreground(&mut self) {
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

    // Signals, events, time.

    fn signal(&mut self, Come { signal, value, by_terminal }: Come) {
        match signal {
            libc::SIGCHLD | libc::SIGTTIN | libc::SIGTTOU => {}
            libc::SIGCONT => self.go_on(),
            libc::SIGWINCH if self.streams.users.is_some() => {
                self.streams.users.iter().for_each(|users| users.copy_size_to(self.streams.tools.as_ref()));
            }
            _ => {
                let to = if by_terminal { To::Group } else { To::Tool };
                self.guardian.pass_on(Sent { signal, value }, to);
                self.told_to_end(signal);
            }
        }
    }

    fn told_to_end(&mut self, signal: i32) {
        if matches!(signal, libc::SIGTERM | libc::SIGINT | libc::SIGHUP | libc::SIGQUIT) {
            self.restart.give_up();
            if self.status.is_some() {
                // The tool is; what holds the launcher is the rest of its tree, or an unread pipe.
                self.guardian.kill();
                self.patience.leave = self.patience.leave.or(self.gone.then(Instant::now));
            }
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Signal(signal) => self.guardian.signal(signal, To::Tool),
            Event::Restart(next) => self.restart.ask(next),
            Event::Stop => {
                self.why = Why::Stopped;
                self.restart = Restart::None;
                self.guardian.kill();
            }
        }
    }

    /// Does what is due. Says whether it is time to leave.
    fn look_at_the_clock(&mut self) -> bool {
        if self.restart.must_hold() {
            self.streams.handshake.iter_mut().for_each(|handshake| handshake.hold());
        }
        if self.status.is_none() && self.restart.is_due(self.is_idle()) {
            self.streams.input.iter_mut().for_each(|input| input.close());
            self.patience.restart(self.streams.input.is_some());
        }
        if due(&mut self.patience.term) {
            self.guardian.signal(libc::SIGTERM, To::Tree);
        }
        if due(&mut self.patience.kill) {
            self.guardian.kill();
        }
        if self.wants_keys && !self.has_keys() {
            self.take_foreground();
        }
        due(&mut self.patience.leave)
    }

    // Restarts.

    fn is_idle(&self) -> bool {
        self.streams.handshake.as_ref().is_none_or(|handshake| handshake.is_idle())
    }

    /// The old tool is gone: says to the client what it owed it.
    fn make_way(&mut self) {
        let mut owed = Vec::new();
        self.streams.handshake.iter_mut().for_each(|handshake| handshake.ended(&mut owed));
        let stdout = self.streams.lanes.iter_mut().find(|lane| lane.channel() == Channel::Stdout);
        if let Some(lane) = stdout {
            lane.say(&owed);
        }
        self.streams.users.iter_mut().for_each(|users| users.restore());
    }

    fn release(&mut self) {
        let mut waited = Vec::new();
        if self.streams.handshake.as_mut().is_none_or(|handshake| handshake.release(&mut waited)) {
            self.restart = Restart::None;
        }
        self.streams.input.iter_mut().for_each(|input| input.say(&waited));
    }
}
