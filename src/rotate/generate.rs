//! New values of our own making: each character by itself, from the system's random numbers.

use zeroize::Zeroizing;

use crate::{
    secret::SecretValue,
    source::{Cause, SourceError},
};

/// What a generated value looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generate {
    /// Characters behind the prefix.
    pub length: usize,
    pub alphabet: Alphabet,
    /// No part of the secret: what marks its kind.
    pub prefix: String,
}

impl Default for Generate {
    /// 190 bits.
    fn default() -> Self {
        Self { length: 32, alphabet: Alphabet::Alphanumeric, prefix: String::new() }
    }
}

/// The characters of a generated value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alphabet {
    Alphanumeric,
    Hex,
    /// Without padding, as in RFC 4648, section 5.
    Base64Url,
    /// All of ASCII that can be seen, but for quotes and backslashes, which configuration files and shells trip over.
    Printable,
}

impl Alphabet {
    pub fn characters(self) -> &'static [u8] {
        match self {
            Self::Alphanumeric => b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
            Self::Hex => b"0123456789abcdef",
            Self::Base64Url => b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_",
            Self::Printable => b"!#$%&()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[]^_abcdefghijklmnopqrstuvwxyz{|}~",
        }
    }

    /// Bits of randomness in so many characters.
    pub fn bits(self, length: usize) -> f64 {
        (self.characters().len() as f64).log2() * length as f64
    }
}

impl Generate {
    /// A new value.
    pub fn value(&self) -> Result<SecretValue, SourceError> {
        let characters = self.alphabet.characters();
        // Bytes from here on would make some characters likelier than others.
        let fair = 256 - 256 % characters.len();
        let mut value = Zeroizing::new(Vec::with_capacity(self.prefix.len() + self.length));
        value.extend_from_slice(self.prefix.as_bytes());
        let mut random = Zeroizing::new([0; 64]);
        while value.len() < self.prefix.len() + self.length {
            let none = |_| SourceError::new(Cause::Unreachable, "the system gives no random numbers");
            aws_lc_rs::rand::fill(&mut *random).map_err(none)?;
            let left = self.prefix.len() + self.length - value.len();
            let fair = random.iter().map(|byte| usize::from(*byte)).filter(|byte| *byte < fair);
            value.extend(fair.take(left).map(|byte| characters[byte % characters.len()]));
        }
        Ok(SecretValue::copy_from(&value)?)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const ALL: [Alphabet; 4] = [Alphabet::Alphanumeric, Alphabet::Hex, Alphabet::Base64Url, Alphabet::Printable];

    #[test]
    fn values_are_as_long_as_asked_for_and_never_the_same() {
        for alphabet in ALL {
            let generate = Generate { length: 40, alphabet, prefix: "sk_".into() };
            let (one, other) = (generate.value().unwrap(), generate.value().unwrap());
            assert!(!one.same_as(&other) && one.len() == 43);
            one.expose(|bytes| {
                assert!(bytes.starts_with(b"sk_") && bytes[3..].iter().all(|b| alphabet.characters().contains(b)));
            });
        }
    }

    /// Each character comes as often as the others: chi-squared stays below what one in a million would pass.
    #[test]
    fn no_character_is_likelier() {
        for alphabet in ALL {
            let characters = alphabet.characters().len();
            let count = characters * 1000;
            let value = Generate { length: count, alphabet, prefix: String::new() }.value().unwrap();
            let mut counts: BTreeMap<u8, usize> = BTreeMap::new();
            value.expose(|bytes| bytes.iter().for_each(|b| *counts.entry(*b).or_default() += 1));
            assert_eq!(counts.len(), characters);
            let chi: f64 = counts.values().map(|n| (*n as f64 - 1000.0).powi(2) / 1000.0).sum();
            let free = (characters - 1) as f64;
            assert!(chi < free + 5.5 * (2.0 * free).sqrt() + 12.0, "{alphabet:?}: {chi}");
        }
    }
}
