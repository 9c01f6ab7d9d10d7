//! What a host does to the daemon without meaning it ill: a kill, systemd executing itself anew, journald starting anew. With the units that
//! are shipped, and a tool that holds a session all the while.

use std::{env, fs, time::Duration};

#[path = "support/installed.rs"]
mod installed;

use installed::{Host, PROGRAM, RUN};
use valetkey::client::Client;

const KEY: &str = "sk-from-the-sealed-file";
const TOOLS: &str = r#"
[tool.billing]
run-as = { unit = "mcp-billing.service" }
secrets."stripe/api-key" = {}

[tool.github]
run-as = { unit = "mcp-github.service" }
secrets."stripe/api-key" = { credential = "key" }
"#;
/// The audit log in the journal too, as the example has it.
const EXPORT: &str = "[audit.export.journal]\nkind = \"journald\"\n";

/// Not a test: a tool in the sandbox. It fetches anew whenever it is told to, from the daemon that there is, and says what came.
#[test]
fn role() {
    if env::var("VALETKEY_ROLE").is_err() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let session = Client::new().session("billing").secret("stripe/api-key").open().await.unwrap();
        for round in 1.. {
            while fs::metadata(format!("/run/role/fetch-{round}")).is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            // It connects again by itself; what it is told to try again it tries again.
            let mut got = Err("not tried".to_owned());
            for _ in 0..20 {
                got = match session.fetch("stripe/api-key").await {
                    Ok(secret) => Ok(secret.expose(|bytes| bytes.len())),
                    Err(error) => Err(error.to_string()),
                };
                if got.is_ok() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
            fs::write(format!("/run/role/answer-{round}.new"), format!("{got:?}")).unwrap();
            fs::rename(format!("/run/role/answer-{round}.new"), format!("/run/role/answer-{round}")).unwrap();
        }
    });
}

struct Tool<'a> {
    host: &'a Host,
    round: u32,
}

impl<'a> Tool<'a> {
    fn start(host: &'a Host) -> Self {
        let unit = format!("[Service]\nUser=daemon\nEnvironment=VALETKEY_ROLE=hold\nExecStart={PROGRAM} --exact role\n");
        host.write("/etc/systemd/system/mcp-billing.service", &unit);
        host.shell("install -d -o daemon /run/role && systemctl daemon-reload && systemctl start mcp-billing", "");
        Self { host, round: 0 }
    }

    /// Has it fetch, from the daemon.
    #[track_caller]
    fn fetches(&mut self) {
        self.round += 1;
        self.host.shell(&format!("touch /run/role/fetch-{}", self.round), "");
        self.host.until(&format!("test -e /run/role/answer-{}", self.round));
        let answer = self.host.shell(&format!("cat /run/role/answer-{}", self.round), "");
        assert_eq!(answer, format!("Ok({})", KEY.len()), "{}", self.host.log());
    }
}

fn host() -> Option<Host> {
    let host = Host::start()?;
    host.install(EXPORT, &[("stripe/api-key", KEY.as_bytes())], &[("tools", TOOLS)]);
    host.shell("systemctl start valetkeyd", "");
    Some(host)
}

#[test]
fn a_tool_goes_on_through_what_happens_to_the_daemon() {
    let Some(host) = host() else { return };
    let mut tool = Tool::start(&host);
    tool.fetches();
    let pid = host.property("valetkeyd", "MainPID");
    let socket = host.property("valetkeyd.socket", "ActiveEnterTimestampMonotonic");

    // systemd executes itself anew: the daemon, its sockets and its sessions do not notice, and units still get credentials.
    host.shell("systemctl daemon-reexec", "");
    tool.fetches();
    assert_eq!(host.property("valetkeyd", "MainPID"), pid);
    let credential = format!(
        "{RUN} --unit=mcp-github.service -p LoadCredential=key:/run/valetkey/credentials.sock sh -c 'cat $CREDENTIALS_DIRECTORY/key'"
    );
    assert_eq!(host.shell(&credential, ""), KEY);

    // journald starts anew: nobody waits for it, and what is on record arrives.
    host.shell("systemctl restart systemd-journald", "");
    tool.fetches();

    // Killed: systemd starts the next one, and the tool connects to that.
    host.shell("systemctl kill --signal=KILL valetkeyd", "");
    tool.fetches();
    assert_ne!(host.property("valetkeyd", "MainPID"), pid);
    assert_eq!(host.property("valetkeyd", "NRestarts"), "1");
    assert_eq!(host.property("valetkeyd.socket", "ActiveEnterTimestampMonotonic"), socket);
    // The log of the one that was killed is whole, or says where it is not.
    let verified = host.shell("valetkey audit verify", "");
    assert!(verified.contains("verified") || verified.contains("whole"), "{verified}");
}

/// The fields of each record, as journald has them: asked for by tool, secret, outcome.
#[test]
fn the_journal_answers_by_field() {
    let Some(host) = host() else { return };
    let credential = format!(
        "{RUN} --unit=mcp-github.service -p LoadCredential=key:/run/valetkey/credentials.sock sh -c 'cat $CREDENTIALS_DIRECTORY/key'"
    );
    assert_eq!(host.shell(&credential, ""), KEY);
    let (code, _) = host.try_shell(&format!("{RUN} --unit=other.service valetkey get stripe/api-key --tool billing"), "");
    assert_eq!(code, Some(3));
    host.until("journalctl -q VALETKEY_TOOL=github VALETKEY_EVENT=secret.handed-out -o cat | grep -q .");

    let ask = |matches: &str| -> Vec<serde_json::Value> {
        let said = host.shell(&format!("journalctl -q -o json {matches}"), "");
        said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let handed_out = ask("VALETKEY_TOOL=github VALETKEY_EVENT=secret.handed-out");
    assert_eq!(handed_out.len(), 1, "{handed_out:#?}");
    let entry = &handed_out[0];
    assert_eq!(entry["VALETKEY_SECRET"], "stripe/api-key");
    assert_eq!(entry["VALETKEY_UNIT"], "mcp-github.service");
    assert!(entry["VALETKEY_SESSION"].is_string() && entry["VALETKEY_VERSION"].is_string(), "{entry:#?}");
    // Set by journald itself, and by nobody else: the record is of the daemon's unit.
    assert_eq!(entry["_SYSTEMD_UNIT"], "valetkeyd.service");
    // By all else that is on record: the secret, and who was refused and why.
    assert!(!ask("VALETKEY_SECRET=stripe/api-key").is_empty());
    host.until("journalctl -q VALETKEY_OUTCOME=denied -o cat | grep -q .");
    let denied = ask("VALETKEY_OUTCOME=denied");
    assert!(denied.iter().any(|entry| entry["VALETKEY_REASON"] == "TOOL_NOT_ALLOWED"), "{denied:#?}");
    let all = host.shell("journalctl -q -o export", "");
    assert!(!all.contains(KEY), "a value is in the journal");
}
