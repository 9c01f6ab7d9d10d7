//! `valetkey adopt`: the files of real clients, there and back again.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, SystemTime},
};

use proptest::prelude::*;
use serde_json::{Value, json};

const TOKEN: &str = "ghp_16C7e42F292c6912E7710c838347Ae178B4a";
const URL: &str = "postgres://app:s3cr3t-of-app@db.internal/orders";
const KEY: &str = "sk_live_51Hq7XzA9q2LmNpR";

/// A user's folders: a project, and the configuration.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("vk-adopt").tempdir().unwrap();
        fs::create_dir(dir.path().join("project")).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn config(&self) -> PathBuf {
        self.path("etc/valetkey.toml")
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn adopt(&self, arguments: &[&str]) -> Output {
        let config = self.config();
        let mut command = Command::new(env!("CARGO_BIN_EXE_valetkey"));
        command.arg("adopt").args(arguments).arg("--config").arg(config);
        command.env_clear().env("HOME", self.path("home")).current_dir(self.path("project")).stdin(Stdio::null());
        command.output().unwrap()
    }

    fn valetkey(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_valetkey")).args(arguments).env_clear().stdin(Stdio::null()).output().unwrap()
    }

    /// The sealed value of a secret.
    fn unseal(&self, name: &str) -> String {
        let (file, identity) = (self.path("etc/secrets.sealed"), self.path("etc/identity.key"));
        let out = self.valetkey(&["unseal", name, "--file", file.to_str().unwrap(), "--identity", identity.to_str().unwrap()]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    fn tool(&self, name: &str) -> toml::Table {
        let text = self.read(&format!("etc/tools.d/{name}.toml"));
        let table: toml::Table = text.parse().unwrap_or_else(|error| panic!("{error}\n{text}"));
        table["tool"][name].as_table().unwrap().clone()
    }

    /// Every file below, with what is in it.
    fn everything(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let (mut all, mut folders) = (Vec::new(), vec![self.dir.path().to_path_buf()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().flatten() {
                let kind = entry.file_type().unwrap();
                if kind.is_dir() {
                    folders.push(entry.path());
                } else if kind.is_file() {
                    all.push((entry.path(), fs::read(entry.path()).unwrap()));
                }
            }
        }
        all.sort();
        all
    }

    #[track_caller]
    fn holds_nowhere(&self, values: &[&str]) {
        for (path, bytes) in self.everything() {
            for value in values {
                let found = bytes.windows(value.len()).any(|window| window == value.as_bytes());
                assert!(!found, "{} holds {value}", path.display());
            }
        }
    }
}

#[track_caller]
fn says(out: &Output, code: i32, expected: &[&str]) -> String {
    let said = String::from_utf8([&*out.stdout, b"\n--\n", &*out.stderr].concat()).unwrap();
    assert_eq!(out.status.code(), Some(code), "{said}");
    for words in expected {
        assert!(said.contains(words), "it does not say {words:?}:\n{said}");
    }
    for value in [TOKEN, URL, KEY, "s3cr3t-of-app"] {
        assert!(!said.contains(value), "it shows a value:\n{said}");
    }
    said
}

fn strings(value: &toml::Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|item| item.as_str().unwrap()).collect()
}

fn launcher() -> String {
    Path::new(env!("CARGO_BIN_EXE_valetkey")).display().to_string()
}

const CLAUDE: &str = r#"{
  "globalShortcut": "Ctrl+Space",
  "mcpServers": {
    "github": {
      "command": "npx",
      "args": ["-y", "@modelcontextprotocol/server-github"],
      "env": {
        "GITHUB_PERSONAL_ACCESS_TOKEN": "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
        "GITHUB_HOST": "https://github.example.com"
      }
    },
    "files": { "command": "npx", "args": ["-y", "@modelcontextprotocol/server-filesystem", "/home/alice"] }
  }
}
"#;

#[test]
fn a_token_moves_from_the_environment_into_the_sealed_file() {
    let place = Place::new();
    let file = place.write("project/claude_desktop_config.json", CLAUDE);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let out = place.adopt(&["claude_desktop_config.json"]);
    says(&out, 0, &["github/personal-access-token", "40 bytes", "--undo", "rotate", "valetkey check --config"]);

    let expected = CLAUDE.replace(
        r#""command": "npx",
      "args": ["-y", "@modelcontextprotocol/server-github"],
      "env": {
        "GITHUB_PERSONAL_ACCESS_TOKEN": "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
        "GITHUB_HOST": "https://github.example.com"
      }
"#,
        &format!("\"command\": \"{}\",\n      \"args\": [\"run\", \"github\"]\n", launcher()),
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), expected, "nothing else of the file changes");
    assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0o640);

    assert_eq!(place.unseal("github/personal-access-token"), TOKEN);
    let tool = place.tool("github");
    assert_eq!(strings(&tool["command"]), ["npx", "-y", "@modelcontextprotocol/server-github"]);
    assert_eq!(strings(&tool["environment"]), ["GITHUB_HOST=https://github.example.com"]);
    assert_eq!(tool["run-as"]["user"].as_str(), Some("root"));
    assert_eq!(tool["secrets"]["github/personal-access-token"]["env"].as_str(), Some("GITHUB_PERSONAL_ACCESS_TOKEN"));
    let main: toml::Table = place.read("etc/valetkey.toml").parse().unwrap();
    assert_eq!(main["secret"]["github/personal-access-token"]["source"].as_str(), Some("sealed"));
    assert_eq!(main["source"]["sealed"]["file"].as_str(), place.path("etc/secrets.sealed").to_str());
    assert_eq!(place.path("etc/identity.key").metadata().unwrap().mode() & 0o7777, 0o600);
    place.holds_nowhere(&[TOKEN]);

    // There is nothing left to do.
    let before = place.everything();
    says(&place.adopt(&["claude_desktop_config.json"]), 0, &["nothing to adopt"]);
    says(&place.adopt(&["claude_desktop_config.json", "--dry-run"]), 0, &["nothing to adopt"]);
    assert_eq!(place.everything(), before);
}

