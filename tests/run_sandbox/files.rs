//! Files.

use std::{
    ffi::CString,
    fs,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::Path,
};

use libc::{EACCES, EPERM};

use super::*;

fn mode(path: &Path, mode: u32) -> std::io::Result<()> {
    fs::set_permissions(path, PermissionsExt::from_mode(mode))
}

#[test]
fn files_are_those_listed() {
    let place = Place::new();
    let (read, write, outside) = (place.directory("read"), place.directory("write"), place.directory("outside"));
    for directory in [&read, &outside, &write] {
        fs::write(directory.join("file"), "text").unwrap();
        mode(&directory.join("file"), 0o666).unwrap();
    }
    let wanted = v1::Sandbox { read: vec![text(&read)], write: vec![text(&write)], ..Default::default() };
    inside(&wanted, || {
        assert_eq!(fs::read(read.join("file")).unwrap(), b"text");
        assert_eq!(error(fs::read(outside.join("file"))), EACCES);
        assert_eq!(error(fs::read_dir(&outside)), EACCES);
        assert_eq!(error(fs::read("/etc/shadow")), EACCES);
        assert_eq!(error(fs::write(read.join("new"), "text")), EACCES);
        assert_eq!(error(fs::write(outside.join("file"), "text")), EACCES);
        assert_eq!(error(fs::write("/tmp/valetkey-should-not-be", "text")), EACCES);
        let outside_file = CString::new(outside.join("file").as_os_str().as_bytes()).unwrap();
        // SAFETY: a string that ends with a zero.
        assert_eq!(denied(unsafe { libc::truncate(outside_file.as_ptr(), 0) }.into()), EACCES);

        let (one, two) = (write.join("one"), write.join("two"));
        fs::create_dir(&one).unwrap();
        fs::write(one.join("new"), "text").unwrap();
        fs::rename(one.join("new"), &two).unwrap();
        mode(&two, 0o600).unwrap();
        fs::remove_file(&two).unwrap();
        fs::remove_dir(&one).unwrap();
        // What is inside does not get out, nor in what is outside.
        assert_eq!(error(fs::hard_link(outside.join("file"), write.join("link"))), libc::EXDEV);
        assert_eq!(error(fs::rename(write.join("file"), outside.join("file"))), EACCES);
        std::os::unix::fs::symlink(outside.join("file"), &two).unwrap();
        assert_eq!(error(fs::read(&two)), EACCES);
        fs::remove_file(&two).unwrap();
    });
}

#[test]
fn a_device_node_cannot_be_made_where_it_may_write() {
    let write = Place::new();
    let wanted = v1::Sandbox { write: vec![text(write.0.path())], ..Default::default() };
    inside(&wanted, || {
        let node = CString::new(write.0.path().join("disk").as_os_str().as_bytes()).unwrap();
        for kind in [libc::S_IFBLK, libc::S_IFCHR] {
            // SAFETY: a string that ends with a zero.
            let made = unsafe { libc::mknod(node.as_ptr(), kind | 0o600, libc::makedev(1, 3)) };
            assert!([EACCES, EPERM].contains(&denied(made.into())));
        }
    });
}

#[test]
fn with_nothing_to_write_no_file_is_changed_without_opening_it() {
    let place = Place::new();
    let file = place.0.path().join("file");
    for user in [0, USER] {
        let wanted = v1::Sandbox { read: vec![text(place.0.path())], ..Default::default() };
        fs::write(&file, "text").unwrap();
        std::os::unix::fs::chown(&file, Some(user), Some(user)).unwrap();
        let attack = || {
            assert_eq!(error(mode(&file, 0o777)), EACCES);
            assert_eq!(error(std::os::unix::fs::chown(&file, None, Some(user))), EACCES);
            let touched = fs::File::open(&file).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH);
            assert_eq!(error(touched), EACCES);
        };
        assert_eq!(inside_as(user, &wanted, attack), 0, "as user {user}");
        // It would have been free to.
        assert_eq!(
            Child::fork(|| {
                become_user(user);
                mode(&file, 0o640).unwrap()
            })
            .reap(),
            0
        );
    }
}

#[test]
fn terminals_and_other_users_of_memory_are_not_in_the_baseline() {
    inside(&v1::Sandbox::default(), || {
        for path in ["/dev/tty", "/dev/ptmx", "/dev/shm/valetkey-should-not-be", "/dev/mem", "/dev/kmsg"] {
            let opened = fs::OpenOptions::new().write(true).create(true).truncate(false).open(path);
            assert!([EACCES, EPERM].contains(&error(opened)), "{path}");
        }
        fs::write("/dev/null", "text").unwrap();
        assert_eq!(error(fs::write("/proc/self/oom_score_adj", "0")), EACCES);
        fs::read("/proc/self/maps").unwrap();
    });
}

#[test]
fn a_directory_without_a_path_here_can_be_added() {
    let hidden = Place::new();
    fs::write(hidden.0.path().join("key"), "text").unwrap();
    let sandbox = Sandbox::prepare(&v1::Sandbox::default()).unwrap();
    let child = Child::fork(|| {
        sandbox.also_read(std::os::fd::AsFd::as_fd(&fs::File::open(hidden.0.path()).unwrap())).unwrap();
        sandbox.enter().unwrap();
        assert_eq!(fs::read(hidden.0.path().join("key")).unwrap(), b"text");
        assert_eq!(error(fs::write(hidden.0.path().join("key"), "")), EACCES);
    });
    assert_eq!(child.reap(), 0);
}
