//! The man pages of the commands, made of the command line itself: man(7) as groff and mandoc read it.

/// One page, as it grows.
pub struct Page(String);

impl Page {
    pub fn new(name: &str, section: u8) -> Self {
        let title = escaped(&name.to_uppercase());
        Self(format!(
            ".\\\" Made by tests/man.rs\n\
             .TH \"{title}\" \"{section}\" \"\" \"valetkey {}\" \"Valetkey\"\n.nh\n.ad l\n",
            env!("CARGO_PKG_VERSION")
        ))
    }

    pub fn section(&mut self, title: &str) {
        self.0 += &format!(".SH \"{}\"\n", escaped(title));
    }

    pub fn subsection(&mut self, title: &str) {
        self.0 += &format!(".SS \"{}\"\n", escaped(title).replace('"', "\\(dq"));
    }

    /// Paragraphs, with blank lines between them.
    pub fn text(&mut self, text: &str) {
        for paragraph in text.split("\n\n").filter(|paragraph| !paragraph.trim().is_empty()) {
            self.0 += &format!(".PP\n{}", filled(paragraph));
        }
    }

    /// A term and what it means.
    pub fn item(&mut self, term: &str, text: &str) {
        self.0 += &format!(".TP\n{}\n{}", line(term), filled(text));
    }

    /// Lines that stay as they are.
    pub fn code(&mut self, lines: &str) {
        self.0 += ".PP\n.RS 4\n.nf\n";
        lines.lines().for_each(|text| self.0 += &format!("{}\n", line(&escaped(text))));
        self.0 += ".fi\n.RE\n";
    }

    pub fn finish(self) -> String {
        self.0
    }
}

pub fn escaped(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}

pub fn bold(text: &str) -> String {
    format!("\\fB{}\\fR", escaped(text))
}

/// A line that roff must not take for a request.
fn line(text: &str) -> String {
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text.into() }
}

/// One paragraph, a sentence a line; what stands in backquotes is bold.
fn filled(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let words = if words.is_empty() { "\\&".into() } else { words };
    let sentences = words.replace(". ", ".\n");
    let mut out = String::new();
    let mut code = false;
    for sentence in sentences.lines() {
        let mut filled = String::new();
        for (i, part) in sentence.split('`').enumerate() {
            if i > 0 {
                code = !code;
                filled += if code { "\\fB" } else { "\\fR" };
            }
            filled += &if part == "\\&" { part.to_owned() } else { escaped(part) };
        }
        out += &format!("{}\n", line(&filled));
    }
    out
}

/// The page of a command. `command` was built, so that options of all its commands are in it.
pub fn command(section: u8, command: &clap::Command, more: &[(&str, &str)], see_also: &str) -> String {
    let path = path(command);
    let mut page = Page::new(&path.replace(' ', "-"), section);
    page.section("NAME");
    page.text(&format!("{} - {}", path.replace(' ', "-"), about(command)));
    page.section("SYNOPSIS");
    usage(&mut page, command);
    page.section("DESCRIPTION");
    let (description, status, examples) = after(command);
    page.text(&format!("{}.\n\n{description}", about(command)));
    arguments(&mut page, command, true);
    let commands: Vec<_> = commands(command).collect();
    if !commands.is_empty() {
        page.section("COMMANDS");
    }
    for inner in commands {
        match path.contains(' ') {
            // Of a command's command there is no page of its own.
            true => inner_command(&mut page, inner),
            false => page.item(&format!("{}(1)", bold(&self::path(inner).replace(' ', "-"))), about(inner).as_str()),
        }
    }
    if !status.is_empty() {
        page.section("EXIT STATUS");
        page.text(&status);
    }
    for (title, text) in more {
        page.section(title);
        page.text(text);
    }
    if !examples.is_empty() {
        page.section("EXAMPLES");
        page.code(&examples);
    }
    page.section("SEE ALSO");
    page.text(see_also);
    page.finish()
}

fn inner_command(page: &mut Page, command: &clap::Command) {
    page.subsection(&path(command));
    usage(page, command);
    let (description, status, examples) = after(command);
    page.text(&format!("{}.\n\n{description}\n\n{status}", about(command)));
    arguments(page, command, false);
    if !examples.is_empty() {
        page.code(&examples);
    }
}

pub fn commands(command: &clap::Command) -> impl Iterator<Item = &clap::Command> {
    command.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help")
}

/// `valetkey audit`: as it is called.
pub fn path(command: &clap::Command) -> String {
    command.get_bin_name().unwrap_or(command.get_name()).to_owned()
}

fn about(command: &clap::Command) -> String {
    command.get_about().map(|about| about.to_string().trim_end_matches('.').to_owned()).unwrap_or_default()
}

fn usage(page: &mut Page, command: &clap::Command) {
    let usage = command.clone().render_usage().to_string();
    page.code(&usage.trim_start_matches("Usage:").lines().map(|line| format!("{}\n", line.trim())).collect::<String>());
}

/// Prose, exit codes and examples of what stands below the options in `--help`.
fn after(command: &clap::Command) -> (String, String, String) {
    let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let (prose, examples) = ["Examples:\n", "Example:\n"].iter().find_map(|title| text.split_once(title)).unwrap_or((&text, ""));
    let examples = examples.lines().map(|line| format!("{}\n", line.strip_prefix("  ").unwrap_or(line))).collect();
    let (status, description): (Vec<_>, Vec<_>) = prose.split("\n\n").partition(|paragraph| paragraph.starts_with("Exit code"));
    (description.join("\n\n"), status.join("\n\n"), examples)
}

fn arguments(page: &mut Page, command: &clap::Command, titled: bool) {
    let shown = || command.get_arguments().filter(|argument| !argument.is_hide_set());
    let (positional, options): (Vec<_>, Vec<_>) = shown().partition(|argument| argument.is_positional());
    for (title, arguments) in [("ARGUMENTS", positional), ("OPTIONS", options)] {
        if titled && !arguments.is_empty() {
            page.section(title);
        }
        arguments.into_iter().for_each(|argument| page.item(&term(argument), &help(argument)));
    }
}

fn term(argument: &clap::Arg) -> String {
    let shown = argument.to_string();
    let end = shown.find([' ', '=', '[']).filter(|end| *end > 0).unwrap_or(shown.len());
    let (name, value) = shown.split_at(end);
    let short = argument.get_short().filter(|_| argument.get_long().is_some());
    let short = short.map(|short| format!("{}, ", bold(&format!("-{short}")))).unwrap_or_default();
    format!("{short}{}\\fI{}\\fR", bold(name), escaped(value))
}

fn help(argument: &clap::Arg) -> String {
    let help = argument.get_help().or(argument.get_long_help()).map(ToString::to_string).unwrap_or_default();
    let mut words = vec![help];
    if argument.get_action().takes_values() {
        let list = |items: Vec<String>| items.join(", ");
        let values = argument.get_possible_values();
        if !values.is_empty() && !argument.is_hide_possible_values_set() {
            words.push(format!("[possible values: {}]", list(values.iter().map(|value| value.get_name().to_owned()).collect())));
        }
        let defaults = argument.get_default_values();
        if !defaults.is_empty() && !argument.is_hide_default_value_set() {
            let defaults = defaults.iter().map(|value| value.to_string_lossy().into_owned()).collect();
            words.push(format!("[default: {}]", list(defaults)));
        }
    }
    words.join(" ")
}