#[test]
fn a_secret_that_has_to_stay_is_not_passed_over() {
    let place = Place::new();
    let remote =
        r#"{"mcpServers":{"remote":{"url":"https://h/mcp","headers":{"Authorization":"Bearer sk_live_51Hq7XzA9q2LmNpR"}}}}"#;
    place.write("project/.mcp.json", remote);
    says(&place.adopt(&[".mcp.json"]), 0, &["nothing that can be adopted; secrets stay in plain text", "LEFT IN PLAIN TEXT"]);
    says(&place.adopt(&[".mcp.json", "--dry-run"]), 3, &["LEFT IN PLAIN TEXT"]);
    let missing = r#"{"servers":{"jira":{"command":"x","args":["--token=glpat-kR4m8Zq2pLx7Wn3vYb6T"],"envFile":".env"}}}"#;
    place.write("project/.vscode/mcp.json", missing);
    says(&place.adopt(&[".vscode/mcp.json", "--dry-run"]), 3, &["`envFile` cannot be read: No such file"]);
}

const VSCODE: &str = "\u{feff}{\r\n\
    \t// Servers of this project\r\n\
    \t\"inputs\": [\r\n\
    \t\t{ \"id\": \"token\", \"type\": \"promptString\", \"password\": true, },\r\n\
    \t],\r\n\
    \t\"servers\": {\r\n\
    \t\t/* the database */\r\n\
    \t\t\"Orders DB\": {\r\n\
    \t\t\t\"type\": \"stdio\",\r\n\
    \t\t\t\"command\": \"npx\", // from npm\r\n\
    \t\t\t\"args\": [\"-y\", \"@modelcontextprotocol/server-postgres\", \"postgres://app:s3cr3t-of-app@db.internal/orders\"],\r\n\
    \t\t},\r\n\
    \t\t\"github\": {\r\n\
    \t\t\t\"command\": \"server-github\",\r\n\
    \t\t\t\"env\": {\r\n\
    \t\t\t\t// asked for\r\n\
    \t\t\t\t\"GITHUB_TOKEN\": \"${input:token}\",\r\n\
    \t\t\t\t\"STRIPE_KEY\": \"sk_live_51Hq7XzA9q2LmNpR\", // inline\r\n\
    \t\t\t\t\"DEBUG\": true,\r\n\
    \t\t\t},\r\n\
    \t\t\t\"cwd\": \"${workspaceFolder}\",\r\n\
    \t\t},\r\n\
    \t\t\"remote\": { \"type\": \"http\", \"url\": \"https://h/mcp\", \"headers\": { \"Authorization\": \"Bearer sk_live_51Hq7XzA9q2LmNpR\" } },\r\n\
    \t},\r\n\
    }\r\n";

