//! What is read is what was written.

use std::{path::Path, time::Duration};

use valetkey::{
    config::{FileRef, LogFormat, MemoryProtection, Privilege, RoleId, SourceSettings, VaultAuth},
    limits::Limits,
    policy::Delivery,
};

use super::{Etc, MAIN, TOOL, files, good};

#[test]
fn the_example_reads_as_it_is_written() {
    let config = Etc::of(&files(Path::new("examples/etc-valetkey"))).load().unwrap();

    let SourceSettings::Vault(vault) = &config.sources["vault"] else { panic!() };
    assert_eq!((vault.address.as_str(), vault.mount.as_str(), vault.kv_version), ("https://vault.example.com:8200", "secret", 2));
    assert_eq!(vault.auth, VaultAuth::TokenFile(FileRef::Credential("vault-token".into())));
    let SourceSettings::Vault(vault) = &config.sources["vault-approle"] else { panic!() };
    let secret_id = FileRef::Credential("vault-secret-id".into());
    let role_id = RoleId::Inline("valetkey".into());
    let mount = "approle".into();
    assert_eq!(vault.auth, VaultAuth::AppRole { role_id, secret_id, mount, wrapped: false, delete_after_read: false });
    let SourceSettings::Vault(vault) = &config.sources["vault-jwt"] else { panic!() };
    let token_file = FileRef::Path("/run/spiffe/valetkey.jwt".into());
    assert_eq!(vault.auth, VaultAuth::Jwt { role: "valetkey".into(), token_file, mount: "jwt".into() });
    let SourceSettings::Vault(vault) = &config.sources["vault-kubernetes"] else { panic!() };
    let token_file = FileRef::Path("/var/run/secrets/kubernetes.io/serviceaccount/token".into());
    assert_eq!(vault.auth, VaultAuth::Kubernetes { role: "valetkey".into(), token_file, mount: "kubernetes".into() });
    let SourceSettings::Vault(vault) = &config.sources["vault-certificate"] else { panic!() };
    assert_eq!(vault.auth, VaultAuth::Certificate { role: Some("valetkey".into()), mount: "cert".into() });
    let key = FileRef::Credential("vault-client-key".into());
    assert_eq!(vault.client_certificate, Some((FileRef::Path("/etc/valetkey/vault-client.pem".into()), key)));
    let SourceSettings::SealedFile(sealed) = &config.sources["sealed"] else { panic!() };
    assert_eq!(sealed.file, FileRef::Path("/etc/valetkey/secrets.age".into()));

    let stripe = &config.secrets["stripe/api-key"];
    assert_eq!(
        (stripe.source.as_str(), stripe.path.as_str(), stripe.field.as_deref()),
        ("prod", "prod/mcp/stripe", Some("stripe_secret_key"))
    );
    assert_eq!((stripe.required, stripe.environment.as_deref()), (true, Some("prod")));
    assert_eq!((stripe.reaches[0].system.as_str(), stripe.reaches[0].privilege), ("api.stripe.com", Privilege::Write));
    assert_eq!(stripe.rotate_every, Some(Duration::from_secs(30 * 86_400)));
    let mail = &config.secrets["mail/smtp-password"];
    assert_eq!((mail.path.as_str(), mail.required), ("mail/smtp-password", false));

    let billing = config.policy.tool("billing").unwrap();
    assert_eq!(billing.run_as.unit.as_deref(), Some("mcp-billing.service"));
    assert_eq!(billing.grants["stripe/api-key"].delivery, Delivery::Env("STRIPE_SECRET_KEY".into()));
    assert_eq!(billing.grants["mail/smtp-password"].delivery, Delivery::Credential("smtp-password".into()));
    let reports = config.policy.tool("reports").unwrap();
    assert_eq!(reports.limits, Limits { per_minute: 60, per_second: 10, concurrent: 2, ..Limits::default() });
}

