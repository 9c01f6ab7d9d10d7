//! `sandbox`: what a launched tool may do. The launcher sets it up, and fails where its kernel cannot enforce a part of it.

use std::path::PathBuf;

use super::{
    duration::bytes,
    read::{Key, Section, key},
};
use crate::policy::Sandbox;

pub(super) const KEYS: &[Key] = &[
    key("read", "[\"/srv/data\"]"),
    key("write", "[\"/var/lib/mcp-github\"]"),
    key("connect", "[443]"),
    key("unix-sockets", "false"),
    key("memory", "\"1G\""),
    key("processes", "64"),
    key("files", "1024"),
    key("cpu", "\"10m\""),
];

/// Below these a Node or a JIT does not start, and the error would be the tool's own.
const LEAST_MEMORY: u64 = 16 << 20;
const LEAST_FILES: u64 = 16;

pub(super) fn read(section: &Section<'_>) -> Sandbox {
    let sandbox = Sandbox {
        read: section.list("read", path).unwrap_or_default(),
        write: section.list("write", path).unwrap_or_default(),
        connect: section.numbers("connect", u16::MAX.into()).unwrap_or_default().into_iter().map(|port| port as u16).collect(),
        unix_sockets: section.boolean("unix-sockets").unwrap_or(false),
        memory: section.parsed("memory", bytes),
        processes: section.count("processes", 1 << 22),
        files: section.count("files", 1 << 30),
        cpu: section.duration("cpu"),
    };
    if sandbox.memory.is_some_and(|memory| memory < LEAST_MEMORY) {
        section.reject("memory", "is less than the 16 MiB of address space that any program needs");
    }
    if sandbox.files.is_some_and(|files| files < LEAST_FILES) {
        section.reject("files", "is less than the 16 that any program needs");
    }
    if sandbox.write.iter().any(|path| path.parent().is_none()) {
        let what = format!("`write` in {} is the whole file system: that is no bound", section.title);
        section.warn(section.line_of("write"), what, "write = [\"/var/lib/mcp-github\"]");
    }
    sandbox
}

fn path(text: &str) -> Result<PathBuf, &'static str> {
    if text.chars().any(char::is_control) {
        return Err("holds a control character");
    }
    let path = PathBuf::from(text);
    if !path.is_absolute() {
        return Err("must be an absolute path");
    }
    if path.components().any(|part| part == std::path::Component::ParentDir) {
        return Err("holds `..`");
    }
    Ok(path)
}