#[test]
fn comments_tabs_line_ends_and_marks_stay() {
    let place = Place::new();
    let file = place.write("project/.vscode/mcp.json", VSCODE);
    let out = place.adopt(&[".vscode/mcp.json"]);
    says(&out, 0, &["orders-db/postgres-url", "still in the server's arguments", "LEFT IN PLAIN TEXT", "headers Authorization"]);
    let launcher = launcher();
    let expected = VSCODE
        .replace("\"command\": \"npx\", // from npm", &format!("\"command\": \"{launcher}\", // from npm"))
        .replace(
            "[\"-y\", \"@modelcontextprotocol/server-postgres\", \"postgres://app:s3cr3t-of-app@db.internal/orders\"]",
            "[\"run\", \"orders-db\"]",
        )
        .replace(
            "\"command\": \"server-github\"",
            &format!("\"command\": \"{launcher}\",\r\n\t\t\t\"args\": [\"run\", \"github\"]"),
        )
        .replace("\t\t\t\t\"STRIPE_KEY\": \"sk_live_51Hq7XzA9q2LmNpR\", // inline\r\n\t\t\t\t\"DEBUG\": true,\r\n", "");
    assert_eq!(fs::read_to_string(&file).unwrap(), expected);
    let tool = place.tool("orders-db");
    let command = ["/bin/sh", "-c", "exec npx -y @modelcontextprotocol/server-postgres \"$POSTGRES_URL\""];
    assert_eq!(strings(&tool["command"]), command);
    assert_eq!(place.unseal("orders-db/postgres-url"), URL);
    let tool = place.tool("github");
    assert_eq!(strings(&tool["environment"]), ["GITHUB_TOKEN", "DEBUG=true"], "what the client fills in is passed on");
    assert_eq!(place.unseal("github/stripe-key"), KEY);

    says(&place.adopt(&["--undo", ".vscode/mcp.json"]), 0, &["as it was"]);
    assert_eq!(fs::read(&file).unwrap(), VSCODE.as_bytes());
}

#[test]
fn the_arguments_of_known_programs_become_variables() {
    let place = Place::new();
    let text = json!({ "mcpServers": {
        "docker": { "command": "docker", "args": ["run", "-i", "--rm", "-e", format!("GITHUB_TOKEN={TOKEN}"), "ghcr.io/github/github-mcp-server"] },
        "stripe": { "command": "npx", "args": ["-y", "@stripe/mcp", "--tools=all", format!("--api-key={KEY}")] },
        "remote": { "command": "npx", "args": ["mcp-remote", "https://h/sse", "--header", format!("Authorization: Bearer {KEY}")] },
        "shell": { "command": "bash", "args": ["-c", format!("API_TOKEN='{KEY}' exec my-server --token \"{TOKEN}\"")] },
        "filled": { "command": "my-server", "args": ["${workspaceFolder}", "--token", "abcd1234efgh"] },
    } });
    let file = place.write("project/.cursor/mcp.json", text.to_string());
    let out = place.adopt(&[".cursor/mcp.json", "--json"]);
    says(&out, 0, &[]);
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(report["files"][0]["state"], "adopted");
    let servers = report["files"][0]["servers"].as_array().unwrap();
    let exposed: Vec<_> = servers
        .iter()
        .flat_map(|server| server["secrets"].as_array().unwrap())
        .filter(|secret| secret["exposed_in_argv"] == true)
        .collect();
    assert_eq!(exposed.len(), 2, "{report}");

    assert_eq!(
        strings(&place.tool("docker")["command"]),
        ["docker", "run", "-i", "--rm", "-e", "GITHUB_TOKEN", "ghcr.io/github/github-mcp-server"]
    );
    assert_eq!(strings(&place.tool("stripe")["command"]), ["npx", "-y", "@stripe/mcp", "--tools=all"]);
    // One value is one secret, whoever has it.
    assert_eq!(place.tool("stripe")["secrets"]["remote/auth-token"]["env"].as_str(), Some("STRIPE_SECRET_KEY"));
    assert_eq!(place.tool("remote")["secrets"]["remote/auth-token"]["env"].as_str(), Some("AUTH_TOKEN"));
    assert_eq!(strings(&place.tool("remote")["command"])[4], "Authorization: Bearer ${AUTH_TOKEN}");
    assert_eq!(
        strings(&place.tool("shell")["command"]),
        ["bash", "-c", "API_TOKEN=''\"$API_TOKEN\"'' exec my-server --token \"\"\"$TOKEN\"\"\""]
    );
    assert!(place.tool("filled").get("command").is_none());
    let after: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!(
        after["mcpServers"]["filled"]["args"],
        json!(["run", "filled", "--", "/bin/sh", "-c", "exec my-server \"$1\" --token \"$TOKEN\"", "sh", "${workspaceFolder}"])
    );
    place.holds_nowhere(&[TOKEN, KEY, "abcd1234efgh"]);
}

/// What is written as a command for a shell does what the words did.
#[test]
fn a_command_through_a_shell_gets_the_same_words() {
    let place = Place::new();
    let words = ["it's", "two words", "$HOME", "", "--token=abcd1234efgh", "*", "a\\b"];
    let arguments = [["%s|"].as_slice(), &words].concat();
    let text = json!({ "mcpServers": { "x": { "command": "/usr/bin/printf", "args": arguments } } });
    place.write("project/.mcp.json", text.to_string());
    says(&place.adopt(&[".mcp.json"]), 0, &[]);
    let tool = place.tool("x");
    let command = strings(&tool["command"]);
    let out = Command::new(command[0]).args(&command[1..]).env_clear().env("TOKEN", "abcd1234efgh").output().unwrap();
    assert_eq!(String::from_utf8(out.stdout).unwrap(), words.map(|word| format!("{word}|")).concat());
}

