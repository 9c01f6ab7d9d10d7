//! The launcher's one loop: it waits for streams, signals, the guardian, other threads and the clock, with poll(2).

mod flow;
mod foreground;
mod handover;
mod watch;

use std::{ffi::CString, io, os::fd::AsFd, time::Instant};

use super::{
    Ended, Event, Events, Filter, Guardian, NotStarted, Number, Signals, Start, Why, ends,
    patience::{Patience, due},
    restart::Restart,
    signals::Come,
    spawn,
    streams::Streams,
    wire::{Report, Sent, To},
};
use watch::Source;

/// How much is read at once: what a pipe holds.
const BUFFER: usize = 64 << 10;

/// A tool whose start is ordered: the guardian sees to it, and nothing that the tool writes is read yet. What the launcher still
/// has to make ready, it makes ready meanwhile. Dropped, it ends the tool.
pub struct Launched<'a> {
    guardian: Guardian,
    signals: &'a Signals,
    events: &'a Events,
    streams: Streams,
    program: CString,
    ends_with_input: bool,
}

/// Orders the tool's start.
///
/// In the main thread; see [`Signals::hold`] for when to start others.
pub fn launch<'a>(
    mut guardian: Guardian,
    signals: &'a Signals,
    start: &Start,
    events: &'a Events,
) -> Result<Launched<'a>, NotStarted> {
    let failed = |error| NotStarted::new(spawn::DESCRIPTORS, &start.program, error);
    let mut streams = Streams::new(start).map_err(failed)?;
    order(&mut guardian, &mut streams, start)?;
    let ends_with_input = start.ends_with_input && streams.conversation;
    Ok(Launched { guardian, signals, events, streams, program: start.program.clone(), ends_with_input })
}

impl Launched<'_> {
    /// Stands between the tool and whoever started the launcher, until it has ended. Then nothing of its tree is left.
    ///
    /// Errors of the streams or the filter never end the tool silently: a client that is gone ends it as a closed pipe would.
    pub fn supervise<F: Filter>(self, filter: &mut F) -> Result<Ended, NotStarted> {
        let Self { guardian, signals, events, streams, program, ends_with_input } = self;
        let mut supervisor = Supervisor {
            watches_input: ends_with_input,
            ends_with_input,
            wants_keys: streams.eager,
            guardian,
            signals,
            events,
            filter,
            streams,
            program,
            buffer: vec![0; BUFFER],
            tool: None,
            status: None,
            gone: false,
            why: Why::Itself,
            patience: Patience::default(),
            restart: Restart::None,
            takes_over: None,
        };
        supervisor.run()
    }
}

/// Starts the tool and supervises it.
pub fn supervise<F: Filter>(
    guardian: Guardian,
    signals: &Signals,
    start: Start,
    filter: &mut F,
    events: &Events,
) -> Result<Ended, NotStarted> {
    let launched = launch(guardian, signals, &start, events)?;
    drop(start);
    launched.supervise(filter)
}

/// Hands the start to the guardian. The answer comes as a report.
fn order(guardian: &mut Guardian, streams: &mut Streams, start: &Start) -> Result<(), NotStarted> {
    let failed = |step| move |error| NotStarted::new(step, &start.program, error);
    let ends = streams.open().map_err(failed(spawn::DESCRIPTORS))?;
    let terminal = ends.terminal.zip(streams.users.as_ref().map(AsFd::as_fd));
    guardian.start(start, ends.standard(), terminal).map_err(failed(spawn::PREPARE))
}

struct Supervisor<'a, F> {
    signals: &'a Signals,
    events: &'a Events,
    filter: &'a mut F,
    streams: Streams,
    program: CString,
    /// Room to read into. Whoever reads wipes what was read.
    buffer: Vec<u8>,
    tool: Option<i32>,
    /// The wait status of the tool's first process, once it has ended.
    status: Option<i32>,
    /// Nothing is left of the tree.
    gone: bool,
    why: Why,
    patience: Patience,
    restart: Restart,
    /// The number of the restart whose tool is being started.
    takes_over: Option<Number>,
    /// The end of input is still to come, and is to be seen here even while nothing is read: because the tool has inherited it, or
    /// because what was read waits.
    watches_input: bool,
    ends_with_input: bool,
    /// The tool reads from the terminal, or has tried to.
    wants_keys: bool,
    /// Dropped last: that waits for it, and what it has to do for its end it does while the rest is dropped.
    guardian: Guardian,
}

impl<F: Filter> Supervisor<'_, F> {
    fn launch_again(&mut self, start: &Start, number: Number) -> Result<(), NotStarted> {
        self.takes_over = Some(number);
        self.program.clone_from(&start.program);
        (self.tool, self.status, self.gone, self.patience) = (None, None, false, Patience::default());
        order(&mut self.guardian, &mut self.streams, start)
    }

    fn run(&mut self) -> Result<Ended, NotStarted> {
        let (mut sources, mut polled) = (Vec::new(), Vec::new());
        loop {
            if self.gone && self.drained() {
                let Some((next, number)) = self.restart.take_next() else { return Ok(self.ended()) };
                self.make_way();
                self.launch_again(&next, number)?;
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
        // Where the guardian was killed and the status lost with it: as if by SIGKILL. The same where a tool that was to be killed had
        // ended by then: what it wrote was not passed on, and that is no success.
        let status = self.status.filter(|_| self.why != Why::Forbidden).unwrap_or(libc::SIGKILL);
        Ended { code: ends::code(status), why: self.why }
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

    // What the guardian says.

    fn reports(&mut self) -> Result<(), NotStarted> {
        loop {
            match self.guardian.report() {
                Ok(None) => return Ok(()),
                Ok(Some(Report::Failed(step, error))) => {
                    return Err(NotStarted::new(step, &self.program, io::Error::from_raw_os_error(error)));
                }
                Ok(Some(report)) => self.report(report),
                Err(_) if self.gone => return Ok(()),
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
            Report::Gone | Report::Remains => {
                self.gone = true;
                // Nothing will be started in its place, and there is no terminal to be put back.
                if !self.restart.is_ending() && self.streams.users.is_none() {
                    self.guardian.dismiss();
                }
            }
            Report::Failed(..) => {}
        }
    }

    fn started(&mut self, pid: i32) {
        self.tool = Some(pid);
        if let Some(number) = self.takes_over.take() {
            self.events.has_begun(number);
        }
        self.take_foreground();
        if self.restart.introduces() {
            self.introduce();
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
            self.give_up_restart();
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
            Event::Restart(next, number) => self.restart.ask(next, number),
            Event::Stop => {
                self.why = Why::Stopped;
                self.restart = Restart::None;
                self.guardian.kill();
            }
        }
    }

    /// Does what is due. Says whether it is time to leave.
    fn look_at_the_clock(&mut self) -> bool {
        self.prepare_restart();
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
}
