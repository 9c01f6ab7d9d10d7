//! What `path` can name: a parameter, a version or label of one, or a folder of them. Checked before AWS is asked, because one name
//! that it does not take spoils the call for ten.

/// The most levels of a hierarchy, and the longest name (the API reference of `PutParameter`).
const MOST_LEVELS: usize = 15;
const LONGEST_NAME: usize = 1011;

/// The longest label (the API reference of `LabelParameterVersion`).
const LONGEST_LABEL: usize = 100;

/// Where AWS shows secrets of its other store.
const OTHER_STORE: &str = "/aws/reference/secretsmanager/";

/// A path, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Path<'a> {
    /// The folder, from its first `/` to its last.
    Folder(&'a str),
    One(One<'a>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct One<'a> {
    /// As it is asked for.
    pub whole: &'a str,
    /// The name or the ARN, without version and label.
    pub base: &'a str,
    /// A version number or a label.
    pub selector: Option<&'a str>,
}

impl One<'_> {
    /// The same for all that could name one parameter: its name, its ARN, its versions and labels.
    pub fn family(&self) -> &str {
        let name = match self.base.split_once(":parameter/") {
            Some((_, name)) if self.base.starts_with("arn:") => name,
            _ => self.base,
        };
        name.trim_start_matches('/')
    }
}

/// Takes a path apart, or says why it names nothing.
pub(super) fn parse(path: &str) -> Result<Path<'_>, &'static str> {
    if path.starts_with(OTHER_STORE) {
        return Err(
            "is a secret of AWS Secrets Manager: read it from a source of that kind, where a new version of it can be seen",
        );
    }
    let (prefix, rest) = match path.starts_with("arn:") {
        true => path.split_at(arn_prefix(path).ok_or("is not the ARN of a parameter")?),
        false => path.split_at(0),
    };
    if let Some(folder) = rest.strip_suffix('/') {
        let fits = prefix.is_empty() && rest.starts_with('/') && !rest.contains(':');
        check_name(folder)?;
        return if fits {
            Ok(Path::Folder(path))
        } else {
            Err("ends in `/`, and a folder is named from its first `/` on, without more")
        };
    }
    let (name, selector) = match rest.split_once(':') {
        Some((name, selector)) => (name, Some(selector)),
        None => (rest, None),
    };
    if name.is_empty() || name == "/" {
        return Err("names no parameter");
    }
    check_name(name)?;
    selector.map_or(Ok(()), check_selector)?;
    Ok(Path::One(One { whole: path, base: &path[..prefix.len() + name.len()], selector }))
}

/// Why a path names nothing that Parameter Store has, for configuration.
pub fn problem(path: &str) -> Option<&'static str> {
    parse(path).err()
}

/// How much of an ARN stands before the name: `arn:aws:ssm:eu-west-1:123456789012:parameter`. The name begins with the `/` then.
fn arn_prefix(arn: &str) -> Option<usize> {
    let (before, _) = arn.split_once(":parameter/")?;
    let [_, partition, service, region, account] = before.split(':').collect::<Vec<_>>().try_into().ok()?;
    let filled = !partition.is_empty() && !region.is_empty();
    let fits = filled && service == "ssm" && account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit());
    fits.then_some(before.len() + ":parameter".len())
}

fn check_name(name: &str) -> Result<(), &'static str> {
    let inner = name.strip_prefix('/').unwrap_or(name);
    let known = |b: u8| b.is_ascii_alphanumeric() || b"_.-/".contains(&b);
    if name.len() > LONGEST_NAME {
        Err("is longer than 1,011 characters, and no parameter's name is")
    } else if !name.bytes().all(known) {
        Err("holds a character that no parameter's name has: letters, digits and `._-/` alone")
    } else if name.contains("//") {
        Err("holds `//`")
    } else if inner.contains('/') && inner.len() == name.len() {
        Err("has levels, and so must start with `/`")
    } else if inner.split('/').count() > MOST_LEVELS {
        Err("has more than 15 levels, and no parameter's name has")
    } else {
        Ok(())
    }
}

fn check_selector(selector: &str) -> Result<(), &'static str> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    match selector.len() {
        1..=LONGEST_LABEL if selector.bytes().all(fits) => Ok(()),
        _ => Err("does not end in a version's number or label after the `:`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str = "arn:aws:ssm:eu-west-1:123456789012:parameter";

    #[test]
    fn what_can_be_named() {
        let arn = format!("{ARN}/a/b:3");
        for (path, base, selector, family) in [
            ("key", "key", None, "key"),
            ("/a/b.c_d-e", "/a/b.c_d-e", None, "a/b.c_d-e"),
            ("/a/b:3", "/a/b", Some("3"), "a/b"),
            ("key:live", "key", Some("live"), "key"),
            (&arn, &arn[..arn.len() - 2], Some("3"), "a/b"),
            (&arn[..arn.len() - 2], &arn[..arn.len() - 2], None, "a/b"),
            ("/aws/service/x", "/aws/service/x", None, "aws/service/x"),
        ] {
            let one = One { whole: path, base, selector };
            assert_eq!(parse(path), Ok(Path::One(one)), "{path}");
            assert_eq!(one.family(), family);
        }
        for folder in ["/", "/a/", "/a/b/"] {
            assert_eq!(parse(folder), Ok(Path::Folder(folder)));
        }
    }

    #[test]
    fn what_cannot() {
        let level = "/a".repeat(16);
        let long = format!("/{}", "a".repeat(1011));
        let (folder, in_arn) = (format!("{ARN}/a/"), format!("{ARN}/a b"));
        for (path, words) in [
            ("", "names no parameter"),
            (":3", "names no parameter"),
            ("a b", "character"),
            ("/a/ü", "character"),
            ("/a//b", "`//`"),
            ("a/b", "must start with `/`"),
            ("a/", "from its first `/`"),
            ("/a:3/", "character"),
            (&folder, "from its first `/`"),
            (&in_arn, "character"),
            (&level, "15 levels"),
            (&long, "1,011"),
            ("/a:", "number or label"),
            ("/a:b:c", "number or label"),
            ("/a:b c", "number or label"),
            ("arn:aws:secretsmanager:eu-west-1:123456789012:secret:x", "ARN of a parameter"),
            ("arn:aws:ssm:eu-west-1:12:parameter/x", "ARN of a parameter"),
            ("/aws/reference/secretsmanager/x", "AWS Secrets Manager"),
        ] {
            let problem = problem(path).unwrap_or_else(|| panic!("{path} is taken"));
            assert!(problem.contains(words), "{path}: {problem}");
        }
    }
}