#[test]
fn claude_codes_own_file_with_its_projects() {
    let place = Place::new();
    let server = |token: &str| json!({ "type": "stdio", "command": "npx", "args": ["x"], "env": { "TOKEN": token } });
    let text = json!({
        "numStartups": 3, "mcpServers": { "github": server(TOKEN) },
        "projects": { "/srv/a": { "mcpServers": { "github": server(KEY) }, "history": [] }, "/srv/b": { "allowedTools": [] } },
    });
    let file = place.write("home/.claude.json", serde_json::to_string_pretty(&text).unwrap());
    says(&place.adopt(&["--all-known"]), 0, &["github (project /srv/a)"]);
    let after: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(after["mcpServers"]["github"]["args"], json!(["run", "github"]));
    assert_eq!(after["projects"]["/srv/a"]["mcpServers"]["github"]["args"], json!(["run", "github-2"]));
    assert_eq!((place.unseal("github/token"), place.unseal("github-2/token")), (TOKEN.into(), KEY.into()));
    place.holds_nowhere(&[TOKEN, KEY]);
}

#[test]
fn a_dry_run_shows_all_and_writes_nothing() {
    let place = Place::new();
    place.write("project/.mcp.json", CLAUDE);
    let before = place.everything();
    let out = place.adopt(&[".mcp.json", "--dry-run"]);
    let said = says(
        &out,
        3,
        &["-        \"GITHUB_PERSONAL_ACCESS_TOKEN\": \"[redacted: 40 bytes]\"", "+++ ", "+[tool.github]", "nothing was written"],
    );
    assert!(said.contains("+      \"args\": [\"run\", \"github\"]"), "{said}");
    assert_eq!(place.everything(), before);
    let out = place.adopt(&[".mcp.json", "--dry-run", "--json"]);
    says(&out, 3, &[]);
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(
        (&report["dry_run"], &report["files"][0]["state"], &report["files"][0]["undo"]),
        (&true.into(), &"found".into(), &Value::Null)
    );
    assert_eq!(report["files"][0]["servers"][0]["secrets"][0]["bytes"], 40);
    assert_eq!(place.everything(), before);
}

/// The diff is one that patch(1) takes, where nothing had to be masked.
#[test]
fn the_diff_is_right() {
    if Command::new("patch").arg("--version").output().is_err() {
        eprintln!("patch(1) is not here: skipped");
        return;
    }
    let place = Place::new();
    // A file of the configuration has no values, so that its part of the diff is the whole truth.
    place.write("etc/valetkey.toml", "[daemon]\nlog-format = \"json\"\n");
    place.write("project/.mcp.json", CLAUDE);
    let out = place.adopt(&[".mcp.json", "--dry-run"]);
    let said = String::from_utf8(out.stdout).unwrap();
    let main = place.config().display().to_string();
    let start = said.find(&format!("--- {main}")).unwrap();
    let part = &said[start..said[start + 4..].find("\n--- ").map_or(said.len(), |end| start + 5 + end)];
    let patch = place.write("part.diff", part);
    let copy = place.write("copy.toml", "[daemon]\nlog-format = \"json\"\n");
    let patched = Command::new("patch").arg(&copy).arg(&patch).output().unwrap();
    assert!(patched.status.success(), "{}\n{part}", String::from_utf8_lossy(&patched.stdout));
    says(&place.adopt(&[".mcp.json"]), 0, &[]);
    assert_eq!(place.read("copy.toml"), place.read("etc/valetkey.toml"));
}

#[test]
fn undo_is_exact_and_takes_back_the_policy() {
    let place = Place::new();
    let main = "# ours\n[daemon]\nlog-format = \"json\"";
    place.write("etc/valetkey.toml", main);
    let file = place.write("project/.mcp.json", CLAUDE);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o604)).unwrap();
    let then = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789);
    fs::File::options().write(true).open(&file).unwrap().set_modified(then).unwrap();
    says(&place.adopt(&[".mcp.json"]), 0, &[]);
    assert!(place.read("etc/valetkey.toml").starts_with(&format!("{main}\n\n")));

    // Whoever changed it since is asked.
    let adopted = fs::read_to_string(&file).unwrap();
    fs::write(&file, adopted.replace("Ctrl+Space", "Alt+Space")).unwrap();
    says(
        &place.adopt(&["--undo", ".mcp.json"]),
        3,
        &["has been changed since", "-  \"globalShortcut\": \"Ctrl+Space\"", "--force"],
    );
    fs::write(&file, &adopted).unwrap();

    says(&place.adopt(&["--undo", ".mcp.json", "--dry-run"]), 0, &["would be"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), adopted);
    says(&place.adopt(&["--undo", ".mcp.json"]), 0, &["as it was", "taken back"]);
    let facts = file.metadata().unwrap();
    assert_eq!((fs::read(&file).unwrap(), facts.mode() & 0o7777, facts.modified().unwrap()), (CLAUDE.into(), 0o604, then));
    assert_eq!(place.read("etc/valetkey.toml"), main);
    assert!(!place.path("etc/tools.d/github.toml").exists());
    says(&place.adopt(&["--undo", ".mcp.json"]), 1, &["nothing to undo"]);

    // And again: the same names, since the sealed value is the same.
    says(&place.adopt(&[".mcp.json"]), 0, &["github/personal-access-token "]);
    fs::write(&file, "{}").unwrap();
    says(&place.adopt(&["--undo", ".mcp.json", "--force"]), 0, &[]);
    assert_eq!(fs::read(&file).unwrap(), CLAUDE.as_bytes());
}

