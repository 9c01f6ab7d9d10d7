//! The man pages. Those of the commands are made of the command line, those of the configuration of the example, and both are checked in:
//! after a change run with `VALETKEY_BLESS=1` and read the difference. Each is held to the programs and to the configuration's keys.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use clap::CommandFactory;
use valetkey::{cli, config, daemon};

#[path = "man/options.rs"]
mod options;
#[path = "man/roff.rs"]
mod roff;

const FOLDER: &str = "docs/man";
/// Written by hand: it has no options.
const BY_HAND: &str = "valetkey-credentials.7";

const OPERATOR: &str = "`valetkeyd`(8), `valetkeyd.toml`(5), `valetkey-policy`(5), `valetkey-credentials`(7)";

fn valetkey() -> clap::Command {
    let mut command = cli::command();
    command.build();
    command
}

/// Every page that is made, by its file's name.
fn pages() -> Vec<(String, String)> {
    let valetkey = valetkey();
    let files = "`/run/valetkey/admin.sock`: where most commands ask the daemon.\n\n`/run/valetkey/tools.sock`: where `run` and `get` do.";
    let mut pages = vec![("valetkey.1".into(), roff::command(1, &valetkey, &[("FILES", files)], OPERATOR))];
    for command in roff::commands(&valetkey) {
        let name = roff::path(command).replace(' ', "-");
        pages.push((format!("{name}.1"), roff::command(1, command, &[], &format!("`valetkey`(1), {OPERATOR}"))));
    }
    let mut daemon = daemon::Args::command();
    daemon.build();
    let more = [
        ("FILES", DAEMON_FILES),
        ("ENVIRONMENT", DAEMON_ENVIRONMENT),
        (
            "EXIT STATUS",
            "0: it was told to stop, and every call was done or its time was over. 1: it did not start, and has said every reason.",
        ),
    ];
    let see = "`valetkey`(1), `valetkeyd.toml`(5), `valetkey-policy`(5), `valetkey-credentials`(7), `systemd.exec`(5)";
    pages.push(("valetkeyd.8".into(), roff::command(8, &daemon, &more, see)));
    pages.push(("valetkeyd.toml.5".into(), main_file()));
    pages.push(("valetkey-policy.5".into(), policy()));
    pages
}

const DAEMON_FILES: &str = "`/etc/valetkey/valetkey.toml`, `/etc/valetkey/tools.d/`: the configuration, `valetkeyd.toml`(5) and \
    `valetkey-policy`(5).\n\n`/run/valetkey/tools.sock`: where tools connect. `/run/valetkey/admin.sock`: where operators do. \
    `/run/valetkey/credentials.sock`: where systemd asks, `valetkey-credentials`(7). Under systemd they belong to socket units of the \
    same names.\n\n`/var/lib/valetkey/`: the audit log and the key that seals it; the sealed copy of the last good values, where \
    configuration asks for one. No value is written in the clear.\n\nRun by a user who is not root, without systemd, it has all this \
    below `~/.local/state/valetkey/`.";
const DAEMON_ENVIRONMENT: &str = "`LISTEN_FDS`, `LISTEN_FDNAMES`, `LISTEN_PID`: sockets that systemd passes. `NOTIFY_SOCKET`, \
    `WATCHDOG_USEC`: where it tells systemd that it is ready, and alive. `CREDENTIALS_DIRECTORY`: where `credential:NAME` of the \
    configuration is. `STATE_DIRECTORY`: in place of /var/lib/valetkey. Variables that a source of kind environment names are taken, and \
    overwritten.";

fn example(name: &str) -> String {
    fs::read_to_string(Path::new("examples/etc-valetkey").join(name)).unwrap()
}

const FORM: &str = "The file is TOML. Keys are in kebab-case, and an unknown one is an error. A time is a number and `s`, `m`, `h` or `d`: \
    \"30s\", \"12h\". `valetkey check` reads the file as the daemon does and reports every mistake at once, each with its line and what to \
    write instead.";

