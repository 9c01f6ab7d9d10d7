//! The descriptors 0, 1 and 2: what they are, and what the tool gets in their place.

use std::{
    io::{self, pipe},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{FileType, OFlags, fstat},
    termios::isatty,
};

use super::{Channel, Start, spawn::Terminal};
use crate::run::{
    relay::{feed::Feed, handshake::Handshake, lane::Lane, sink::Sink},
    terminal::UsersTerminal,
};

/// All that flows between the tool and whoever started the launcher. Outlives a restart.
pub(super) struct Streams {
    pub lanes: Vec<Lane>,
    /// Standard input, where the tool does not inherit it.
    pub input: Option<Feed>,
    pub handshake: Option<Handshake>,
    pub users: Option<UsersTerminal>,
    /// What is typed.
    pub keys: Option<Feed>,
    /// The launcher's end of the tool's terminal.
    pub tools: Option<OwnedFd>,
    /// Whether the tool may read what is typed from the start.
    pub eager: bool,
    terminals: [bool; 3],
    /// Both ends of the conversation are pipes or sockets.
    pub conversation: bool,
}

/// The tool's own ends, to be closed here once it has them.
pub(super) struct Ends {
    standard: [Option<OwnedFd>; 3],
    pub terminal: Option<Terminal>,
}

impl Ends {
    /// Where there is none, the tool inherits the launcher's.
    pub fn standard(&self) -> [BorrowedFd<'_>; 3] {
        [0, 1, 2].map(|at| self.standard[at].as_ref().map_or(given(at), AsFd::as_fd))
    }
}

impl Streams {
    /// Looks at what the launcher was given.
    pub fn new(start: &Start) -> io::Result<Self> {
        let all = [0, 1, 2].map(given);
        let (terminals, pipes) = (all.map(isatty), all.map(is_pipe));
        let users = UsersTerminal::find(&all)?;
        let keys = users.as_ref().map(|users| duplicate(users.as_fd())).transpose()?.map(|from| Feed::new(from, false));
        let relayed = start.relay_input && !terminals[0];
        let input = relayed.then(|| duplicate(given(0))).transpose()?.map(|from| Feed::new(from, true));
        Ok(Self {
            lanes: lanes(&terminals, users.as_ref())?,
            handshake: input.is_some().then(Handshake::default),
            input,
            users,
            keys,
            tools: None,
            // In a pipeline another process may be reading what is typed (`tool | less`).
            eager: terminals[0] && pipes == [false; 3],
            terminals,
            conversation: pipes[0] && pipes[1],
        })
    }

    /// New ends, for a tool about to start.
    pub fn open(&mut self) -> io::Result<Ends> {
        let mut ends = Ends { standard: [None, None, None], terminal: None };
        if let Some(users) = &mut self.users {
            let (ours, tools) = users.copy()?;
            let at = self.terminals.iter().position(|is| *is).unwrap_or_default();
            ends.terminal = Some(Terminal { at: at as i32, foreground: self.eager });
            for at in (0..3).filter(|at| self.terminals[*at]) {
                ends.standard[at] = Some(duplicate(tools.as_fd())?);
            }
            self.lead(Channel::Terminal, duplicate(ours.as_fd())?);
            if let Some(keys) = &mut self.keys {
                keys.lead_to(duplicate(ours.as_fd())?);
            }
            self.tools = Some(ours);
        }
        for (at, channel) in [(1, Channel::Stdout), (2, Channel::Stderr)] {
            if !self.terminals[at] {
                let (ours, tools) = pipe()?;
                self.lead(channel, unblocked(ours.into())?);
                ends.standard[at] = Some(tools.into());
            }
        }
        if let Some(input) = &mut self.input {
            let (tools, ours) = pipe()?;
            input.lead_to(unblocked(ours.into())?);
            ends.standard[0] = Some(tools.into());
        }
        Ok(ends)
    }

    fn lead(&mut self, channel: Channel, from: OwnedFd) {
        if let Some(lane) = self.lanes.iter_mut().find(|lane| lane.channel() == channel) {
            lane.lead_from(from);
        }
    }

    /// Nothing more comes from the tool that was, and nothing more goes to it.
    pub fn hang_up(&mut self) {
        self.tools = None;
        self.keys.iter_mut().chain(&mut self.input).for_each(Feed::close);
    }
}

fn lanes(terminals: &[bool; 3], users: Option<&UsersTerminal>) -> io::Result<Vec<Lane>> {
    let mut lanes = Vec::new();
    for (at, channel) in [(1, Channel::Stdout), (2, Channel::Stderr)] {
        if !terminals[at] {
            lanes.push(Lane::new(channel, Sink::new(given(at))?));
        }
    }
    if let Some(users) = users {
        // What it echoes is shown even where only standard input is a terminal.
        let shown = match [1, 2].into_iter().find(|at| terminals[*at]) {
            Some(at) => Sink::new(given(at))?,
            None => Sink::new(users.as_fd())?,
        };
        lanes.push(Lane::new(Channel::Terminal, shown));
    }
    Ok(lanes)
}

/// Standard input, output or error, as the launcher has it.
pub(super) fn given(at: usize) -> BorrowedFd<'static> {
    // SAFETY: Rust's runtime opens all three before `main`, where they were closed; nobody here closes them.
    unsafe { BorrowedFd::borrow_raw(at as i32) }
}

fn is_pipe(fd: BorrowedFd<'_>) -> bool {
    fstat(fd).is_ok_and(|is| matches!(FileType::from_raw_mode(is.st_mode), FileType::Fifo | FileType::Socket))
}

fn duplicate(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, 3)?)
}

/// For our end of a pipe that we made: the other end is another open file description.
fn unblocked(fd: OwnedFd) -> io::Result<OwnedFd> {
    rustix::fs::fcntl_setfl(&fd, OFlags::NONBLOCK)?;
    Ok(fd)
}
