//! Names of environment variables.

/// Variables that decide what a program runs or whom it believes. A credential in one of them is a mistake, or an attack.
#[rustfmt::skip]
const RESERVED: &[&str] = &[
    "PATH", "HOME", "SHELL", "USER", "LOGNAME", "PWD", "TERM", "TMPDIR", "IFS", "ENV", "BASH_ENV", "SHELLOPTS", "BASHOPTS", "PS4",
    "PROMPT_COMMAND", "CDPATH", "GCONV_PATH", "GETCONF_DIR", "HOSTALIASES", "LOCPATH", "NLSPATH", "RESOLV_HOST_CONF", "TZDIR",
    "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONINSPECT", "NODE_OPTIONS", "NODE_PATH", "NODE_EXTRA_CA_CERTS",
    "PERL5OPT", "PERL5LIB", "PERLLIB", "RUBYOPT", "RUBYLIB", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "CLASSPATH",
    "GIT_SSH", "GIT_SSH_COMMAND", "GIT_EXEC_PATH", "GIT_ASKPASS", "SSH_ASKPASS", "SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE", "SSLKEYLOGFILE", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy",
    "all_proxy", "no_proxy", "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "INVOCATION_ID",
    "CREDENTIALS_DIRECTORY", "WATCHDOG_USEC", "WATCHDOG_PID", "XDG_RUNTIME_DIR",
];

const RESERVED_STARTS: &[&str] = &["LD_", "DYLD_", "GLIBC_", "MALLOC_", "BASH_FUNC_", "VALETKEY_"];

/// Of these, the ones that make a program run other code than its own. Whoever may start a launcher must not choose them.
#[rustfmt::skip]
const CODE: &[&str] = &[
    "IFS", "ENV", "BASH_ENV", "SHELLOPTS", "BASHOPTS", "PS4", "PROMPT_COMMAND", "CDPATH", "GCONV_PATH", "GETCONF_DIR", "LOCPATH",
    "NLSPATH", "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONINSPECT", "NODE_OPTIONS", "NODE_PATH", "PERL5OPT", "PERL5LIB",
    "PERLLIB", "RUBYOPT", "RUBYLIB", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "CLASSPATH", "GIT_SSH",
    "GIT_SSH_COMMAND", "GIT_EXEC_PATH", "GIT_ASKPASS", "SSH_ASKPASS", "SSLKEYLOGFILE",
];

/// Letters, digits and `_`, and no digit first.
pub(crate) fn is_variable(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    name.len() <= 128 && name.bytes().all(fits) && !name.starts_with(|c: char| c.is_ascii_digit()) && !name.is_empty()
}

/// Must no secret be put into this environment variable? `PATH`, `LD_PRELOAD` and their like.
pub fn is_reserved_variable(name: &str) -> bool {
    RESERVED.contains(&name) || RESERVED_STARTS.iter().any(|start| name.starts_with(start))
}

/// Does this variable make programs run other code than their own? `LD_PRELOAD`, `NODE_OPTIONS` and their like.
pub(super) fn decides_what_runs(name: &str) -> bool {
    CODE.contains(&name) || RESERVED_STARTS.iter().any(|start| name.starts_with(start))
}

/// The variable that a secret's name suggests: `STRIPE_API_KEY` for `stripe/api-key`.
pub(super) fn suggested(name: &str) -> String {
    let upper = name.to_ascii_uppercase().replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    if upper.starts_with(|c: char| c.is_ascii_digit()) { format!("KEY_{upper}") } else { upper }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables() {
        for good in ["STRIPE_SECRET_KEY", "_x", "a1"] {
            assert!(is_variable(good) && !is_reserved_variable(good), "{good}");
        }
        for bad in ["", "1A", "A-B", "A B", "A=B", "é"] {
            assert!(!is_variable(bad), "{bad}");
        }
        for reserved in ["PATH", "LD_PRELOAD", "LD_LIBRARY_PATH", "NODE_OPTIONS", "BASH_FUNC_x"] {
            assert!(is_reserved_variable(reserved), "{reserved}");
        }
        for code in CODE {
            assert!(is_reserved_variable(code), "{code}: what decides what runs is no place for a secret either");
        }
        assert!(decides_what_runs("LD_PRELOAD") && !decides_what_runs("PATH") && !decides_what_runs("HTTPS_PROXY"));
        assert_eq!(suggested("stripe/api-key"), "STRIPE_API_KEY");
        assert!(is_variable(&suggested("9/x")));
    }
}
