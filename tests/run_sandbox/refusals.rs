//! What cannot be had is an error, before anything runs.

use valetkey::run::sandbox::{Error, Sandbox};

use super::*;

#[track_caller]
fn on_a_kernel_without(call: libc::c_long, errno: i32, expected: fn(&Error) -> bool, words: &str) {
    let child = Child::fork(|| {
        break_call(call, errno);
        let error = Sandbox::prepare(&v1::Sandbox::default()).err().expect("it cannot be had");
        assert!(expected(&error), "{error:?}");
        assert!(format!("{error}; {}", error.hint()).contains(words), "{error}; {}", error.hint());
    });
    assert_eq!(child.reap(), 0);
}

#[test]
fn a_kernel_that_lacks_a_part_is_an_error_that_says_so() {
    let landlock = libc::SYS_landlock_create_ruleset;
    on_a_kernel_without(landlock, libc::ENOSYS, |e| matches!(e, Error::NoLandlock), "CONFIG_SECURITY_LANDLOCK");
    on_a_kernel_without(landlock, libc::EOPNOTSUPP, |e| matches!(e, Error::LandlockOff), "`lsm=`");
    on_a_kernel_without(landlock, libc::EPERM, |e| matches!(e, Error::Kernel { .. }), "container");
    on_a_kernel_without(libc::SYS_seccomp, libc::ENOSYS, |e| matches!(e, Error::NoSeccomp), "CONFIG_SECCOMP_FILTER");
}

#[test]
fn what_breaks_between_the_check_and_the_start_starts_nothing() {
    for (call, step) in [
        (libc::SYS_prlimit64, "limit"),
        (libc::SYS_capset, "privileges"),
        (libc::SYS_landlock_restrict_self, "Landlock"),
        (libc::SYS_seccomp, "seccomp"),
    ] {
        for how in BOTH {
            let child = Child::fork(|| {
                let sandbox = Sandbox::prepare(&v1::Sandbox::default()).unwrap();
                break_call(call, libc::E2BIG);
                let Outcome { code, out, errors } = launch(0, how, || start("/bin/echo", &["started"], Some(&sandbox)));
                assert_eq!((code, out), (126, Vec::new()), "{how:?}: {errors}");
                assert!(errors.contains(step) && errors.contains("Argument list too long"), "{how:?}: {errors}");
            });
            assert_eq!(child.reap(), 0, "{step}, {how:?}");
        }
    }
}

fn refused(wanted: v1::Sandbox) -> String {
    let error = Sandbox::prepare(&wanted).err().expect("it is refused");
    format!("{error}\n  hint: {}", error.hint())
}

#[test]
fn settings_that_cannot_be_met_are_errors_that_name_them() {
    let missing = refused(v1::Sandbox { read: vec!["/nowhere/at-all".into()], ..Default::default() });
    assert!(missing.starts_with("the tool's sandbox lists /nowhere/at-all: No such file or directory"), "{missing}");
    assert!(refused(v1::Sandbox { write: vec!["here".into()], ..Default::default() }).contains("not an absolute path"));
    for port in [0, 65_536] {
        assert!(refused(v1::Sandbox { connect: vec![port], ..Default::default() }).contains("does not exist"));
    }
    let processes = refused(v1::Sandbox { max_processes: 8, ..Default::default() });
    assert!(processes.contains("does not bind root"), "{processes}");
}

#[test]
fn a_program_outside_is_named_before_it_fails_to_start() {
    let place = Place::new();
    let program = place.0.path().join("server");
    std::fs::copy("/bin/true", &program).unwrap();
    let sandbox = Sandbox::prepare(&v1::Sandbox::default()).unwrap();
    let error = sandbox.admits(&program).unwrap_err();
    assert!(matches!(&error, Error::Program { path } if path.ends_with("server")), "{error}");
    sandbox.admits(Path::new("/bin/true")).unwrap();
    let listed = Sandbox::prepare(&v1::Sandbox { read: vec![text(place.0.path())], ..Default::default() }).unwrap();
    listed.admits(&program).unwrap();
}
