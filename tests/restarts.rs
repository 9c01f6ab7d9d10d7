//! Restarts of the daemon under tools that call it, with the sockets and the unit that are shipped: nobody is turned away.
//!
//! `VALETKEY_RESTARTS` says how many (20), `VALETKEY_CALLERS` how many tools call at one time (20).

use std::{
    env, fs,
    time::{Duration, Instant},
};

#[path = "support/installed.rs"]
mod installed;

use installed::{Host, PROGRAM};
use valetkey::client::{Client, Error, Retry};

const STOP: &str = "/run/stop-calling";

fn number(variable: &str, usual: usize) -> usize {
    env::var(variable).ok().map_or(usual, |text| text.parse().unwrap())
}

/// Not a test: a tool, as a unit in the sandbox. Opens a session, gets its secret and ends, over and over.
#[test]
fn role() {
    let Ok(tool) = env::var("VALETKEY_ROLE") else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (mut calls, mut retries, mut longest) = (0u64, 0u64, Duration::ZERO);
    while fs::metadata(STOP).is_err() {
        let begun = Instant::now();
        retries += runtime.block_on(call(&tool));
        longest = longest.max(begun.elapsed());
        calls += 1;
    }
    println!("REPLY {calls} {retries} {}", longest.as_millis());
}

/// One use of a secret, as a tool has it that does what an error says. The number of retries.
async fn call(tool: &str) -> u64 {
    let mut retries = 0;
    loop {
        let begun = Instant::now();
        match attempt(tool).await {
            Ok(value) => {
                assert_eq!(value, format!("the value of {tool}"), "another's value");
                return retries;
            }
            Err(error) => match error.retry() {
                Retry::After(wait) if retries < 5 => {
                    println!("RETRY {tool} after {} ms: {error}", begun.elapsed().as_millis());
                    tokio::time::sleep(wait).await;
                }
                _ => panic!("after {retries} retries: {error}"),
            },
        }
        retries += 1;
    }
}

async fn attempt(tool: &str) -> Result<String, Error> {
    let session = Client::new().session(tool).secret(format!("{tool}/key")).open().await?;
    let secret = session.get(&format!("{tool}/key")).await?;
    Ok(secret.expose(|bytes| String::from_utf8(bytes.to_vec()).unwrap()))
}

#[test]
fn no_call_fails_while_the_daemon_restarts() {
    let Some(host) = Host::start() else { return };
    let (restarts, callers) = (number("VALETKEY_RESTARTS", 20), number("VALETKEY_CALLERS", 20));
    let names: Vec<_> = (0..callers).map(|i| format!("tool-{i}")).collect();
    let values: Vec<_> = names.iter().map(|tool| (format!("{tool}/key"), format!("the value of {tool}"))).collect();
    let secrets: Vec<_> = values.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let tools: String = names
        .iter()
        .map(|tool| {
            format!(
                "[tool.{tool}]\nrun-as = {{ unit = \"caller@{tool}.service\" }}\nsecrets.\"{tool}/key\" = {{}}\n\
                 limits = {{ per-minute = 100000, per-session = 10 }}\n"
            )
        })
        .collect();
    host.install("", &secrets, &[("callers", &tools)]);
    host.write(
        "/etc/systemd/system/caller@.service",
        &format!(
            "[Service]\nDynamicUser=yes\nEnvironment=VALETKEY_ROLE=%i RUST_BACKTRACE=0\nExecStart={PROGRAM} --exact role --nocapture\n\
             StandardOutput=append:/run/callers.out\nStandardError=append:/run/callers.out\n"
        ),
    );
    host.shell("systemctl daemon-reload; systemctl start valetkeyd", "");
    let units: String = names.iter().map(|tool| format!("caller@{tool}.service ")).collect();
    host.shell(&format!("systemctl start {units}"), "");

    let since = host.property("valetkeyd.socket", "ActiveEnterTimestampMonotonic");
    let begun = Instant::now();
    // Too many starts in a short time would be taken for a crash loop: here they are meant.
    let script =
        "for i in $(seq $N); do systemctl reset-failed valetkeyd; systemctl restart valetkeyd || exit 1; sleep 0.3; done";
    host.shell(&script.replace("$N", &restarts.to_string()), "");
    let took = begun.elapsed();
    host.shell(&format!("touch {STOP}; timeout 60 sh -c 'while systemctl -q is-active {units}; do sleep 0.1; done'"), "");

    let said = host.shell("cat /run/callers.out", "");
    let replies: Vec<Vec<u64>> = said
        .lines()
        .filter_map(|line| line.split_once("REPLY "))
        .map(|(_, numbers)| numbers.split(' ').map(|number| number.parse().unwrap()).collect())
        .collect();
    assert_eq!(replies.len(), callers, "not every tool came to its end\n{said}\n{}", host.log());
    let failed = host.shell("systemctl list-units --failed --plain --no-legend 'caller@*'", "");
    assert_eq!(failed, "", "{said}");
    let total = |which: usize| replies.iter().map(|reply| reply[which]).sum::<u64>();
    let longest = replies.iter().map(|reply| reply[2]).max().unwrap();
    // Told that the daemon stops, or that the connection is gone with it; never left waiting for an answer that does not come.
    let lost: Vec<_> = said.lines().filter(|line| line.starts_with("RETRY") && line.contains("did not answer")).collect();
    assert!(lost.is_empty(), "{lost:#?}");
    println!(
        "{restarts} restarts in {took:.1?} under {callers} tools: {} calls, {} retried, the longest {longest} ms",
        total(0),
        total(1)
    );
    assert!(total(0) > restarts as u64, "the tools hardly called");
    // The socket was there all the time.
    assert_eq!(host.property("valetkeyd.socket", "ActiveEnterTimestampMonotonic"), since);
}
