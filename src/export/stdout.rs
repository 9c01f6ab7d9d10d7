//! To standard output, line by line as they stand in the log: for containers, whose runtime gathers them. The daemon's own log is on
//! standard error.

use std::io::{self, Write};

use tokio::task::JoinHandle;

use super::Failed;
use crate::audit::onward::Batch;

/// This process's standard output.
#[derive(Debug, Default)]
pub struct Stdout {
    /// A write that nobody reads on the other side. It holds up a thread, so there is one at a time.
    under_way: Option<JoinHandle<io::Result<()>>>,
    /// Did the last write fail, perhaps within a line?
    torn: bool,
}

impl Stdout {
    /// To be called with the same batch again where it was given up before its end.
    pub(super) async fn send(&mut self, batch: &Batch) -> Result<(), Failed> {
        let torn = self.torn;
        let lines = batch.lines();
        let write = self.under_way.get_or_insert_with(|| {
            let text = if torn { [b"\n".as_slice(), lines].concat() } else { lines.to_vec() };
            tokio::task::spawn_blocking(move || {
                let mut out = io::stdout().lock();
                out.write_all(&text)?;
                out.flush()
            })
        });
        let written = write.await.map_err(io::Error::other).flatten();
        self.under_way = None;
        self.torn = written.is_err();
        written.map_err(|error| Failed(format!("standard output cannot be written: {error}")))
    }
}
