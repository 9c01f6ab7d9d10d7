//! The servers that a client's file lists, whichever client wrote it.

use super::json::{Kind, Member, Value};

/// One server, as it stands in the file.
pub struct Server<'d> {
    pub name: &'d str,
    /// For one that Claude Code keeps under a project: the project's folder.
    pub project: Option<&'d str>,
    pub value: &'d Value,
}

/// Why a file cannot be worked on.
#[derive(Debug)]
pub struct Unfit {
    /// Where in the text, if it is one place.
    pub at: Option<usize>,
    pub what: String,
    pub hint: String,
}

impl<'d> Server<'d> {
    pub fn text(&self, key: &str) -> Option<&'d str> {
        self.value.get(key)?.value.text()
    }

    /// The words of its command line after the program. A number counts as its digits, as it does for clients.
    pub fn arguments(&self) -> Vec<(&'d Value, String)> {
        let list = self.value.get("args").and_then(|member| member.value.list()).unwrap_or_default();
        list.iter().filter_map(|value| Some((value, words(value)?))).collect()
    }

    /// Its variables, and the text of each.
    pub fn variables(&self) -> Vec<(&'d Member, String)> {
        self.table("env").iter().filter_map(|member| Some((member, words(&member.value)?))).collect()
    }

    pub fn table(&self, key: &str) -> &'d [Member] {
        self.value.get(key).and_then(|member| member.value.table()).unwrap_or_default()
    }

    /// As reports call it.
    pub fn shown(&self) -> String {
        match self.project {
            Some(project) => format!("{} (project {project})", self.name),
            None => self.name.into(),
        }
    }

    /// Is it started by this program already?
    pub fn is_ours(&self) -> bool {
        let program = self.text("command").and_then(|command| command.rsplit('/').next());
        program == Some("valetkey") && self.arguments().first().is_some_and(|(_, word)| word == "run")
    }
}

fn words(value: &Value) -> Option<String> {
    match &value.kind {
        Kind::Text(text) => Some(text.clone()),
        Kind::Word(word) if word != "null" => Some(word.clone()),
        _ => None,
    }
}

/// Where each client keeps its servers.
const TABLES: [&str; 2] = ["mcpServers", "servers"];

/// Finds the servers by what is in the file, not by what it is called.
pub fn find(document: &Value) -> Result<Vec<Server<'_>>, Unfit> {
    let Some(top) = document.table() else {
        let what = "it holds no object".into();
        return Err(Unfit { at: Some(document.range.start), what, hint: "the file of an MCP client begins with `{`".into() });
    };
    once(top, "at the top")?;
    let mut tables: Vec<(Option<&str>, &Value)> = Vec::new();
    tables.extend(TABLES.iter().filter_map(|key| Some((None, &document.get(key)?.value))));
    // VS Code's own settings.
    let settings = document.get("mcp").and_then(|member| member.value.get("servers"));
    tables.extend(settings.map(|member| (None, &member.value)));
    // Claude Code's own file.
    for project in document.get("projects").and_then(|member| member.value.table()).unwrap_or_default() {
        tables.extend(project.value.get("mcpServers").map(|member| (Some(project.name.as_str()), &member.value)));
    }
    if tables.is_empty() {
        let hint = "the file of an MCP client lists them under `mcpServers`, or `servers` in VS Code".into();
        return Err(Unfit { at: None, what: "it lists no MCP servers".into(), hint });
    }
    let mut servers = Vec::new();
    for (project, table) in tables {
        let Some(members) = table.table() else { continue };
        once(members, "among the servers")?;
        for member in members.iter().filter(|member| member.value.table().is_some()) {
            let server = Server { name: &member.name, project, value: &member.value };
            once(server.value.table().unwrap_or_default(), "in one server")?;
            once(server.table("env"), "in one `env`")?;
            servers.push(server);
        }
    }
    Ok(servers)
}

/// A name that stands twice means one thing to one client and another to the next.
fn once(members: &[Member], place: &str) -> Result<(), Unfit> {
    for (index, member) in members.iter().enumerate() {
        if members[..index].iter().any(|before| before.name == member.name) {
            let what = format!("a name stands twice {place}");
            let hint = "clients take the last of the two: remove the other".into();
            return Err(Unfit { at: Some(member.range.start), what, hint });
        }
    }
    Ok(())
}