fn main_file() -> String {
    let mut page = roff::Page::new("valetkeyd.toml", 5);
    page.section("NAME");
    page.text("valetkeyd.toml - the daemon of Valetkey, its sources and the secrets in them");
    page.section("SYNOPSIS");
    page.text("`/etc/valetkey/valetkey.toml`");
    page.section("DESCRIPTION");
    page.text(&format!(
        "Says how `valetkeyd`(8) runs, where secrets come from, and what they are called. Which tool may have which is in \
         `valetkey-policy`(5), in files beside it. {FORM}\n\nNo credential stands in here, and none may. What the daemon needs to log in \
         to a source is in files, named by a path or as `credential:NAME`, a systemd credential (LoadCredential= and \
         LoadCredentialEncrypted= in `systemd.exec`(5)).\n\nThe file must belong to root or to the daemon's user, as must the folders \
         above it, and be writable by nobody else: it is refused otherwise."
    ));
    page.section("OPTIONS");
    page.text(
        "By table. An option stands here with its default where the text says so, and with an example otherwise. What follows `source.`, \
         `secret.` and `audit.export.` is a name of your own.",
    );
    options::write(&mut page, &example("valetkey.toml"));
    page.section("SEE ALSO");
    page.text("`valetkeyd`(8), `valetkey-policy`(5), `valetkey-check`(1), `valetkey-doctor`(1)");
    page.finish()
}

fn policy() -> String {
    let mut page = roff::Page::new("valetkey-policy", 5);
    page.section("NAME");
    page.text("valetkey-policy - which process is which tool, and what it may have");
    page.section("SYNOPSIS");
    page.text("`/etc/valetkey/tools.d/*.toml`");
    page.section("DESCRIPTION");
    page.text(&format!(
        "One file for each tool, or for several. A package that ships an MCP server can ship one: such a file may define tools and nothing \
         else, and cannot say where secrets come from. The tables may stand in `valetkeyd.toml`(5) too. {FORM}\n\nWhat is not granted is \
         denied. A tool gets what it declares and policy allows: a line `secrets.\"NAME\"` is a grant, and there is no other. Nothing that a \
         caller says about itself counts; the kernel says who it is. `valetkey explain` names the line that allows something, or what is \
         missing.\n\nA change is in force after `systemctl reload valetkeyd` or `valetkey reload`, which fail, and change nothing, where \
         anything is wrong. Every open session is then judged anew."
    ));
    page.section("OPTIONS");
    page.text("As three examples, with all that there is. What follows `tool.` is a name of your own.");
    for name in ["billing.toml", "github.toml", "reports.toml"] {
        options::write(&mut page, &example(&format!("tools.d/{name}")));
    }
    page.section("SEE ALSO");
    page.text("`valetkeyd.toml`(5), `valetkey-credentials`(7), `valetkey-run`(1), `valetkey-explain`(1), `valetkey-lint`(1)");
    page.finish()
}

#[test]
fn the_pages_are_those_of_this_build() {
    let bless = std::env::var_os("VALETKEY_BLESS").is_some();
    let made = pages();
    let mut wrong = Vec::new();
    for (name, text) in &made {
        let path = Path::new(FOLDER).join(name);
        if bless {
            fs::write(&path, text).unwrap();
        }
        if fs::read_to_string(&path).unwrap_or_default() != *text {
            wrong.push(name.as_str());
        }
    }
    assert!(wrong.is_empty(), "not as the programs and the example are: {wrong:?}; VALETKEY_BLESS=1 cargo test --test man");
    let names: BTreeSet<_> = made.iter().map(|(name, _)| name.clone()).chain([BY_HAND.into()]).collect();
    assert_eq!(names, files().iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect());
}

