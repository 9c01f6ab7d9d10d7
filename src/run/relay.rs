//! What passes between the tool and its client: the streams, and the filter that they go through.

pub mod feed;
pub mod handshake;
pub mod lane;
pub mod sink;

/// Where the tool wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Channel {
    Stdout,
    Stderr,
    /// Whichever of them is a terminal: they are one there.
    Terminal,
}

/// Sees all that the tool writes, and decides what is passed on.
pub trait Filter {
    /// Bytes have come. Appends to `out` what may go on now; what it does not append it holds back.
    fn push(&mut self, channel: Channel, bytes: &[u8], out: &mut Vec<u8>) -> Verdict;
    /// No more will come on this channel from this process. Appends what was held back.
    fn finish(&mut self, channel: Channel, out: &mut Vec<u8>) -> Verdict;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    Pass,
    /// Policy stops the tool, before this is passed on.
    Stop,
}