/// Only what this identity sealed is restored: a forged way back could put anything into the file.
#[test]
fn a_forged_way_back_is_refused() {
    let place = Place::new();
    let file = place.write("project/.mcp.json", CLAUDE);
    says(&place.adopt(&[".mcp.json"]), 0, &[]);
    let adopted = fs::read(&file).unwrap();
    let record = fs::read_dir(place.path("etc/adopted")).unwrap().next().unwrap().unwrap().path();
    assert_eq!(record.metadata().unwrap().mode() & 0o7777, 0o600);
    let good = fs::read(&record).unwrap();
    let mut bad = good.clone();
    let last = bad.len() - 1;
    bad[last] ^= 1;
    fs::write(&record, &bad).unwrap();
    says(&place.adopt(&["--undo", ".mcp.json"]), 1, &["is damaged, or another's"]);
    assert_eq!(fs::read(&file).unwrap(), adopted);
    fs::write(&record, &good).unwrap();
    says(&place.adopt(&["--undo", ".mcp.json"]), 0, &[]);
}

#[test]
fn the_users_word_counts() {
    let place = Place::new();
    let text = json!({ "mcpServers": { "a": { "command": "x", "args": ["--level", "very-private", "one"],
        "env": { "LABEL": "not-by-its-looks", "SESSION_TOKEN": "not-secret-at-all" } } } });
    let file = place.write("project/.mcp.json", text.to_string());
    says(&place.adopt(&[".mcp.json", "--secret", "b:X"]), 2, &["no server b", "it has: a"]);
    says(&place.adopt(&[".mcp.json", "--keep", "a:NAME"]), 2, &["it has: LABEL, SESSION_TOKEN, args[0], --level, args[2]"]);
    says(&place.adopt(&[".mcp.json", "--only", "b"]), 2, &["no server b"]);
    let chosen = ["--secret", "a:LABEL", "--secret", "a:--level", "--keep", "a:SESSION_TOKEN"];
    says(&place.adopt(&[&[".mcp.json"], &chosen[..]].concat()), 0, &["kept, as you said"]);
    assert_eq!((place.unseal("a/label"), place.unseal("a/level")), ("not-by-its-looks".into(), "very-private".into()));
    let after: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(after["mcpServers"]["a"]["env"], json!({ "SESSION_TOKEN": "not-secret-at-all" }));
    assert_eq!(strings(&place.tool("a")["environment"]), ["SESSION_TOKEN"]);
    place.holds_nowhere(&["very-private"]);
}

/// A value is a secret wherever it stands: it must not come into the tool's file by another way.
#[test]
fn the_same_value_under_another_name_moves_too() {
    let place = Place::new();
    let text = json!({ "mcpServers": { "a": { "command": "x", "args": ["--label", "words of an owner"],
        "env": { "PASSWORD": "words of an owner", "NOTE": "it is words of an owner!" } } } });
    let file = place.write("project/.mcp.json", text.to_string());
    says(
        &place.adopt(&[".mcp.json", "--keep", "a:--label"]),
        1,
        &["would be written into the tool's file", "nothing was changed"],
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), text.to_string());
    assert!(!place.path("etc/secrets.sealed").exists());
    says(&place.adopt(&[".mcp.json"]), 0, &["a/password", "a/note"]);
    assert_eq!(place.unseal("a/note"), "it is words of an owner!");
    place.holds_nowhere(&["words of an owner"]);
}

#[test]
fn only_the_named_server() {
    let place = Place::new();
    let server = |token: &str| json!({ "command": "npx", "env": { "TOKEN": token } });
    let file = place.write("project/.mcp.json", json!({ "mcpServers": { "a": server(TOKEN), "b": server(KEY) } }).to_string());
    says(&place.adopt(&[".mcp.json", "--only", "b"]), 0, &["b/token"]);
    let after = fs::read_to_string(&file).unwrap();
    assert!(after.contains(TOKEN) && !after.contains(KEY));
    says(&place.adopt(&[".mcp.json"]), 0, &["a/token"]);
    // Two steps, and two steps back.
    says(&place.adopt(&["--undo", ".mcp.json"]), 0, &[]);
    assert_eq!(fs::read_to_string(&file).unwrap(), after);
    says(&place.adopt(&["--undo", ".mcp.json"]), 0, &[]);
    assert!(fs::read_to_string(&file).unwrap().contains(KEY));
}

