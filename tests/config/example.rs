//! The shipped example is right, complete and honest about defaults.

use std::path::Path;

use valetkey::{
    alarm::Rules,
    config::{self, DaemonSettings, SecretSettings},
    limits::{Ceilings, Limits},
    policy::Policy,
};

use super::{Etc, files};

const EXAMPLE: &str = "examples/etc-valetkey";

#[test]
fn the_shipped_example_has_no_problem() {
    let etc = Etc::of(&files(Path::new(EXAMPLE)));
    assert_eq!(etc.report(), "accepted\n");
    let config = etc.load().unwrap();
    assert_eq!(config.daemon, DaemonSettings::default());
    let kinds: Vec<_> = config.sources.values().map(|source| source.kind()).collect();
    let vaults = ["vault"; 5];
    assert_eq!(kinds[..5], ["aws-sts", "environment", "aws-parameter-store", "aws-secrets-manager", "sealed-file"]);
    assert_eq!(kinds[5..], vaults);
    assert_eq!(config.policy.granted().len(), config.secrets.len());
}

/// The file with each option that is commented out (`#key = value`, no space) put to work.
fn uncommented(text: &str) -> String {
    let option =
        |line: &str| line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase())).map(String::from);
    // Not every build has this one.
    let text = if cfg!(feature = "otel") { text.to_owned() } else { text.replace("#otlp-endpoint", "# otlp-endpoint") };
    text.lines().map(|line| option(line).unwrap_or_else(|| line.into()) + "\n").collect()
}

#[test]
fn options_shown_as_defaults_are_the_defaults() {
    let all: Vec<_> = files(Path::new(EXAMPLE)).into_iter().map(|(name, text)| (name, uncommented(&text))).collect();
    let etc = Etc::of(&all);
    // Of the options without a default, this one is the only one with something to say.
    let report = etc.report();
    let (warnings, end) = (report.matches("warning").count(), report.lines().last());
    assert_eq!((warnings, end), (1, Some("accepted")), "{report}");
    assert!(report.contains("keeps `admin-group` out"), "{report}");

    let (shown, plain) = (etc.load().unwrap(), Etc::of(&files(Path::new(EXAMPLE))).load().unwrap());
    let daemon = DaemonSettings {
        run_dir: None,
        tools_socket: None,
        admin_socket: None,
        credentials_socket: None,
        admin_group: None,
        last_good: None,
        metrics: None,
        otlp_endpoint: None,
        ..shown.daemon.clone()
    };
    assert_eq!(daemon, DaemonSettings::default());
    let alarm = shown.alarm.clone().unwrap();
    assert_eq!((alarm.rules, plain.alarm.clone().unwrap().rules), (Rules::default(), Rules::default()));
    assert_eq!((shown.policy.ceilings(), plain.policy.ceilings()), (&Ceilings::default(), &Ceilings::default()));
    let limits = |policy: &Policy| policy.tool("billing").unwrap().limits;
    assert_eq!(limits(&shown.policy), Limits::default());
    assert_eq!(limits(&plain.policy), Limits::default());
    // Lines shift between the two files in nothing but comments.
    let secrets = |config: &config::Config| -> Vec<SecretSettings> {
        let strip = |secret: &SecretSettings| SecretSettings {
            origin: plain.secrets.values().next().unwrap().origin.clone(),
            ..secret.clone()
        };
        config.secrets.values().map(strip).collect()
    };
    assert_eq!(secrets(&shown), secrets(&plain));
}

#[test]
fn every_key_is_in_the_example() {
    let text: String = files(Path::new(EXAMPLE)).into_iter().map(|(_, text)| text).collect();
    for (table, keys) in config::keys() {
        for key in keys {
            let shown = match table {
                "" => text.contains(&format!("[{}.", key.name)) || text.contains(&format!("[{}]", key.name)),
                _ => {
                    text.contains(&format!("{} = ", key.name))
                        || text.contains(&format!("{}.\"", key.name))
                        || text.contains(&format!(".{}]", key.name))
                }
            };
            assert!(shown, "`{}` of [{table}] is not in {EXAMPLE}", key.name);
        }
    }
}
