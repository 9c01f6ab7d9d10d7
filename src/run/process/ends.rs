//! How it ended.

/// What [`super::supervise()`] returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// What the launcher is to exit with.
    pub code: u8,
    pub why: Why,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The tool ended, by itself or by a signal.
    Itself,
    /// [`super::Verdict::Stop`].
    Forbidden,
    /// [`super::Event::Stop`].
    Stopped,
}

/// What a shell would say of this wait status.
pub(super) fn code(status: i32) -> u8 {
    if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) as u8 } else { 128 + libc::WTERMSIG(status) as u8 }
}