#[test]
fn how_the_daemon_logs_in_to_aws() {
    let etc = good();
    let aws = "[source.aws]\nkind = \"aws-secrets-manager\"\nregion = \"eu-west-1\"\ncredentials-file = \"credential:aws\"\n\
               role-arn = \"arn:aws-cn:iam::123456789012:role/path/valetkey\"\nexternal-id = \"x:1\"\n\
               sts-endpoint = \"http://127.0.0.1:1\"\n[secret.staged]\nsource = \"aws\"\nstage = \"AWSPREVIOUS\"\n";
    etc.write("valetkey.toml", format!("{MAIN}{aws}"));
    let SourceSettings::AwsSecretsManager(aws) = etc.load().unwrap().sources["aws"].clone() else { panic!() };
    assert_eq!(aws.credentials_file, Some(FileRef::Credential("aws".into())));
    let role = aws.role.unwrap();
    assert_eq!(role.arn, "arn:aws-cn:iam::123456789012:role/path/valetkey");
    assert_eq!((role.external_id.as_deref(), role.sts_endpoint.as_deref()), (Some("x:1"), Some("http://127.0.0.1:1")));
    assert_eq!(etc.load().unwrap().secrets["staged"].stage.as_deref(), Some("AWSPREVIOUS"));
}

#[cfg(not(feature = "aws-parameter-store"))]
#[test]
fn a_build_without_parameter_store_says_so() {
    let etc = good();
    etc.write("valetkey.toml", format!("{MAIN}[source.aws]\nkind = \"aws-parameter-store\"\nregion = \"eu-west-1\"\n"));
    let report = etc.report();
    assert!(report.contains("is not in this build") && report.contains("cargo feature aws-parameter-store"), "{report}");
}

#[test]
fn daemon_settings() {
    let etc = good();
    let daemon = "[daemon]\nadmin-group = \"root\"\nlog-format = \"json\"\nlog-level = \"debug\"\nmax-connections = 8\n\
                  drain-timeout = \"2m\"\nmemory-protection = \"required-locked\"\nrun-dir = \"/run/x\"\n";
    etc.write("valetkey.toml", format!("{daemon}{MAIN}"));
    assert_eq!(etc.report(), "accepted\n");
    let daemon = etc.load().unwrap().daemon;
    assert_eq!(daemon.admin_socket_mode, 0o660, "a group without access would be of no use");
    assert_eq!(daemon.admin_group.unwrap().id, 0);
    assert_eq!((daemon.log_format, daemon.log_level), (LogFormat::Json, tracing::Level::DEBUG));
    assert_eq!((daemon.max_connections, daemon.max_connections_per_peer), (8, 8));
    assert_eq!((daemon.drain_timeout, daemon.memory_protection), (Duration::from_secs(120), MemoryProtection::RequiredLocked));
    assert_eq!(daemon.run_dir.as_deref(), Some(Path::new("/run/x")));
}

/// systemd's range for DynamicUser= begins and ends where we say.
#[test]
fn numbers_that_are_given_again() {
    for (uid, accepted) in [
        (61183, true),
        (61184, false),
        (65519, false),
        (65520, true),
        (65534, false),
        (65535, false),
        (u32::MAX, false),
        (0, true),
    ] {
        let etc = good();
        etc.write("tools.d/a.toml", TOOL.replace("unit = \"a.service\"", &format!("user = {uid}")));
        assert_eq!(etc.load().is_ok(), accepted, "{uid}: {}", etc.report());
    }
}

/// What becomes of a unit is for units alone: a launcher cannot reload what it starts.
#[test]
fn what_becomes_of_a_unit_at_a_new_version() {
    use valetkey::policy::OnRotation;
    let with = |grant: &str, more: &str| {
        let etc = good();
        etc.write("tools.d/a.toml", TOOL.replace("secrets.KEY = {}", &format!("secrets.KEY = {grant}\n{more}")));
        etc
    };
    for (more, does) in [
        ("on-rotation = \"restart\"", Some(OnRotation::Restart)),
        ("on-rotation = \"reload\"", Some(OnRotation::Reload)),
        // No launcher is meant, and so none must stay.
        ("redact = false\non-rotation = \"restart\"", Some(OnRotation::Restart)),
        ("", None),
    ] {
        let config = with("{ credential = \"key\" }", more).load().unwrap();
        assert_eq!(config.policy.unit_on_rotation("a.service"), does, "{more}");
        assert_eq!(config.policy.unit_on_rotation("other.service"), None);
    }
    for grant in ["{}", "{ env = \"KEY\" }"] {
        let report = with(grant, "on-rotation = \"reload\"").report();
        assert!(report.contains("systemd's credentials") && report.ends_with("refused\n"), "{report}");
    }
    // A tool that only asks is no unit with credentials, whatever it has there.
    assert_eq!(with("{}", "on-rotation = \"restart\"").load().unwrap().policy.unit_on_rotation("a.service"), None);
}
