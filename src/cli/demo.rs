//! `valetkey demo`: the whole story on one machine. Everything is real: a sealed file, the daemon, tools that are processes of their
//! own and are told apart by the kernel. Only the secrets are made up.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use super::{FAILED, Failure, Outcome, block_on, get, remote};
use crate::{
    client::Client,
    daemon,
    proto::v1,
    secret::SecretValue,
    source::sealed_file::{Identity, SealedFile},
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Leave the temporary folder in place and say where it is
    #[arg(long)]
    keep: bool,
}

/// The parts of the demo that are processes of their own.
#[derive(Debug, clap::Args)]
pub struct PartArgs {
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, clap::Subcommand)]
enum Part {
    /// The daemon, where there is no valetkeyd beside this program
    Daemon { config: PathBuf },
    /// A tool: declares a scope and gets it
    Tool { tool: String, socket: PathBuf, secrets: Vec<String> },
}

const SECRETS: [(&str, &str); 3] = [
    ("weather/api-key", "wx-demo-5f1c0a9be27d4413"),
    ("mail/smtp-password", "correct horse battery staple"),
    ("billing/stripe-key", "sk_demo_51Nv7aExampleOnly"),
];

pub fn run(args: &Args) -> Outcome {
    let stage = Stage::build()?;
    let told = tell(&stage);
    let place = stage.dir.clone();
    if args.keep {
        #[expect(clippy::mem_forget, reason = "it holds a path, no value; dropping it would remove the folder")]
        std::mem::forget(stage);
        println!("\nkept: {}", place.display());
        return told;
    }
    drop(stage);
    if place.exists() {
        return Err(Failure::new(FAILED, format!("{} could not be removed", place.display()), "remove it by hand"));
    }
    println!("\n7. The daemon is stopped, and its folder is gone. Nothing is left behind.");
    told
}

fn tell(stage: &Stage) -> Outcome {
    println!("1. Sealed three made-up secrets into {}", stage.dir.join("secrets.sealed").display());
    println!("   They are encrypted (age, X25519); the tools' configuration names them, and holds no value.\n");
    print!("2. The policy, in {}:\n{}\n", stage.config().display(), indent(&stage.policy()));
    let mut daemon = stage.start_daemon()?;
    println!(
        "3. Started the daemon (pid {}). It holds the two secrets that some tool may use; nobody may use the third, so it stays sealed.\n",
        daemon.0.id()
    );

    println!("4. Tool \"weather\" declares its scope over gRPC and gets exactly that:");
    stage.tool("weather", "weather", &["weather/api-key"])?;
    println!("\n5. Others ask for the same secret, and are denied before they start:");
    stage.tool("mail", "mail", &["mail/smtp-password", "weather/api-key"])?;
    println!("   And a process cannot choose who it is. The same program file, claiming to be \"weather\":");
    stage.tool("mail", "weather", &["weather/api-key"])?;

    println!("\n6. What the operator sees: who may reach what, and what was taken.");
    print!("{}", indent(&block_on(stage.map())??));
    daemon.stop()
}

fn indent(text: &str) -> String {
    text.lines().map(|line| if line.is_empty() { "\n".into() } else { format!("   {line}\n") }).collect()
}

/// A temporary folder with all that a host would have. Gone when dropped.
struct Stage {
    dir: PathBuf,
}

