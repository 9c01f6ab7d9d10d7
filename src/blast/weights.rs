//! How much things count. The defaults are a file too, compiled in.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{facts::Channel, score::Range};
use crate::config::Privilege;

/// Every number of the formula. Made by [`Weights::parse`], so each is finite and not negative.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Weights {
    pub scale: f64,
    pub discount: f64,
    privilege: Privileges,
    environment: BTreeMap<String, f64>,
    system: BTreeMap<String, f64>,
    unknown: Unknown,
    channel: Channels,
    lifetime: Lifetimes,
    pub threshold: Thresholds,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Privileges {
    read: f64,
    write: f64,
    admin: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Unknown {
    sensitivity: [f64; 2],
    privilege: [f64; 2],
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Channels {
    rpc: f64,
    fd: f64,
    file: f64,
    credential: f64,
    env: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Lifetimes {
    r#static: f64,
    rotated: f64,
}

/// Where findings begin: each is about *more* than this.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Thresholds {
    pub shared_by: usize,
    pub secrets_of_a_tool: usize,
    pub admin_of_a_tool: usize,
    pub unused_days: u32,
}

impl Weights {
    /// The defaults, as they can be written to a file and changed.
    pub const DEFAULTS: &'static str = include_str!("weights.toml");

    /// Those that are compiled in; a test holds them to be readable.
    pub fn defaults() -> Result<Self, String> {
        Self::parse(Self::DEFAULTS)
    }

    /// Reads a file of weights: whole, so that what is missing is not guessed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let weights: Self = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        weights.check()?;
        Ok(weights)
    }

    fn check(&self) -> Result<(), String> {
        let Self { scale, discount, privilege, environment, system, unknown, channel, lifetime, .. } = self;
        let one = [
            ("discount", *discount),
            ("privilege", privilege.read),
            ("privilege", privilege.write),
            ("privilege", privilege.admin),
            ("unknown.sensitivity", unknown.sensitivity[0]),
            ("unknown.privilege", unknown.privilege[0]),
            ("unknown.sensitivity", unknown.sensitivity[1]),
            ("unknown.privilege", unknown.privilege[1]),
        ];
        let named = environment.values().map(|weight| ("environment", *weight));
        let named = named.chain(system.values().map(|weight| ("system", *weight)));
        if let Some((name, _)) = one.into_iter().chain(named).find(|(_, weight)| !(0.0..=1.0).contains(weight)) {
            return Err(format!("{name}: a weight there is from 0 to 1"));
        }
        let factors =
            [channel.rpc, channel.fd, channel.file, channel.credential, channel.env, lifetime.r#static, lifetime.rotated];
        if factors.iter().any(|factor| !(0.0..=10.0).contains(factor)) {
            return Err("channel and lifetime: a factor is from 0 to 10".into());
        }
        if !(scale.is_finite() && *scale > 0.0) {
            return Err("scale: must be more than 0".into());
        }
        if unknown.sensitivity[0] > unknown.sensitivity[1] || unknown.privilege[0] > unknown.privilege[1] {
            return Err("unknown: a range begins with its lower end".into());
        }
        Ok(())
    }

    pub fn privilege(&self, privilege: Privilege) -> f64 {
        match privilege {
            Privilege::Read => self.privilege.read,
            Privilege::Write => self.privilege.write,
            Privilege::Admin => self.privilege.admin,
        }
    }

    /// Of a secret that nobody said anything about.
    pub fn unknown_privilege(&self) -> Range {
        Range::new(self.unknown.privilege[0], self.unknown.privilege[1])
    }

    /// Of a system, reached with a secret of this environment.
    pub fn sensitivity(&self, system: Option<&str>, environment: Option<&str>) -> Range {
        let by_name = system.and_then(|system| self.system.get(system));
        let known = by_name.or_else(|| environment.and_then(|environment| self.environment.get(environment)));
        known.map_or(Range::new(self.unknown.sensitivity[0], self.unknown.sensitivity[1]), |known| Range::exactly(*known))
    }

    pub fn knows_environment(&self, environment: &str) -> bool {
        self.environment.contains_key(environment)
    }

    pub fn channel(&self, channel: Channel) -> f64 {
        match channel {
            Channel::Rpc => self.channel.rpc,
            Channel::Fd => self.channel.fd,
            Channel::File => self.channel.file,
            Channel::Credential => self.channel.credential,
            Channel::Env => self.channel.env,
        }
    }

    pub fn lifetime(&self, rotated: bool) -> f64 {
        if rotated { self.lifetime.rotated } else { self.lifetime.r#static }
    }

    /// The same weights for systems under other names.
    pub(super) fn rename_systems(&mut self, mut rename: impl FnMut(&str) -> String) {
        self.system = self.system.iter().map(|(name, weight)| (rename(name), *weight)).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_can_be_read() {
        let weights = Weights::defaults().unwrap();
        assert_eq!((weights.scale, weights.threshold.unused_days), (1.5, 90));
    }

    #[test]
    fn weights_that_mean_nothing_are_refused() {
        for (from, to) in [
            ("scale = 1.5", "scale = 0.0"),
            ("scale = 1.5", "scale = nan"),
            ("discount = 0.7", "discount = 1.1"),
            ("read = 0.3", "read = -0.1"),
            ("[0.2, 1.0]", "[1.0, 0.2]"),
            ("env = 1.3", "env = inf"),
            ("prod = 1.0", "prod = \"high\""),
            ("static = 1.0", "statik = 1.0"),
        ] {
            let text = Weights::DEFAULTS.replacen(from, to, 1);
            assert_ne!(text, Weights::DEFAULTS);
            assert!(Weights::parse(&text).is_err(), "{to}");
        }
    }
}