#[test]
fn commands_for_aws_and_vault_show_no_value() {
    let place = Place::new();
    let file = place.write("project/.mcp.json", CLAUDE);
    says(&place.adopt(&[".mcp.json", "--store", "aws"]), 2, &["aws-secrets-manager", "hint"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), CLAUDE);
    let sources = "[source.prod]\nkind = \"aws-secrets-manager\"\nregion = \"eu-west-1\"\n\n[source.vault]\nkind = \"vault\"\n\
        address = \"https://v:8200\"\nmount = \"kv\"\nauth = { token-file = \"/run/token\" }\n";
    place.write("etc/valetkey.toml", sources);
    let aws = "| aws secretsmanager create-secret --region eu-west-1 --name prod/mcp/github/personal-access-token --secret-string file:///dev/stdin && valetkey seal remove github/personal-access-token";
    says(
        &place.adopt(&[".mcp.json", "--store", "aws", "--prefix", "prod/mcp/"]),
        0,
        &["valetkey unseal github/personal-access-token --file ", aws],
    );
    let main: toml::Table = place.read("etc/valetkey.toml").parse().unwrap();
    let secret = &main["secret"]["github/personal-access-token"];
    assert_eq!(
        (secret["source"].as_str(), secret["path"].as_str()),
        (Some("prod"), Some("prod/mcp/github/personal-access-token"))
    );
    says(&place.adopt(&["--undo", ".mcp.json"]), 0, &[]);
    assert_eq!(place.read("etc/valetkey.toml"), sources);

    says(
        &place.adopt(&[".mcp.json", "--store", "vault"]),
        0,
        &["| vault kv put -mount=kv mcp/github/personal-access-token value=-"],
    );
    let main: toml::Table = place.read("etc/valetkey.toml").parse().unwrap();
    assert_eq!(main["secret"]["github/personal-access-token"]["field"].as_str(), Some("value"));
}

#[test]
fn what_cannot_be_read_is_told_by_its_place_and_left() {
    let place = Place::new();
    let cases = [
        (format!("{{\n  \"mcpServers\": {{\n    \"a\" {{ \"env\": \"{TOKEN}\" }}\n}}"), ".mcp.json:3:9: not JSON"),
        (format!("{{ \"mcpServers\": {{ \"a\": {{ \"env\": {{ \"T\": \"{TOKEN}"), ".mcp.json:1:"),
        ("".into(), "not JSON"),
        ("[]".into(), "it holds no object"),
        (format!("{{ \"other\": \"{TOKEN}\" }}"), "lists no MCP servers"),
        (
            format!(
                "{{\n\"mcpServers\": {{\n\"a\": {{ \"command\": \"x\", \"env\": {{ \"T\": \"{TOKEN}\" }} }},\n\"a\": {{}}\n}} }}"
            ),
            ".mcp.json:4: a name stands twice",
        ),
        (
            format!(
                "{{ \"mcpServers\": {{ \"a\": {{ \"command\": \"x\", \"env\": {{ \"T\": \"{TOKEN}\", \"T\": \"\" }} }} }} }}"
            ),
            "stands twice in one `env`",
        ),
    ];
    for (text, expected) in cases {
        let file = place.write("project/.mcp.json", &text);
        let before = place.everything();
        says(&place.adopt(&[".mcp.json"]), 1, &[expected, "hint: "]);
        assert_eq!(place.everything(), before, "{text}");
        assert_eq!(fs::read_to_string(file).unwrap(), text);
    }
    place.write("project/.mcp.json", b"{\n\"\xff\": 1}");
    says(&place.adopt(&[".mcp.json"]), 1, &[".mcp.json:2: not UTF-8"]);
    says(&place.adopt(&["no-such.json"]), 1, &["cannot read no-such.json", "hint: "]);
    says(&place.adopt(&["."]), 1, &["hint: "]);
    says(&place.adopt(&[]), 2, &["FILE"]);
}

#[test]
fn a_link_is_followed_and_stays_one() {
    let place = Place::new();
    let file = place.write("dotfiles/mcp.json", CLAUDE);
    symlink(&file, place.path("project/.mcp.json")).unwrap();
    says(&place.adopt(&[".mcp.json"]), 0, &["is a link"]);
    assert!(place.path("project/.mcp.json").is_symlink());
    assert!(!fs::read_to_string(&file).unwrap().contains(TOKEN));
    says(&place.adopt(&["--undo", ".mcp.json"]), 0, &[]);
    assert_eq!(fs::read_to_string(&file).unwrap(), CLAUDE);
}

