//! Which texts in a client's file are secrets: by what they are called and by how they look.

use std::ops::Range;

use crate::config::looks_like_a_value;

/// What a text is taken for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// These bytes of it.
    Secret(Range<usize>),
    /// `${VAR}`, `${env:VAR}`, `${input:id}`: the client puts something else in its place.
    Reference,
    /// What an example says in place of a secret.
    Placeholder,
    Plain,
}

/// Judges the value of a variable, an option or a header of this name; of no name: `""`.
pub fn judge(name: &str, value: &str) -> Verdict {
    if is_reference(value) {
        return Verdict::Reference;
    }
    let named = suspicious(name);
    if named != Suspicion::None && is_placeholder(value) {
        return Verdict::Placeholder;
    }
    if let Some(part) = in_url(value) {
        return Verdict::Secret(part);
    }
    if is_plain(value) {
        return Verdict::Plain;
    }
    let start = credentials(value);
    let bare = &value[start..];
    let secret = match named {
        // A password may be short, and may be digits alone.
        Suspicion::Password => bare.len() >= 4,
        Suspicion::Token => bare.len() >= 8 && !is_number(bare),
        Suspicion::Key => bare.len() >= 8 && is_mixed(bare),
        Suspicion::Neutral => issued(bare),
        Suspicion::None => issued(bare) || (looks_like_a_value(bare) && !is_id(bare)),
    };
    if !secret {
        return Verdict::Plain;
    }
    if is_placeholder(value) {
        return Verdict::Placeholder;
    }
    Verdict::Secret(start..value.len())
}

/// Does it refer to something else, or might it, to some client?
pub fn is_reference(text: &str) -> bool {
    let bare = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    is_filled_in(text) || text.strip_prefix('$').is_some_and(bare)
}