fn files() -> Vec<PathBuf> {
    fs::read_dir(FOLDER).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn page(name: &str) -> String {
    fs::read_to_string(Path::new(FOLDER).join(name)).unwrap()
}

/// Without the marks of roff.
fn plain(page: &str) -> String {
    [("\\-", "-"), ("\\fB", ""), ("\\fI", ""), ("\\fR", ""), ("\\e", "\\")]
        .into_iter()
        .fold(page.to_owned(), |text, (mark, with)| text.replace(mark, with))
}

/// Words of a text that look like options.
fn options_in(text: &str) -> BTreeSet<String> {
    let text = plain(text);
    let starts = text.match_indices("--").filter(|(at, _)| !text[..*at].ends_with(|c: char| c == '-' || c.is_alphanumeric()));
    let words = starts.map(|(at, _)| text[at..].chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect::<String>());
    words.filter(|word| word.len() > 2).collect()
}

fn help_of(program: &str, arguments: &[&str]) -> String {
    let help = Command::new(program).args(arguments).arg("--help").stdin(Stdio::null()).output().unwrap();
    assert!(help.status.success(), "{arguments:?}: {help:?}");
    String::from_utf8(help.stdout).unwrap()
}

/// Of the programs as they are, not of the command line that the page was made of.
#[test]
fn each_option_of_a_page_is_in_the_help_and_the_other_way_round() {
    let program = env!("CARGO_BIN_EXE_valetkey");
    let valetkey = valetkey();
    let mut seen = 0;
    for command in roff::commands(&valetkey) {
        let name = command.get_name();
        let mut help = help_of(program, &[name]);
        roff::commands(command).for_each(|inner| help += &help_of(program, &[name, inner.get_name()]));
        let page = page(&format!("valetkey-{name}.1"));
        assert_eq!(options_in(&page), options_in(&help), "valetkey {name}");
        seen += options_in(&help).len();
    }
    assert!(seen > 100, "{seen} options");
    let main = plain(&page("valetkey.1"));
    let help = help_of(program, &[]);
    let commands = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let names = commands.lines().filter_map(|line| line.strip_prefix("  ")?.split_once(' ')).map(|(name, _)| name);
    for name in names.filter(|name| !name.is_empty() && *name != "help") {
        assert!(main.contains(&format!("valetkey-{name}(1)")), "valetkey(1) leaves {name} out");
    }
    assert_eq!(options_in(&page("valetkeyd.8")), options_in(&help_of(env!("CARGO_BIN_EXE_valetkeyd"), &[])));
}

#[test]
fn each_option_of_a_page_is_a_key_of_the_configuration_and_the_other_way_round() {
    let [main, policy] = ["valetkeyd.toml.5", "valetkey-policy.5"].map(page);
    let keys = config::keys();
    let of_tools = |table: &str| table == "tool" || table.starts_with("tool:");
    for (page, tools) in [(&main, false), (&policy, true)] {
        let known: BTreeSet<_> = keys
            .iter()
            .filter(|(table, _)| of_tools(table) == tools)
            .flat_map(|(_, keys)| keys.iter().map(|key| key.name))
            .collect();
        let terms = options::terms(page);
        assert!(terms.len() > 8, "{terms:?}");
        for term in terms {
            assert!(known.contains(term.as_str()), "`{term}` is no key of {}", if tools { "a tool" } else { "the main file" });
        }
    }
    for (table, keys) in keys {
        let text = plain(if of_tools(table) { &policy } else { &main });
        for key in keys {
            let shown = match (table, key.name) {
                // It has a page of its own.
                ("", "tool") => text.contains("valetkey-policy"),
                ("", name) => text.contains(&format!("[{name}.")) || text.contains(&format!("[{name}]")),
                (_, name) => {
                    text.contains(&format!("{name} = "))
                        || text.contains(&format!("{name}."))
                        || text.contains(&format!(".{name}]"))
                }
            };
            assert!(shown, "`{}` of [{table}] is in no page", key.name);
        }
    }
}

/// What the page of the credentials says by hand is what the units and the loader say.
#[test]
fn the_page_of_credentials_tells_what_works() {
    let page = plain(&page(BY_HAND));
    let socket = fs::read_to_string("systemd/valetkeyd-credentials.socket").unwrap();
    for line in ["FileDescriptorName=credentials", "SocketMode=0600", "ListenStream=/run/valetkey/credentials.sock"] {
        assert!(socket.contains(line));
        let value = line.split_once('=').unwrap().1;
        assert!(page.contains(value), "{value}");
    }
    let block = |start: &str| page.split(".nf\n").find(|block| block.starts_with(start)).unwrap().split(".fi\n").next().unwrap();
    let unit = block("[Unit]");
    assert!(unit.contains("Requires=valetkeyd-credentials.socket\nAfter=valetkeyd-credentials.socket\n"));
    let main = "[source.env]\nkind = \"environment\"\n[secret.\"stripe/api-key\"]\nsource = \"env\"\npath = \"KEY\"\n";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("valetkey.toml");
    fs::write(&path, format!("{main}{}", block("[tool.billing]"))).unwrap();
    let config = config::load(&path).unwrap();
    assert!(config.problems.is_empty(), "{:?}", config.problems);
    let grant = &config.policy.tool("billing").unwrap().grants["stripe/api-key"];
    let id = grant.delivery.credential().unwrap();
    assert!(unit.contains(&format!("LoadCredential={id}:/run/valetkey/credentials.sock")));
}

/// groff has a warning for each line that it does not understand.
#[test]
fn the_pages_are_man_pages() {
    for path in files() {
        let checked = Command::new("man").args(["--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z"]).arg(&path).output();
        let Ok(checked) = checked else {
            eprintln!("SKIP: no man (Debian package man-db)");
            return;
        };
        let said = String::from_utf8_lossy(&checked.stderr);
        assert!(checked.status.success() && said.is_empty(), "{}: {said}", path.display());
        assert!(checked.stdout.len() > 1000, "{}: nothing to read", path.display());
    }
}