impl Stage {
    fn build() -> Result<Self, Failure> {
        let dir = std::env::temp_dir().join(format!("valetkey-demo-{}", std::process::id()));
        rustix::fs::mkdir(&dir, rustix::fs::Mode::RWXU).map_err(std::io::Error::from)?;
        let stage = Self { dir: dir.canonicalize()? };
        let (secret, recipient) = Identity::generate();
        let identity = stage.dir.join("identity.key");
        write_private(&identity, secrecy::ExposeSecret::expose_secret(&secret).as_bytes())?;
        let sealed = stage.dir.join("secrets.sealed");
        SealedFile::create(&sealed, &[recipient])?;
        let mut file = SealedFile::open(&sealed, &Identity::read(&identity)?)?;
        for (name, value) in SECRETS {
            let value = SecretValue::copy_from(value.as_bytes())
                .map_err(|error| Failure::new(FAILED, error.to_string(), "valetkey doctor"))?;
            let name = name.parse().map_err(|bad: crate::name::BadName| std::io::Error::other(bad))?;
            file.set(&name, &value)?;
        }
        file.save()?;
        // A file lock of the editor's would outlive its use otherwise.
        drop(file);
        // Two program files, so that the kernel can tell the two tools apart without systemd and without root.
        let own = std::env::current_exe()?;
        for tool in ["weather", "mail"] {
            let path = stage.program(tool);
            std::fs::hard_link(&own, &path).or_else(|_| std::fs::copy(&own, &path).map(drop))?;
        }
        write_private(&stage.config(), stage.whole_config().as_bytes())?;
        Ok(stage)
    }

    fn program(&self, tool: &str) -> PathBuf {
        self.dir.join(format!("mcp-{tool}"))
    }

    fn config(&self) -> PathBuf {
        self.dir.join("valetkey.toml")
    }

    fn policy(&self) -> String {
        let uid = rustix::process::getuid().as_raw();
        let dir = self.dir.display();
        format!(
            "[tool.weather]\nrun-as = {{ user = \"{uid}\", exe = \"{dir}/mcp-weather\" }}\nsecrets.\"weather/api-key\" = {{}}\n\n\
             [tool.mail]\nrun-as = {{ user = \"{uid}\", exe = \"{dir}/mcp-mail\" }}\nsecrets.\"mail/smtp-password\" = {{}}\n"
        )
    }

    fn whole_config(&self) -> String {
        let dir = self.dir.display();
        let secret = |name: &str, reaches: &str| {
            format!(
                "[secret.\"{name}\"]\nsource = \"sealed\"\nreaches = [{{ system = \"{reaches}\", privilege = \"read\" }}]\n\n"
            )
        };
        format!(
            "[daemon]\nrun-dir = \"{dir}/run\"\nlog-level = \"warn\"\n\n[audit]\ndirectory = \"{dir}/state/audit\"\n\n\
             [source.sealed]\nkind = \"sealed-file\"\nfile = \"{dir}/secrets.sealed\"\nidentity-file = \"{dir}/identity.key\"\n\n{}{}{}",
            secret("weather/api-key", "api.weather.example"),
            secret("mail/smtp-password", "smtp.example.com"),
            self.policy(),
        )
    }