/// Does the client put something else in its place? No client does that with a bare `$NAME`.
pub fn is_filled_in(text: &str) -> bool {
    text.match_indices("${").any(|(at, _)| {
        let rest = &text[at + 2..];
        rest.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && rest.contains('}')
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Suspicion {
    Password,
    Token,
    /// Keys are of many kinds: an API key, and the key to sort by.
    Key,
    /// About a secret, such as the name of its header; or a name or place.
    Neutral,
    None,
}

#[rustfmt::skip]
const NEUTRAL: &[&str] = &[
    "ID", "IDS", "URL", "URI", "HOST", "HOSTNAME", "PORT", "PATH", "DIR", "FILE", "NAME", "USERNAME", "USER", "EMAIL", "HEADER", "LIMIT", "LIMITS",
    "TTL", "TYPE", "ENDPOINT", "EXPIRY", "EXPIRES", "MAX", "MIN", "COUNT", "SIZE", "TIMEOUT", "PREFIX", "LENGTH", "REGION", "ALGORITHM",
    "ISSUER", "LIFETIME", "VERSION", "ENABLED", "MODEL", "PROVIDER", "BACKEND", "STORE", "MODE", "LEVEL", "FORMAT", "SCOPE", "SCOPES", "METHOD",
];
const PASSWORDS: &[&str] =
    &["PASSWORD", "PASSWD", "PASSPHRASE", "PASSCODE", "PWD", "PASS", "SECRET", "SECRETS", "CREDENTIAL", "CREDENTIALS"];
const TOKENS: &[&str] =
    &["TOKEN", "TOKENS", "PAT", "DSN", "AUTH", "AUTHORIZATION", "BEARER", "COOKIE", "JWT", "APIKEY", "APITOKEN", "WEBHOOK"];
#[rustfmt::skip]
const KEYS: &[&str] = &[
    "API", "ACCESS", "SECRET", "PRIVATE", "SIGNING", "ENCRYPTION", "MASTER", "LICENSE", "LICENCE", "AUTH", "SERVICE", "ANON", "ADMIN", "ACCOUNT", "DEPLOY",
    "SUBSCRIPTION", "INTEGRATION", "WRITE", "READ", "APP", "APPLICATION", "CONSUMER", "CLIENT", "BOT", "USER", "DEVELOPER", "ROLE",
];
/// Places that are opened by what stands in them.
const CONNECTIONS: &[&str] = &["CONNECTION_STRING", "CONNECTIONSTRING", "CONN_STRING", "CONN_STR", "CONNECTION_STR"];

fn suspicious(name: &str) -> Suspicion {
    let words = words(name);
    let Some(last) = words.iter().rev().find(|word| !word.bytes().all(|b| b.is_ascii_digit())) else { return Suspicion::None };
    let joined = words.join("_");
    if CONNECTIONS.iter().any(|ending| joined.ends_with(ending)) {
        return Suspicion::Token;
    }
    if NEUTRAL.contains(&last.as_str()) {
        return Suspicion::Neutral;
    }
    let any = |list: &[&str]| words.iter().any(|word| list.contains(&word.as_str()));
    let ends = |ending: &str| words.iter().any(|word| word.len() > ending.len() && word.ends_with(ending));
    if any(PASSWORDS) || ends("PASSWORD") || ends("SECRET") {
        Suspicion::Password
    } else if any(TOKENS)
        || ends("TOKEN")
        || ends("APIKEY")
        || words.windows(2).any(|pair| pair[1] == "KEY" && KEYS.contains(&pair[0].as_str()))
    {
        Suspicion::Token
    } else if any(&["KEY", "KEYS", "SIGNATURE", "SIG"]) {
        Suspicion::Key
    } else {
        Suspicion::None
    }
}

/// `apiKey`, `--api-key`, `X-API-Key` and `API_KEY` in words.
pub fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut before = '_';
    for c in name.chars() {
        if !c.is_ascii_alphanumeric() || (c.is_ascii_uppercase() && before.is_ascii_lowercase()) {
            words.push(String::new());
        }
        if c.is_ascii_alphanumeric()
            && let Some(word) = words.last_mut()
        {
            word.push(c.to_ascii_uppercase());
        }
        before = c;
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Has it the start of a key that its issuer made easy to know, or is it a token that says so itself?
fn issued(text: &str) -> bool {
    const MARKS: &[&str] = &["-----BEGIN ", "AGE-SECRET-KEY-"];
    let marked = |word: &str| {
        let known = word.len() >= 12 && looks_like_a_value(word) && has_issuer(word);
        let jwt = word.starts_with("eyJ") && word.matches('.').count() >= 1 && word.len() >= 20;
        known || jwt
    };
    MARKS.iter().any(|mark| text.contains(mark)) || text.split([' ', '"', '\'', ',', ';', '=', ':']).any(marked)
}

/// Shapes for which the name counts for nothing. `looks_like_a_value` knows the rest.
fn has_issuer(word: &str) -> bool {
    #[rustfmt::skip]
    const STARTS: &[&str] = &[
        "sk_", "rk_", "pk_live_", "whsec_", "sk-", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "xoxb-", "xoxp-", "xoxa-", "xapp-",
        "AKIA", "ASIA", "hvs.", "hvb.", "hvr.", "AIza", "ya29.", "npm_", "pypi-", "dop_v1_", "shpat_", "SG.", "lin_api_", "ntn_", "hf_",
    ];
    STARTS.iter().any(|start| word.starts_with(start))
}

/// `Bearer VALUE`: where the value begins.
fn credentials(value: &str) -> usize {
    const SCHEMES: &[&str] = &["bearer ", "basic ", "token ", "apikey ", "api-key "];
    let scheme = SCHEMES.iter().find(|scheme| value.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)));
    let start = scheme.map_or(0, |scheme| scheme.len());
    start + value[start..].len() - value[start..].trim_start().len()
}

/// The whole of a URL with a password in it; of one with a key in its query, that key.
fn in_url(value: &str) -> Option<Range<usize>> {
    let (scheme, rest) = value.split_once("://")?;
    let is_scheme = !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.:".contains(&b));
    if !is_scheme || value.contains(char::is_whitespace) {
        return None;
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    // The last `@` ends it: a password may hold one, and where it holds `/` the authority seems to end too soon.
    let userinfo = authority.rsplit_once('@').or_else(|| rest.rsplit_once('@')).map(|(userinfo, _)| userinfo);
    if let Some((user, password)) = userinfo.and_then(|userinfo| userinfo.split_once(':'))
        && !password.is_empty()
        && !user.contains(['/', '?', '#'])
        && !is_placeholder(password)
    {
        return Some(0..value.len());
    }
    if userinfo.is_some_and(|token| !token.contains(['/', ':']) && (issued(token) || looks_like_a_value(token))) {
        return Some(0..value.len());
    }
    let query = value.find('?')?;
    let mut at = query + 1;
    for pair in value[query + 1..].split('&') {
        let name = pair.split('=').next().unwrap_or_default();
        let part = at + (name.len() + 1).min(pair.len())..at + pair.len();
        at += pair.len() + 1;
        let text = value[part.clone()].split('#').next().unwrap_or_default();
        if text.len() >= 4 && matches!(judge(name, text), Verdict::Secret(_)) {
            return Some(part.start..part.start + text.len());
        }
    }
    None
}

/// Numbers, switches, places: nothing that opens anything by itself.
fn is_plain(value: &str) -> bool {
    let switch = ["true", "false", "null", "none", "yes", "no", "on", "off", "enabled", "disabled", "auto", "default"];
    value.is_empty()
        || switch.iter().any(|word| value.eq_ignore_ascii_case(word))
        || is_path(value)
        || is_file(value)
        || (value.contains("://") && in_url(value).is_none() && !value.contains(char::is_whitespace))
}

fn is_number(value: &str) -> bool {
    value.bytes().all(|b| b.is_ascii_digit() || b".,-+_eE".contains(&b)) && value.bytes().any(|b| b.is_ascii_digit())
}

fn is_path(value: &str) -> bool {
    let starts = ["/", "./", "../", "~/", "~\\"].iter().any(|start| value.starts_with(start));
    let drive =
        value.as_bytes().get(1..3).is_some_and(|two| two == b":\\") && value.starts_with(|c: char| c.is_ascii_alphabetic());
    // Base64 may begin with a slash too.
    let base64 = value.ends_with('=') || value.contains('+') || (!value.contains(['.', '-', '_']) && looks_like_a_value(value));
    drive || (starts && !base64 && !value.contains(['\n']))
}

fn is_file(value: &str) -> bool {
    const ENDINGS: &[&str] =
        &[".js", ".mjs", ".cjs", ".ts", ".py", ".sh", ".json", ".yaml", ".yml", ".toml", ".pem", ".key", ".env", ".db"];
    !value.contains(char::is_whitespace) && ENDINGS.iter().any(|ending| value.ends_with(ending))
}

/// `YOUR_API_KEY`, `<token>`, `sk-...`, `xxxx`, `changeme`.
fn is_placeholder(value: &str) -> bool {
    let lower = value.to_ascii_lowercase();
    let bare = lower.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    let same = bare.len() >= 3 && bare.bytes().all(|b| b == b'x' || b == b'*');
    let starred = value.len() >= 3 && value.bytes().all(|b| b"*.xX-_".contains(&b));
    let said = [
        "your-",
        "your_",
        "yourapi",
        "yourtoken",
        "my-secret-here",
        "changeme",
        "change-me",
        "change_me",
        "replace-me",
        "replace_me",
        "placeholder",
    ];
    let said = said.iter().any(|word| lower.contains(word))
        || ["todo", "tbd", "token", "secret", "password", "key", "api-key", "api_key"].contains(&bare);
    let bracketed = (value.starts_with('<') && value.ends_with('>'))
        || (value.starts_with('[') && value.ends_with(']') && !value.contains('"'));
    same || starred || said || bracketed || value.ends_with("...") || value.ends_with('…')
}

/// Letters and digits, or both cases, or long: no word of a language.
fn is_mixed(text: &str) -> bool {
    let any = |is: fn(&u8) -> bool| text.as_bytes().iter().any(is);
    let digits = any(u8::is_ascii_digit) && any(u8::is_ascii_alphabetic);
    let cases = any(u8::is_ascii_lowercase) && any(u8::is_ascii_uppercase) && !text.contains(' ');
    digits || cases || (text.len() >= 32 && !text.contains(' '))
}

/// A UUID, or the digest of an image: names of things, where nothing says that they are more.
fn is_id(text: &str) -> bool {
    let uuid = text.len() == 36 && text.split('-').map(str::len).eq([8, 4, 4, 4, 12]);
    uuid || text.contains("sha256:") || text.contains("sha512-") || text.contains('/') || text.contains('@')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str, value: &str) -> Option<String> {
        if let Verdict::Secret(range) = judge(name, value) { Some(value[range].into()) } else { None }
    }

    #[test]
    fn secrets_are_found() {
        for (name, value) in [
            ("GITHUB_PERSONAL_ACCESS_TOKEN", "ghp_16C7e42F292c6912E7710c838347Ae178B4a"),
            ("ANYTHING", "ghp_16C7e42F292c6912E7710c838347Ae178B4a"),
            ("X", "sk_live_51Hq7XzA9q2LmN"),
            ("X", "xoxb-17653672481-19874698323-pdFZKVeTuE8sk7oOcHrzqqgy"),
            ("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE"),
            ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
            ("X", "glpat-kR4m8Zq2pLx7Wn3vYb6T"),
            ("X", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln"),
            ("X", "-----BEGIN PRIVATE KEY-----\nMIIEvQ\n-----END PRIVATE KEY-----\n"),
            ("DB_PASSWORD", "hunter2"),
            ("PGPASSWORD", "1234567"),
            ("apiKey", "not-so-random-words"),
            ("OPENAI_API_KEY_2", "abcdefgh"),
            ("SECRET_KEY_BASE", "long words that nobody guesses"),
            ("DATABASE_URL", "postgres://app:s3cr3t@db/app"),
            ("X", "postgresql://app:p@ss/word@db/app"),
            ("X", "https://ghp_16C7e42F292c6912E7710c838347Ae178B4a@github.com/x/y"),
            ("AZURE_STORAGE_CONNECTION_STRING", "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=b=="),
            ("OPENAPI_MCP_HEADERS", "{\"Authorization\": \"Bearer ntn_12345678901ABCdef\", \"Notion-Version\": \"2022-06-28\"}"),
            ("SOME_KEY", "/9j/4AAQSkZJRgABAQEAYABgAAD+2w=="),
        ] {
            assert_eq!(part(name, value).as_deref(), Some(value), "{name}");
        }
        assert_eq!(part("Authorization", "Bearer abcdefgh1").as_deref(), Some("abcdefgh1"));
        assert_eq!(part("", "https://mcp.example.com/sse?v=2&api_key=abcd1234&x=1#top").as_deref(), Some("abcd1234"));
    }

    #[test]
    fn what_is_none_is_left() {
        for (name, value) in [
            ("NODE_ENV", "production"),
            ("AWS_REGION", "eu-west-1"),
            ("TOKEN_LIMIT", "4096"),
            ("MAX_TOKENS", "4096"),
            ("API_KEY_HEADER", "X-API-Key"),
            ("KEYCLOAK_URL", "https://sso.example.com/realms/x"),
            ("SORT_KEY", "created_at"),
            ("GOOGLE_APPLICATION_CREDENTIALS", "/home/alice/key.json"),
            ("SSH_KEY", "~/.ssh/id_ed25519"),
            ("USE_AUTH", "true"),
            ("PROJECT", "550e8400-e29b-41d4-a716-446655440000"),
            ("SLACK_TEAM_ID", "T01234567"),
            ("DATABASE_URL", "postgres://localhost/app"),
            ("DATABASE_URL", "postgres://app@localhost:5432/app"),
            ("API_URL", "https://user.example.com/a@b:c"),
            ("", "@modelcontextprotocol/server-github@2025.4.8"),
            ("", "--access-mode=restricted"),
            ("", "ghcr.io/github/github-mcp-server@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"),
            ("TOKEN", ""),
            ("MONKEY", "banana banana"),
        ] {
            assert_eq!(judge(name, value), Verdict::Plain, "{name}={value}");
        }
        for (name, value) in
            [("TOKEN", "${GITHUB_TOKEN}"), ("TOKEN", "${input:token}"), ("X", "Bearer ${env:T:-none}"), ("TOKEN", "$TOKEN")]
        {
            assert_eq!(judge(name, value), Verdict::Reference, "{name}={value}");
        }
        for value in
            ["YOUR_API_KEY_HERE", "<your-token>", "sk-...", "xxxxxxxxxxxx", "changeme", "********", "ghp_xxxxxxxxxxxx..."]
        {
            assert_eq!(judge("API_KEY", value), Verdict::Placeholder, "{value}");
        }
    }
}
