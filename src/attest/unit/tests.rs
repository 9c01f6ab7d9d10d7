use proptest::prelude::*;

use super::*;

#[test]
fn the_first_component_that_is_no_slice_is_the_unit() {
    for (path, name, directory) in [
        ("/system.slice/c1.service", "c1.service", "/system.slice/c1.service"),
        ("/system.slice/c1.service/main/worker", "c1.service", "/system.slice/c1.service"),
        (
            "/system.slice/system-tmpl.slice/tmpl@alice.service",
            "tmpl@alice.service",
            "/system.slice/system-tmpl.slice/tmpl@alice.service",
        ),
        (
            r"/system.slice/system-mcp\x2dgithub.slice/mcp-github@alice.service",
            "mcp-github@alice.service",
            r"/system.slice/system-mcp\x2dgithub.slice/mcp-github@alice.service",
        ),
        ("/mcp.slice/mcp-tools.slice/sliced.service", "sliced.service", "/mcp.slice/mcp-tools.slice/sliced.service"),
        ("/system.slice/_cgroup.service", "cgroup.service", "/system.slice/_cgroup.service"),
        ("/system.slice/run-r1.scope", "run-r1.scope", "/system.slice/run-r1.scope"),
        ("/top.service", "top.service", "/top.service"),
        // Made by an unprivileged process inside what was delegated to it.
        ("/system.slice/run-u34.service/system.slice/c1.service", "run-u34.service", "/system.slice/run-u34.service"),
        ("/x.service/system.slice/c1.service", "x.service", "/x.service"),
        // A container's own systemd.
        ("/machine.slice/machine-m.scope/payload/system.slice/c1.service", "machine-m.scope", "/machine.slice/machine-m.scope"),
    ] {
        assert_eq!(unit_of(path), Ok(Some(UnitPath { name, directory })), "{path}");
    }
}

#[test]
fn a_user_is_all_that_these_prove() {
    for path in [
        "/",
        "/init.scope",
        "/system.slice",
        "/user.slice/user-1001.slice/user@1001.service/app.slice/billing.service",
        "/user.slice/user-1001.slice/session-3.scope",
        "/docker/0123456789abcdef",
        "/docker/0123456789abcdef/system.slice/c1.service",
        "/kubepods.slice/kubepods-pod1.slice/cri-1",
        "/system.slice/tmpl@.service",
        "/system.slice/@x.service",
        "/system.slice/.service",
        "/system.slice/c1.socket",
        "/system.slice/c 1.service",
        "/system.slice/c1.service\u{301}",
        "/.slice/c1.service",
        "/a@b.slice/c1.service",
        "/service",
        "/system.slice/__a b.service",
    ] {
        assert_eq!(unit_of(path), Ok(None), "{path}");
    }
    assert_eq!(unit_of(&format!("/{}.service", "x".repeat(247))).unwrap().unwrap().name.len(), 255);
    assert_eq!(unit_of(&format!("/{}.service", "x".repeat(248))), Ok(None));
}

#[test]
fn nobody_is_placed_by_these() {
    for (path, why) in [
        ("/..", BadPath::Outside),
        ("/../system.slice/c1.service", BadPath::Outside),
        ("/system.slice/../../c1.service", BadPath::Outside),
        ("/system.slice/c1.service/..", BadPath::Outside),
        ("/system.slice/c1.service (deleted)", BadPath::Deleted),
        ("/system.slice/c1.service/x (deleted)", BadPath::Deleted),
        ("", BadPath::Malformed),
        ("c1.service", BadPath::Malformed),
        ("//c1.service", BadPath::Malformed),
        ("/system.slice//c1.service", BadPath::Malformed),
        ("/system.slice/c1.service/", BadPath::Malformed),
        ("/./c1.service", BadPath::Malformed),
    ] {
        assert_eq!(unit_of(path), Err(why), "{path}");
    }
}

#[test]
fn only_the_unified_line_counts() {
    assert_eq!(own_path("9:name=systemd:/a.service\n8:pids:/b.service\n0::/c.service\n"), Ok(Some("/c.service")));
    assert_eq!(own_path("9:name=systemd:/a.service\n"), Ok(None));
    assert_eq!(own_path("10::/a.service\n"), Ok(None));
    assert_eq!(own_path("0::/a\n0::/b\n"), Err(BadPath::Malformed));
}

#[test]
fn an_invocation_id_is_32_hex_digits() {
    assert!(is_invocation("0123456789abcdef0123456789abcdef"));
    for wrong in ["", "0123", "0123456789ABCDEF0123456789abcdef", "0123456789abcdef0123456789abcdef\n"] {
        assert!(!is_invocation(wrong), "{wrong:?}");
    }
}

proptest! {
    #[test]
    fn no_text_breaks_it(text in any::<String>()) {
        let _ = (unit_of(&text), own_path(&text));
    }

    /// Whatever is made below a unit, the unit stays.
    #[test]
    fn what_is_below_a_unit_does_not_matter(below in prop::collection::vec("[a-z@._-]{1,12}(\\.slice|\\.service)?", 0..5)) {
        let path = format!("/system.slice/mine.service/{}", below.join("/"));
        if let Ok(found) = unit_of(path.trim_end_matches('/')) {
            prop_assert_eq!(found.unwrap().name, "mine.service");
        }
    }

    #[test]
    fn a_unit_is_a_prefix_and_a_valid_name(path in "(/(system\\.slice|_?[a-z@.]{1,9}(\\.service|\\.scope|\\.slice)?|\\.\\.)){0,5}") {
        if let Ok(Some(found)) = unit_of(&path) {
            prop_assert!(path.starts_with(found.directory) && found.directory.ends_with(found.name));
            prop_assert!(is_unit(found.name) && !found.name.contains('/'));
        }
    }
}