    fn start_daemon(&self) -> Result<Daemon, Failure> {
        let beside = std::env::current_exe()?.with_file_name("valetkeyd");
        let mut command = if beside.exists() {
            let mut command = Command::new(beside);
            command.arg("--config").arg(self.config());
            command
        } else {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["demo-part", "daemon"]).arg(self.config());
            command
        };
        command.env_clear().env("HOME", &self.dir).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut daemon = Daemon(die_with_us(&mut command).spawn()?);
        let admin = self.dir.join("run/admin.sock");
        let begun = Instant::now();
        while !admin.exists() || block_on(remote::admin(&admin.clone().into()))?.is_err() {
            if daemon.0.try_wait()?.is_some() || begun.elapsed() > Duration::from_secs(20) {
                return Err(daemon.why_not());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.wait_until_serving(&admin)?;
        Ok(daemon)
    }

    /// The sockets are there before the secrets are: wait for the first answer.
    fn wait_until_serving(&self, admin: &Path) -> Outcome {
        let status = block_on(async {
            let mut client = remote::admin(&admin.into()).await?;
            let call = client.status(v1::StatusRequest {});
            let status = tokio::time::timeout(Duration::from_secs(20), call).await;
            status
                .map_err(|_| Failure::new(FAILED, "the daemon does not answer", "valetkey doctor"))?
                .map_err(|status| remote::refused(&status))
        })??;
        let memory = status.into_inner().memory_protection;
        if memory != "memfd_secret" {
            println!("   (values are in {memory} memory here; `valetkey doctor` says what that costs)");
        }
        Ok(())
    }

    fn tool(&self, program: &str, claims: &str, secrets: &[&str]) -> Outcome {
        let mut command = Command::new(self.program(program));
        command.args(["demo-part", "tool", claims]).arg(self.dir.join("run/tools.sock")).args(secrets).env_clear();
        let status = die_with_us(&mut command).status()?;
        match status.code() {
            Some(0 | 3) => Ok(()),
            _ => Err(Failure::new(FAILED, format!("the tool ended with {status}"), "valetkey doctor")),
        }
    }

    async fn map(&self) -> Result<String, Failure> {
        let mut admin = remote::admin(&self.dir.join("run/admin.sock").into()).await?;
        let refused = |status: tonic::Status| remote::refused(&status);
        let tools = admin.list_tools(v1::ListToolsRequest {}).await.map_err(refused)?.into_inner().tools;
        let secrets = admin.list_secrets(v1::ListSecretsRequest {}).await.map_err(refused)?.into_inner().secrets;
        let mut rows = Vec::new();
        for tool in &tools {
            for secret in secrets.iter().filter(|secret| secret.tools.contains(&tool.name)) {
                let (handouts, denials) = (tool.handouts.to_string(), tool.denials.to_string());
                rows.push(vec![tool.name.clone(), secret.name.clone(), secret.reaches.join(", "), handouts, denials]);
            }
        }
        Ok(super::table::layout(&["TOOL", "MAY HAVE", "WHICH REACHES", "HAND-OUTS", "DENIALS"], &rows))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn write_private(path: &Path, bytes: &[u8]) -> Outcome {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(path)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    Ok(file.write_all(bytes)?)
}

/// Nothing of the demo outlives it, however it ends.
fn die_with_us(command: &mut Command) -> &mut Command {
    // SAFETY: prctl(2) is async-signal-safe, which is all that may run between fork and exec.
    unsafe {
        command.pre_exec(|| {
            let done = libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        })
    }
}

struct Daemon(Child);

impl Daemon {
    fn stop(&mut self) -> Outcome {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).map_err(std::io::Error::from)?;
        let status = self.0.wait()?;
        if status.success() { Ok(()) } else { Err(self.why_not()) }
    }

    fn why_not(&mut self) -> Failure {
        let _ = self.0.kill();
        let said = self.0.stderr.take().map(|stderr| BufReader::new(stderr).lines().map_while(Result::ok).collect::<Vec<_>>());
        Failure::new(FAILED, format!("the daemon did not run:\n{}", said.unwrap_or_default().join("\n")), "valetkey doctor")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs as one of the demo's other processes.
pub fn part(args: PartArgs) -> ExitCode {
    match args.part {
        Part::Daemon { config } => daemon::run(&daemon::Args { config }),
        Part::Tool { tool, socket, secrets } => match be_tool(&tool, &socket, &secrets) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                println!("   {tool}: {}", failure.what);
                ExitCode::from(failure.code)
            }
        },
    }
}

fn be_tool(tool: &str, socket: &Path, secrets: &[String]) -> Outcome {
    block_on(async {
        let session = Client::at(socket).session(tool).secrets(secrets).purpose("valetkey demo").open().await;
        let session = session.map_err(|error| get::failure(&error))?;
        for name in secrets {
            let secret = session.get(name).await.map_err(|error| get::failure(&error))?;
            let length = secret.expose(<[u8]>::len);
            println!("   {tool}: got {name}, version {}: {} ({length} bytes)", secret.version(), "*".repeat(length));
        }
        Ok(())
    })?
}
