//! The launcher's session with the daemon: opened before the tool starts, and then kept by a thread of its own, so that the relay
//! waits for nobody.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io,
    path::PathBuf,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::Poll,
    thread,
    time::Duration,
};

use tokio::{
    runtime::Runtime,
    sync::{Notify, watch},
    time::Instant,
};

use super::process::Number;

use crate::{
    client::{Client, Error, OWN_SOCKET, SYSTEM_SOCKET, Secret, Session},
    proto::v1::{LaunchPlan, Redacted},
};

/// What the daemon granted: how to launch the tool. Values come later, and only when they are asked for.
pub struct Granted {
    pub plan: LaunchPlan,
    session: Session,
    runtime: Runtime,
}

/// What comes while the tool runs.
pub enum News<'a> {
    /// A secret has this version now.
    Changed(&'a Secret),
    /// The daemon has ended the session for good, and says why.
    Ended(&'a Error),
}

/// Whether the tool has a new version.
pub enum Taken {
    /// It has the old one until it is started anew.
    No,
    /// It was put in the place of the old one. How soon the tool looks there nobody can see: it is taken for done after [`SETTLES`].
    Put,
    /// It is started anew with it: when this restart [has begun](super::process::Sender::begun).
    With(Number),
}

/// A tool that reads a file, or has had a signal, works with what it read before for no longer.
const SETTLES: Duration = Duration::from_secs(1);

/// How long the end of a launcher waits for a daemon that does not answer.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Asks to launch a tool.
pub fn open(tool: &str, command: Vec<String>, socket: Option<PathBuf>) -> Result<Granted, Error> {
    let client = Client::at(socket.unwrap_or_else(default_socket));
    let runtime = runtime().map_err(|error| Error::Unreachable { socket: "-".into(), detail: error.to_string() })?;
    let (session, plan) = runtime.block_on(client.launch(tool, command))?;
    Ok(Granted { plan, session, runtime })
}

/// Where the daemon listens, for a process that may have been given no environment at all.
fn default_socket() -> PathBuf {
    let system = PathBuf::from(SYSTEM_SOCKET);
    let own = || home().map(|home| home.join(OWN_SOCKET)).filter(|own| own.exists());
    if system.exists() { system } else { own().unwrap_or(system) }
}

/// The user's home: from the environment, or as `/etc/passwd` has it. The C library's look-up would load modules of other services
/// into a program that is linked statically.
pub fn home() -> Option<PathBuf> {
    if let Some(home) = std::env::var_os("HOME").filter(|home| !home.is_empty()) {
        return Some(home.into());
    }
    let uid = rustix::process::getuid().as_raw().to_string();
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let fields = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let own = fields.into_iter().find(|fields| fields.get(2) == Some(&uid.as_str()))?;
    own.get(5).map(PathBuf::from)
}

fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()
}

impl Granted {
    /// Everything that the tool is to have, in the plan's order. Nothing is started where any of it cannot be had. `meanwhile` runs
    /// while the daemon answers.
    pub fn fetch<T>(&self, meanwhile: impl FnOnce() -> T) -> Result<(Vec<Secret>, T), Error> {
        // All at once: the answers come in order, on one stream.
        let secrets = self.plan.secrets.iter().map(|delivered| self.session.get(&delivered.secret));
        let mut secrets = pin!(futures_util::future::try_join_all(secrets));
        self.runtime.block_on(async {
            let asked = poll_fn(|cx| Poll::Ready(secrets.as_mut().poll(cx))).await;
            // The tasks that write to the daemon have their turn.
            tokio::task::yield_now().await;
            let done = meanwhile();
            let secrets = match asked {
                Poll::Ready(secrets) => secrets?,
                Poll::Pending => secrets.await?,
            };
            Ok((secrets, done))
        })
    }

    /// Follows the session on a thread of its own, which tells `hear` of what comes; that answers whether the tool has it. `begun` is the
    /// last restart that has.
    pub fn follow(
        self,
        begun: watch::Receiver<Number>,
        hear: impl Fn(News<'_>) -> Taken + Send + 'static,
    ) -> io::Result<Followed> {
        let Self { session, runtime, .. } = self;
        let over = Arc::new(Notify::new());
        let (followed, until) = (session.clone(), over.clone());
        let thread = thread::Builder::new().name("session".into()).stack_size(256 * 1024);
        let thread = thread.spawn(move || runtime.block_on(listen(&followed, &until, begun, &hear)))?;
        Ok(Followed { session, over, thread, reported: Arc::default() })
    }
}

async fn listen(session: &Session, over: &Notify, mut begun: watch::Receiver<Number>, hear: &impl Fn(News<'_>) -> Taken) {
    let mut changes = session.watch();
    // Only what the tool works with is said to be in use: the old version is taken from it then.
    let (mut put, mut with) = (VecDeque::new(), VecDeque::new());
    loop {
        let settled = put.front().map(|(at, _)| *at);
        tokio::select! {
            change = changes.next() => match change {
                Some(change) => match hear(News::Changed(&change.secret)) {
                    Taken::No => {}
                    Taken::Put => put.push_back((Instant::now() + SETTLES, change.secret)),
                    Taken::With(number) => with.push_back((number, change.secret)),
                }
                None => {
                    hear(News::Ended(&session.why_ended()));
                    return over.notified().await;
                }
            },
            Some(()) = until(settled) => {
                if let Some((_, secret)) = put.pop_front() {
                    drop(session.acknowledge(&secret).await);
                }
            }
            Ok(()) = begun.changed() => {
                let last = *begun.borrow_and_update();
                while let Some((_, secret)) = with.pop_front_if(|(number, _)| *number <= last) {
                    drop(session.acknowledge(&secret).await);
                }
            }
            () = over.notified() => {
                // A daemon that stands still must not keep a tool's end from its client.
                drop(tokio::time::timeout(LAST_WORDS, session.finish()).await);
                return;
            }
        }
    }
}

async fn until(moment: Option<Instant>) -> Option<()> {
    tokio::time::sleep_until(moment?).await;
    Some(())
}

/// A session that a thread follows.
pub struct Followed {
    session: Session,
    over: Arc<Notify>,
    thread: thread::JoinHandle<()>,
    /// Was the daemon told of anything?
    reported: Arc<AtomicBool>,
}

impl Followed {
    /// What tells the daemon of finds.
    pub fn reporter(&self) -> Reporter {
        Reporter { session: self.session.clone(), reported: self.reported.clone() }
    }

    /// Ends the session, once the daemon has heard everything. Where there was nothing to hear it ends with this process, and nobody
    /// waits for that.
    pub fn finish(self) {
        if !self.reported.load(Relaxed) {
            return;
        }
        self.over.notify_one();
        drop(self.session);
        drop(self.thread.join());
    }
}

/// Tells the daemon what was found in the tool's output.
pub struct Reporter {
    session: Session,
    reported: Arc<AtomicBool>,
}

impl Reporter {
    /// Never waits.
    pub fn report(&self, found: Redacted) {
        self.reported.store(true, Relaxed);
        self.session.report(found);
    }
}
