//! The process half of `valetkey run`: a tool is started, watched and ended here.
//!
//! Three processes stand in a row: the *launcher*, which the client started and which relays what the tool says; its
//! *guardian*, which starts the tool and outlives the launcher by as long as it takes to clean up; and the *tool*, with all that
//! it starts in turn, its *tree*. What they promise:
//!
//! - **Exit.** The launcher exits as the tool's first process did, with 128 + n if signal n ended it, 127 if the program was
//!   not found and 126 if it could not be executed. Before that it passes on all that was written.
//! - **Nothing is left.** When the tool's first process has ended, the rest of the tree is asked to go (100 ms), told to
//!   (SIGTERM, 100 ms more) and killed, daemons in sessions of their own too. The same, without asking, when the launcher or
//!   the guardian is killed with SIGKILL. (When both are killed at once, the tool's first process goes with them, and what
//!   that has started may remain.) No zombies.
//! - **Signals.** Each that can be held is passed on to the tool; those that a terminal sends, to its process group. The tool
//!   starts with none held.
//! - **The end of input.** The tool inherits standard input, so that it sees the end at once. Where an MCP client is on the
//!   other side it has one second to go, then SIGTERM, and half a second later the tree is killed: within the two seconds
//!   that clients wait.
//! - **Output** passes in order, channel by channel, as it comes. A reader that stops reading stops the tool on that channel
//!   alone. One that closes standard output ends the tool as a closed pipe would, and 200 ms later with SIGTERM. Nothing that
//!   is shared with others is made non-blocking.
//! - **Terminals** stay terminals, see [`super::terminal`]; a tool that is stopped stops the launcher, and goes on with it.
//! - **Restarts.** The old tree is gone before a new tool starts. An MCP session survives, see [`super::relay::handshake`].
//!
//! The tool's own process group, no core dumps, and what [`Confinement`] says are in force before it runs.

mod confine;
mod ends;
mod events;
mod failure;
mod find;
mod guard;
mod guardian;
mod patience;
mod region;
mod replace;
mod restart;
mod signals;
mod spawn;
mod start;
mod streams;
mod supervise;
mod tree;
mod wire;

pub use super::relay::{Channel, Filter, Verdict};
pub use ends::{Ended, Why};
pub use events::{Event, Events, Number, Sender, channel};
pub use failure::NotStarted;
pub use find::find;
pub use guardian::Guardian;
pub use replace::replace;
pub use signals::Signals;
pub use start::{Confinement, Limit, Start, Variable};
pub use supervise::{Launched, launch, supervise};
