//! A real valetkeyd in a folder of its own, for tests that talk to it over its real sockets.
#![allow(dead_code)]

use std::{
    fs,
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use valetkey::{
    client::Client,
    proto::v1::{self, admin_client::AdminClient, broker_client::BrokerClient},
    secret::SecretValue,
    source::sealed_file::{Identity, SealedFile},
};

/// A folder that looks like a host's: configuration, a sealed file, sockets.
pub struct Host {
    pub dir: tempfile::TempDir,
}

impl Host {
    /// An empty one. Others may enter it, so that tools under other user ids can reach the socket.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("vk").tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self { dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn config(&self) -> PathBuf {
        self.path("valetkey.toml")
    }

    pub fn tools_socket(&self) -> PathBuf {
        self.path("run/tools.sock")
    }

    pub fn admin_socket(&self) -> PathBuf {
        self.path("run/admin.sock")
    }

    /// Writes the main file: `[daemon]` with these extra lines, then the rest.
    pub fn configure(&self, daemon: &str, rest: &str) {
        let text = format!("[daemon]\nrun-dir = \"{}\"\n{daemon}\n{rest}", self.path("run").display());
        self.write("valetkey.toml", &text);
    }

    /// Writes a file that only root could have written.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Makes a sealed file with these secrets, and returns the `[source.sealed]` that reads it.
    pub fn seal(&self, secrets: &[(&str, &[u8])]) -> String {
        use secrecy::ExposeSecret;
        let (identity, sealed) = (self.path("identity.key"), self.path("secrets.sealed"));
        if !identity.exists() {
            let (secret, recipient) = Identity::generate();
            self.write("identity.key", secret.expose_secret());
            SealedFile::create(&sealed, &[recipient]).unwrap();
        }
        // A child that another test is just starting has a copy of the lock's descriptor until it has become another program.
        let begun = Instant::now();
        let mut file = loop {
            match SealedFile::open(&sealed, &Identity::read(&identity).unwrap()) {
                Ok(file) => break file,
                Err(error) if begun.elapsed() > Duration::from_secs(5) => panic!("{error}"),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        for (name, value) in secrets {
            file.set(&name.parse().unwrap(), &SecretValue::copy_from(value).unwrap()).unwrap();
        }
        file.save().unwrap();
        let (identity, sealed) = (identity.display(), sealed.display());
        format!("[source.sealed]\nkind = \"sealed-file\"\nfile = \"{sealed}\"\nidentity-file = \"{identity}\"\n")
    }

    /// `[secret]` tables for names in the sealed file.
    pub fn secrets(names: &[&str]) -> String {
        names.iter().map(|name| format!("[secret.\"{name}\"]\nsource = \"sealed\"\n")).collect()
    }

    /// A `[tool]` that is this user id, and may have these.
    pub fn tool(name: &str, uid: u32, secrets: &[&str]) -> String {
        let grants: String = secrets.iter().map(|name| format!("secrets.\"{name}\" = {{}}\n")).collect();
        format!("[tool.{name}]\nrun-as = {{ user = \"{uid}\" }}\n{grants}")
    }

    /// Starts the daemon and waits until it serves.
    pub fn start(&self) -> Daemon {
        self.start_with(&[])
    }

    /// The same with this environment.
    pub fn start_with(&self, environment: &[(&str, &str)]) -> Daemon {
        let mut daemon = self.spawn(environment);
        if let Err(said) = daemon.wait_until_serving() {
            panic!("the daemon does not serve: {said}");
        }
        daemon
    }

    /// Starts the daemon with this environment, its log in `log`.
    pub fn spawn(&self, environment: &[(&str, &str)]) -> Daemon {
        self.spawn_as(environment, |_| {})
    }

    /// The same, and `prepare` may change under which user and limits it runs.
    pub fn spawn_as(&self, environment: &[(&str, &str)], prepare: impl FnOnce(&mut Command)) -> Daemon {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_valetkeyd"));
        command.arg("--config").arg(self.config()).env_clear();
        // An audit log of its own, unless the test says otherwise.
        command.env("STATE_DIRECTORY", self.path("var")).envs(environment.iter().copied());
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        prepare(&mut command);
        // SAFETY: prctl(2) is async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        Daemon { child: command.spawn().unwrap(), admin: self.admin_socket(), log: self.path("log") }
    }

    pub fn log(&self) -> String {
        let mut text = String::new();
        fs::File::open(self.path("log")).unwrap().read_to_string(&mut text).unwrap();
        text
    }

    /// A client of this host's daemon, acting as this process.
    pub fn client(&self) -> Client {
        Client::at(self.tools_socket())
    }

    pub async fn admin(&self) -> AdminClient<tonic::transport::Channel> {
        AdminClient::new(channel(&self.admin_socket()).await)
    }

    pub async fn broker(&self) -> BrokerClient<tonic::transport::Channel> {
        BrokerClient::new(channel(&self.tools_socket()).await)
    }

    /// Runs a `valetkey` command that asks the daemon.
    pub fn operate(&self, arguments: &[&str]) -> Output {
        let socket = self.admin_socket();
        self.valetkey(&[arguments, &["--socket", socket.to_str().unwrap()]].concat())
    }

    /// Runs the `valetkey` command against this host.
    pub fn valetkey(&self, arguments: &[&str]) -> Output {
        self.valetkey_with(arguments, b"")
    }

    pub fn valetkey_with(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_valetkey"));
        command.args(arguments).env_clear().env("HOME", self.dir.path());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap()
    }
}

/// A channel to a socket, as any gRPC client would make one.
pub async fn channel(socket: &Path) -> tonic::transport::Channel {
    try_channel(socket).await.unwrap()
}

async fn try_channel(socket: &Path) -> Result<tonic::transport::Channel, tonic::transport::Error> {
    let path = socket.to_path_buf();
    let connector = tower::service_fn(move |_: tonic::transport::Uri| {
        let path = path.clone();
        async move { tokio::net::UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
    });
    tonic::transport::Endpoint::from_static("http://localhost").connect_with_connector(connector).await
}

/// A running daemon. Killed when dropped.
pub struct Daemon {
    pub child: Child,
    admin: PathBuf,
    log: PathBuf,
}

impl Daemon {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has in memory, in kilobytes.
    pub fn rss(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Seconds of processor time that it has had.
    pub fn processor(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        // utime and stime in ticks, a hundred a second on Linux (proc(5)).
        fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / 100.0
    }

    /// Waits until no thread of it runs, or wants to.
    pub fn rests(&self) {
        let sleeps = |task: PathBuf| {
            // One that has ended meanwhile does nothing either.
            let stat = fs::read_to_string(task.join("stat")).unwrap_or_else(|_| "0 (gone) S".into());
            stat.rsplit_once(") ").unwrap().1.starts_with('S')
        };
        let mut in_a_row = 0;
        eventually("the daemon rests", || {
            let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
            in_a_row = if tasks.map(|task| task.unwrap().path()).all(sleeps) { in_a_row + 1 } else { 0 };
            in_a_row == 3
        });
    }

    /// Waits until admin calls are answered; the log's text where the daemon ends instead.
    pub fn wait_until_serving(&mut self) -> Result<(), String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let begun = Instant::now();
        let log = self.log.clone();
        let said = move || fs::read_to_string(&log).unwrap_or_default();
        // Off this thread: the caller may be inside a runtime of its own.
        let admin = self.admin.clone();
        std::thread::scope(|scope| {
            let child = &mut self.child;
            let serving = scope.spawn(move || {
                while begun.elapsed() < Duration::from_secs(60) {
                    if let Some(status) = child.try_wait().unwrap() {
                        return Err(format!("{status}\n{}", said()));
                    }
                    if std::os::unix::net::UnixStream::connect(&admin).is_ok() {
                        let answered = runtime.block_on(async {
                            // A daemon that is refused its place takes its sockets away again.
                            let call = async {
                                AdminClient::new(try_channel(&admin).await.ok()?).status(v1::StatusRequest {}).await.ok()
                            };
                            matches!(tokio::time::timeout(Duration::from_millis(500), call).await, Ok(Some(_)))
                        });
                        if answered {
                            return Ok(());
                        }
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(format!("no answer within a minute\n{}", said()))
            });
            serving.join().unwrap()
        })
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: kill(2) touches no memory; the pid is our own child's, not yet waited for.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }

    /// Tells it to stop and waits until it has.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(libc::SIGTERM);
        self.wait(Duration::from_secs(20))
    }

    pub fn wait(&mut self, at_most: Duration) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < at_most, "the daemon still runs after {at_most:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for something to become true.
pub fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !check() {
        assert!(begun.elapsed() < Duration::from_secs(20), "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