#[test]
fn copies_and_histories_are_told_of() {
    let place = Place::new();
    place.write("project/.mcp.json", CLAUDE.replace("  \"globalShortcut\"", &format!("  // was {TOKEN}\n  \"globalShortcut\"")));
    place.write("project/.mcp.json~", CLAUDE);
    place.write("project/.mcp.json.bak", "{}");
    fs::hard_link(place.path("project/.mcp.json"), place.path("other-name")).unwrap();
    place.write("project/.git/index", b"DIRC....\0.mcp.json\0..");
    let said = says(
        &place.adopt(&[".mcp.json"]),
        0,
        &[
            ".mcp.json~ still holds values",
            "still stands in line 2",
            "2 names (hard links)",
            "is in the git repository",
            "rotate",
        ],
    );
    assert!(!said.contains(".mcp.json.bak"), "{said}");
}

/// Whatever cannot be written, the client's file is whole, and so is what was there before.
#[test]
fn nothing_is_lost_where_something_cannot_be_written() {
    let place = Place::new();
    let file = place.write("project/.mcp.json", CLAUDE);
    // A file where the folder of tools should be: the client's file must not point to a tool that is not there.
    place.write("etc/tools.d", "");
    let main = "[daemon]\n";
    place.write("etc/valetkey.toml", main);
    says(&place.adopt(&[".mcp.json"]), 1, &["tools.d", "hint: "]);
    assert_eq!((fs::read_to_string(&file).unwrap().as_str(), place.read("etc/valetkey.toml").as_str()), (CLAUDE, main));
    fs::remove_file(place.path("etc/tools.d")).unwrap();
    // The folder of the client's file is full, or read-only for whoever runs this: no name can be made in it.
    let as_nobody = |arguments: &[&str]| {
        use std::os::unix::process::CommandExt;
        let program = place.path("valetkeyd");
        if !program.exists() {
            fs::copy(env!("CARGO_BIN_EXE_valetkeyd"), &program).unwrap();
        }
        let mut command = Command::new(program);
        command.arg0("valetkey").arg("adopt").args(arguments).env_clear().env("HOME", place.path("theirs"));
        command.uid(4242).gid(4242).current_dir(place.path("project")).output().unwrap()
    };
    for folder in ["", "project"] {
        fs::set_permissions(place.path(folder), fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    fs::create_dir(place.path("theirs")).unwrap();
    std::os::unix::fs::chown(place.path("theirs"), Some(4242), Some(4242)).unwrap();
    says(&as_nobody(&[".mcp.json"]), 1, &["cannot write", "hint: "]);
    assert_eq!(fs::read_to_string(&file).unwrap(), CLAUDE);
    assert_eq!(fs::read_dir(place.path("theirs")).unwrap().count(), 0, "nothing was sealed either");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    says(&as_nobody(&[".mcp.json"]), 1, &["cannot read"]);
    assert!(
        place.everything().iter().all(|(path, _)| !path.display().to_string().contains(".valetkey-")),
        "no half-written file stays"
    );
}

/// A user without rights on the host has a daemon and a configuration of their own.
#[test]
fn an_ordinary_user_adopts_into_the_home_directory() {
    use std::os::unix::process::CommandExt;
    let place = Place::new();
    let file = place.write("theirs/.mcp.json", CLAUDE);
    let program = place.path("valetkeyd");
    fs::copy(env!("CARGO_BIN_EXE_valetkeyd"), &program).unwrap();
    fs::set_permissions(place.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for path in [&place.path("theirs"), &file] {
        std::os::unix::fs::chown(path, Some(4242), Some(4242)).unwrap();
    }
    let mut command = Command::new(program);
    command.arg0("valetkey").args(["adopt", ".mcp.json"]).env_clear().env("HOME", place.path("theirs"));
    let out = command.uid(4242).gid(4242).current_dir(place.path("theirs")).output().unwrap();
    says(&out, 0, &["theirs/.config/valetkey/valetkey.toml"]);
    assert!(place.read("theirs/.config/valetkey/tools.d/github.toml").contains("run-as = { user = \"4242\" }"));
    place.holds_nowhere(&[TOKEN]);
}

/// Root adopts for a user: the file stays the user's, and the tool is what that user starts.
#[test]
fn the_owner_of_the_file_is_who_runs_the_servers() {
    let place = Place::new();
    let file = place.write("project/.mcp.json", CLAUDE);
    std::os::unix::fs::chown(&file, Some(4242), Some(4343)).unwrap();
    says(&place.adopt(&[".mcp.json"]), 0, &[]);
    let facts = file.metadata().unwrap();
    assert_eq!((facts.uid(), facts.gid()), (4242, 4343));
    assert_eq!(place.tool("github")["run-as"]["user"].as_str(), Some("4242"));
}

/// What is written is what the daemon's own loader takes.
#[test]
fn the_daemon_takes_what_was_written() {
    let place = Place::new();
    fs::create_dir(place.path("etc")).unwrap();
    place.write("project/.mcp.json", CLAUDE);
    place.write("project/.vscode/mcp.json", VSCODE);
    says(&place.adopt(&[".mcp.json", ".vscode/mcp.json"]), 0, &[]);
    let config = place.config();
    let out = place.valetkey(&["check", "--config", config.to_str().unwrap()]);
    says(&out, 0, &["ok: 3 tools, 3 secrets, 1 sources"]);
}

/// White space and comments, as people and programs leave them between the words of JSON.
fn blank() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["", " ", "\n", "\r\n", "\t", "\n    ", " // a, \"b\": {\n", "/* } , */", "\n\n"])
}

/// The words of a JSON text, one by one.
fn words(value: &Value, trailing: bool, out: &mut Vec<String>) {
    let comma = |last: bool, out: &mut Vec<String>| {
        if !last || trailing {
            out.push(",".into());
        }
    };
    match value {
        Value::Object(members) => {
            out.push("{".into());
            for (index, (name, value)) in members.iter().enumerate() {
                out.extend([json!(name).to_string(), ":".into()]);
                words(value, trailing, out);
                comma(index + 1 == members.len(), out);
            }
            out.push("}".into());
        }
        Value::Array(items) => {
            out.push("[".into());
            for (index, item) in items.iter().enumerate() {
                words(item, trailing, out);
                comma(index + 1 == items.len(), out);
            }
            out.push("]".into());
        }
        other => out.push(other.to_string()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// However the file is laid out: no value stays in it, it is still what clients read, and the way back is exact.
    #[test]
    fn there_and_back_again(
        blanks in prop::collection::vec(blank(), 1..40),
        trailing: bool,
        mark: bool,
        variables in prop::collection::vec(prop::sample::select(vec!["GITHUB_TOKEN", "HOST", "REF", "PASSWORD"]), 0..4),
        secret_argument: bool,
    ) {
        let value = |name: &str| match name {
            "GITHUB_TOKEN" => TOKEN,
            "PASSWORD" => "quo\"te \\ é",
            "REF" => "${env:REF}",
            _ => "https://h",
        };
        let env: serde_json::Map<_, _> = variables.iter().map(|name| ((*name).to_owned(), value(name).into())).collect();
        let mut args = json!(["-y", "server"]);
        if secret_argument {
            args.as_array_mut().unwrap().extend([json!("--api-key"), json!(KEY)]);
        }
        let secrets = env.contains_key("GITHUB_TOKEN") || env.contains_key("PASSWORD") || secret_argument;
        let left: serde_json::Map<_, _> = env.iter().filter(|(name, _)| *name == "REF").map(|(k, v)| (k.clone(), v.clone())).collect();
        let server = json!({ "command": "npx", "args": args, "env": env, "z": 1 });
        let document = json!({ "a": [1, true, null], "mcpServers": { "x": server, "y": { "url": "https://h" } } });
        let mut all = Vec::new();
        words(&document, trailing, &mut all);
        let mut text = if mark { "\u{feff}".to_owned() } else { String::new() };
        let mut gaps = blanks.iter().cycle();
        all.iter().for_each(|word| text.extend([word.as_str(), gaps.next().unwrap()]));

        let place = Place::new();
        let file = place.write("project/.mcp.json", &text);
        says(&place.adopt(&[".mcp.json"]), 0, &[]);
        let after = fs::read_to_string(&file).unwrap();
        prop_assert!(!after.contains(TOKEN) && !after.contains(KEY) && !after.contains("quo"), "{}", after);
        // Without comments and trailing commas it is JSON for anybody.
        let plain = blank_free(&after);
        let now: Value = serde_json::from_str(&plain).unwrap_or_else(|error| panic!("{error}\n{plain}\n{after}"));
        prop_assert_eq!((&now["a"], &now["mcpServers"]["y"]), (&document["a"], &document["mcpServers"]["y"]));
        let server = &now["mcpServers"]["x"];
        prop_assert_eq!(&server["z"], 1);
        if secrets {
            prop_assert_eq!(&server["args"], &json!(["run", "x"]));
            let env = if left.is_empty() && !env.is_empty() { Value::Null } else { left.into() };
            prop_assert_eq!(&server["env"], &env);
            says(&place.adopt(&["--undo", ".mcp.json"]), 0, &[]);
        }
        prop_assert_eq!(fs::read(&file).unwrap(), text.as_bytes());
    }
}

/// Takes out of our own texts what strict JSON does not have. No string in them holds what looks like it.
fn blank_free(text: &str) -> String {
    let mut plain = text.trim_start_matches('\u{feff}').to_owned();
    for comment in ["// a, \"b\": {\n", "/* } , */"] {
        plain = plain.replace(comment, " ");
    }
    let words: Vec<_> = plain.split_whitespace().collect();
    words.join(" ").replace(", }", "}").replace(",}", "}").replace(", ]", "]").replace(",]", "]")
}
