//! Credentials of systemd units: `LoadCredential=NAME:SOCKET` makes systemd connect when it starts the unit, and read until the end.
//!
//! There is no protocol, and so no way to say no: an end without data is an empty credential, and the unit starts with it; an end too
//! early is one that is cut off. What makes the unit fail (`status=243/CREDENTIALS`) is more than systemd takes, so that is how a
//! refusal is written, and whatever else happens to an answer that is not whole: a panic here, a stop. Seen with systemd 252, 257, 262.
//!
//! So nothing is accepted before it can be answered: who waits in the socket's queue, which is systemd's, is answered by the next daemon
//! where this one ends. And no answer is broken off because its reader is slow.

use std::{io, os::fd::AsFd, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use rustix::net::{SendFlags, send, sockopt};
use tokio::{io::Interest, net::UnixStream, sync::Semaphore, task::JoinSet};
use tracing::{debug, error, warn};

use super::listener::Listener;
use crate::{
    attest::{Asker, Attestor, NotSystemd},
    broker::{Broker, Refused, UnderWay},
    store::Held,
};

/// Answers at one time. systemd starts some hundred units at once at the most; more wait in the socket's queue.
const AT_ONCE: usize = 256;

/// What systemd takes, of all credentials of a unit together (`CREDENTIALS_TOTAL_SIZE_MAX`), is 1 MiB.
const TOO_MUCH: usize = 1024 * 1024 + 1;

/// The time that the last word of a stopping daemon may take for one connection.
const LAST_WORD: Duration = Duration::from_millis(250);

static NOTHING: [u8; 64 * 1024] = [0; 64 * 1024];

/// Answers systemd until `stop` resolves and every answer is given. To be called once there is an answer to be had.
pub async fn serve_credentials(listener: Listener, attestor: Attestor, broker: Arc<Broker>, stop: impl Future<Output = ()>) {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut answers = JoinSet::new();
    tokio::pin!(stop);
    loop {
        let accepted = async {
            let permit = room.clone().acquire_owned().await;
            (listener.accept().await, permit)
        };
        tokio::select! {
            biased;
            () = &mut stop => break,
            (stream, permit) = accepted => {
                let (attestor, broker) = (attestor.clone(), broker.clone());
                answers.spawn(async move {
                    answer(Asked::new(stream), &attestor, &broker).await;
                    drop(permit);
                });
            }
        }
        while answers.try_join_next().is_some() {}
    }
    drop(listener);
    while answers.join_next().await.is_some() {}
}

async fn answer(asked: Asked, attestor: &Attestor, broker: &Arc<Broker>) {
    let decided = AssertUnwindSafe(decide(&asked.stream, attestor, broker)).catch_unwind().await;
    tell(asked, decided).await;
}

/// What was decided, or that it was not because of a panic.
async fn tell<W>(asked: Asked, decided: std::thread::Result<Result<(Arc<Held>, W), Refusal>>) {
    let told = match decided {
        Ok(Ok((held, _under_way))) => asked.give(&held).await,
        Ok(Err(Refusal::Caller(who))) => {
            warn!(reason = who.reason(), "refused a credential: {who}");
            asked.refuse().await
        }
        Ok(Err(Refusal::Broker(refused))) => {
            // The broker has said why.
            debug!(reason = ?refused.reason, "the unit is made to fail");
            asked.refuse().await
        }
        Err(_) => {
            error!("a fault in the daemon: the unit that asked for a credential is made to fail");
            asked.refuse().await
        }
    };
    if let Err(error) = told {
        debug!(%error, "systemd did not wait for a credential");
    }
}

enum Refusal {
    Caller(NotSystemd),
    Broker(Refused),
}

async fn decide(stream: &UnixStream, attestor: &Attestor, broker: &Arc<Broker>) -> Result<(Arc<Held>, UnderWay), Refusal> {
    let asker = Asker::of(stream, attestor).map_err(Refusal::Caller)?;
    let (handout, under_way) = broker.credential(&asker, asker.credential()).await.map_err(Refusal::Broker)?;
    Ok((handout.held, under_way))
}

/// A connection that must not end before it has its whole answer. Dropped without one, it is refused.
struct Asked {
    stream: UnixStream,
    answered: bool,
}

impl Asked {
    fn new(stream: UnixStream) -> Self {
        Self { stream, answered: false }
    }

    /// Sends the value, straight from its protected page, and ends.
    async fn give(mut self, held: &Held) -> io::Result<()> {
        let length = held.value_len();
        if length == 0 {
            // It would look like no answer at all.
            return self.refuse().await;
        }
        // So that it is taken at once, where the kernel lets us have so much (net.core.wmem_max): a daemon that is killed then has said
        // all. The kernel counts its own overhead too.
        let _ = sockopt::set_socket_send_buffer_size(&self.stream, length * 2 + 16 * 1024);
        let mut sent = 0;
        while sent < length {
            sent += self.send(|stream| held.expose(|value| send(stream, &value[sent..], SendFlags::NOSIGNAL))).await?;
        }
        self.answered = true;
        Ok(())
    }

    /// Makes the unit fail.
    async fn refuse(mut self) -> io::Result<()> {
        let mut left = TOO_MUCH;
        while left > 0 {
            let some = &NOTHING[..left.min(NOTHING.len())];
            match self.send(|stream| send(stream, some, SendFlags::NOSIGNAL)).await {
                Ok(sent) => left -= sent,
                // It has seen enough.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
                Err(error) => return Err(error),
            }
        }
        self.answered = true;
        Ok(())
    }

    async fn send(&self, mut send: impl FnMut(&UnixStream) -> rustix::io::Result<usize>) -> io::Result<usize> {
        loop {
            self.stream.writable().await?;
            match self.stream.try_io(Interest::WRITABLE, || Ok(send(&self.stream)?)) {
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                outcome => return outcome,
            }
        }
    }
}

impl Drop for Asked {
    /// Without a runtime, which may be what is going.
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        let socket = self.stream.as_fd();
        let _ = rustix::io::ioctl_fionbio(socket, false);
        let _ = sockopt::set_socket_timeout(socket, sockopt::Timeout::Send, Some(LAST_WORD));
        let mut left = TOO_MUCH;
        while let Ok(sent @ 1..) = send(socket, &NOTHING[..left.min(NOTHING.len())], SendFlags::NOSIGNAL) {
            left = left.saturating_sub(sent);
        }
    }
}

#[cfg(test)]
mod tests;
