//! The environment of a launched tool: a short list of what any program needs, what policy adds, and its secrets. Nothing else of the
//! launcher's own: an MCP client may hold the keys of every other server in its environment, and some pass all of it on.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
};

use zeroize::Zeroizing;

use super::process::Variable;

/// Passed on where the launcher has them; and so is every `LC_*`.
pub const PASSED_ON: [&str; 10] = ["HOME", "LANG", "LANGUAGE", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "TZ", "USER"];

/// Where programs are looked for without a `PATH`.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Variables by name. Their values are wiped when dropped.
pub struct Environment(BTreeMap<OsString, Zeroizing<Vec<u8>>>);

/// A variable that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum BadVariable {
    /// The value ends at its first NUL byte for whoever reads it.
    #[error("the value of {secret} holds a NUL byte, and the variable {variable} cannot: deliver it as a file")]
    Nul { secret: String, variable: String },
}

impl Environment {
    /// Of `own`, what may be passed on, or with `inherit` all of it; and of policy's list the variables named and those set.
    pub fn new(own: impl Iterator<Item = (OsString, OsString)>, inherit: bool, listed: &[String]) -> Self {
        let (set, named): (Vec<_>, Vec<_>) = listed.iter().map(String::as_str).partition(|entry| entry.contains('='));
        let passed_on = |name: &OsStr| {
            let by_name = |list: &[&str]| list.iter().any(|one| OsStr::new(one) == name);
            inherit || by_name(&PASSED_ON) || name.as_bytes().starts_with(b"LC_") || by_name(&named)
        };
        let own = own.filter(|(name, _)| passed_on(name)).map(|(name, value)| (name, value.into_encoded_bytes()));
        let set = set.iter().filter_map(|entry| entry.split_once('=')).map(|(name, value)| (name.into(), value.into()));
        let mut all: BTreeMap<OsString, Zeroizing<Vec<u8>>> = own.chain(set).map(|(name, value)| (name, value.into())).collect();
        all.entry("PATH".into()).or_insert_with(|| Zeroizing::new(DEFAULT_PATH.into()));
        Self(all)
    }

    /// Sets a variable to a path, or another thing that is no secret.
    pub fn set(&mut self, variable: &str, value: &str) {
        self.0.insert(variable.into(), Zeroizing::new(value.into()));
    }

    /// Sets a variable to the value of a secret.
    pub fn set_secret(&mut self, variable: &str, secret: &str, value: &[u8]) -> Result<(), BadVariable> {
        if value.contains(&0) {
            return Err(BadVariable::Nul { secret: secret.into(), variable: variable.into() });
        }
        self.0.insert(variable.into(), Zeroizing::new(value.to_vec()));
        Ok(())
    }

    /// As the tool finds it. What can be no variable (an environment may hold anything) is left out.
    pub fn into_variables(self) -> Vec<Variable> {
        self.0.iter().filter_map(|(name, value)| Variable::new(name.as_bytes(), value)).collect()
    }

    /// Where the tool will look for programs.
    pub fn path(&self) -> Option<&OsStr> {
        self.0.get(OsStr::new("PATH")).map(|path| OsStr::from_bytes(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(environment: Environment) -> Vec<String> {
        let text = |(name, value): (&OsString, &Zeroizing<Vec<u8>>)| {
            format!("{}={}", name.to_str().unwrap(), std::str::from_utf8(value).unwrap())
        };
        environment.0.iter().map(text).collect()
    }

    fn own() -> impl Iterator<Item = (OsString, OsString)> {
        let own = [("HOME", "/h"), ("AWS_SECRET_ACCESS_KEY", "x"), ("LC_ALL", "C"), ("HTTPS_PROXY", "p"), ("LC", "no")];
        own.into_iter().map(|(name, value)| (name.into(), value.into()))
    }

    #[test]
    fn little_is_passed_on() {
        let path = format!("PATH={DEFAULT_PATH}");
        assert_eq!(texts(Environment::new(own(), false, &[])), ["HOME=/h", "LC_ALL=C", &path]);
        let listed = ["HTTPS_PROXY".into(), "NODE_ENV=a=b".into(), "HOME=/other".into(), "ABSENT".into()];
        let with = ["HOME=/other", "HTTPS_PROXY=p", "LC_ALL=C", "NODE_ENV=a=b", &path];
        assert_eq!(texts(Environment::new(own(), false, &listed)), with);
        assert!(texts(Environment::new(own(), true, &[])).contains(&"AWS_SECRET_ACCESS_KEY=x".into()));
    }

    #[test]
    fn a_secret_takes_the_place_of_what_was_there() {
        let mut environment = Environment::new(own(), true, &[]);
        environment.set_secret("AWS_SECRET_ACCESS_KEY", "aws/key", b"new").unwrap();
        let refused = environment.set_secret("X", "binary/key", b"a\0b").unwrap_err().to_string();
        assert!(refused.contains("binary/key") && refused.contains("file"), "{refused}");
        assert!(texts(environment).contains(&"AWS_SECRET_ACCESS_KEY=new".into()));
    }
}
