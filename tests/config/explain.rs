//! `valetkey explain`: allowed by which line, or what to write where.

use valetkey::config::{Explanation, explain};

use super::{Etc, good};

fn ask(etc: &Etc, tool: &str, secret: &str) -> Explanation {
    explain(&etc.load().unwrap(), &tool.parse().unwrap(), &secret.parse().unwrap())
}

#[test]
fn what_is_allowed_names_its_line() {
    let etc = good();
    let answer = ask(&etc, "a", "KEY");
    assert!(answer.allowed);
    let origin = answer.origin.unwrap();
    assert_eq!((&*origin.file, origin.line), (&*etc.path("tools.d/a.toml"), 3));
    assert_eq!(answer.run_as, ["unit a.service"]);
    assert_eq!(answer.missing, None);
}

#[test]
fn what_is_missing_is_what_to_write() {
    let etc = good();
    let more = "[source.env]\nkind = \"environment\"\n[secret.KEY]\nsource = \"env\"\n[secret.OTHER]\nsource = \"env\"\n";
    etc.write("valetkey.toml", more);
    let directory = format!("{}/", etc.path("").display()).replace("//", "/");
    let missing = |tool, secret| {
        let answer = ask(&etc, tool, secret);
        assert!(!answer.allowed && answer.origin.is_none());
        answer.missing.unwrap().replace(&directory, "")
    };
    assert_eq!(missing("a", "OTHER"), "to [tool.a] in tools.d/a.toml, after line 3, add:\n  secrets.\"OTHER\" = {}");
    let no_secret = "to valetkey.toml, add (or ask for \"KEY\", which is there):\n  [secret.\"KEYS\"]\n  source = \"env\"\n  path = \"the source's own name for it\"";
    assert_eq!(
        missing("a", "KEYS"),
        format!("{no_secret}\nto [tool.a] in tools.d/a.toml, after line 3, add:\n  secrets.\"KEYS\" = {{}}")
    );
    let no_tool = "to tools.d/mail.toml, add:\n  [tool.mail]\n  run-as = { unit = \"mcp-mail.service\" }\n  secrets.\"KEY\" = {}";
    assert_eq!(missing("mail", "KEY"), no_tool);
    assert!(missing("mail", "smtp").starts_with("to valetkey.toml, add:\n  [secret.\"smtp\"]"));
}

#[test]
fn what_it_says_to_write_works() {
    let etc = good();
    let missing = ask(&etc, "mail", "KEY").missing.unwrap();
    let lines: Vec<_> = missing.lines().skip(1).collect();
    etc.write("tools.d/mail.toml", lines.join("\n"));
    assert_eq!(etc.report(), "accepted\n");
    assert!(ask(&etc, "mail", "KEY").allowed);
}
