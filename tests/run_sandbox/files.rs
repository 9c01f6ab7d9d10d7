//! Files.

use std::{
    ffi::CString,
    fs,
    os::{
        fd::AsFd,
        unix::{ffi::OsStrExt, fs::PermissionsExt},
    },
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
    let (read, write, outside) = (text(&read), text(&write), text(&outside));
    let wanted = v1::Sandbox { read: vec![read.clone()], write: vec![write.clone()], ..Default::default() };
    inside(&wanted, "files::those_listed", &[&read, &write, &outside]);
}

pub fn those_listed(places: &[String]) {
    let [read, write, outside] = [0, 1, 2].map(|at| Path::new(&places[at]));
    assert_eq!(fs::read(read.join("file")).unwrap(), b"text");
    assert_eq!(error(fs::read(outside.join("file"))), EACCES);
    assert_eq!(error(fs::read_dir(outside)), EACCES);
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
}

#[test]
fn a_device_node_cannot_be_made_where_it_may_write() {
    let write = Place::new();
    let wanted = v1::Sandbox { write: vec![text(write.0.path())], ..Default::default() };
    inside(&wanted, "files::a_device_node", &[&text(&write.0.path().join("disk"))]);
}

pub fn a_device_node(node: &[String]) {
    let node = CString::new(node[0].as_str()).unwrap();
    for kind in [libc::S_IFBLK, libc::S_IFCHR] {
        // SAFETY: a string that ends with a zero.
        let made = unsafe { libc::mknod(node.as_ptr(), kind | 0o600, libc::makedev(1, 3)) };
        assert!([EACCES, EPERM].contains(&denied(made.into())));
    }
}

#[test]
fn with_nothing_to_write_no_file_is_changed_without_opening_it() {
    let place = Place::new();
    let file = place.0.path().join("file");
    for user in [0, USER] {
        let wanted = v1::Sandbox { read: vec![text(place.0.path())], ..Default::default() };
        fs::write(&file, "text").unwrap();
        std::os::unix::fs::chown(&file, Some(user), Some(user)).unwrap();
        inside_as(user, &wanted, "files::attributes", &[&text(&file), &user.to_string()]);
        // It would have been free to.
        let free = Child::fork(|| {
            become_user(user);
            mode(&file, 0o640).unwrap()
        });
        assert_eq!(free.reap(), 0);
    }
}

pub fn attributes(of: &[String]) {
    let (file, user) = (Path::new(&of[0]), of[1].parse().unwrap());
    assert_eq!(error(mode(file, 0o777)), EACCES);
    assert_eq!(error(std::os::unix::fs::chown(file, None, Some(user))), EACCES);
    let touched = fs::File::open(file).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH);
    assert_eq!(error(touched), EACCES);
}

#[test]
fn terminals_and_other_users_of_memory_are_not_in_the_baseline() {
    inside(&v1::Sandbox::default(), "files::outside_the_baseline", &[]);
}

pub fn outside_the_baseline(_: &[String]) {
    for path in ["/dev/tty", "/dev/ptmx", "/dev/shm/valetkey-should-not-be", "/dev/mem", "/dev/kmsg"] {
        let opened = fs::OpenOptions::new().write(true).create(true).truncate(false).open(path);
        assert!([EACCES, EPERM].contains(&error(opened)), "{path}");
    }
    fs::write("/dev/null", "text").unwrap();
    assert_eq!(error(fs::write("/proc/self/oom_score_adj", "0")), EACCES);
    fs::read("/proc/self/maps").unwrap();
}

#[test]
fn a_directory_without_a_path_here_can_be_added() {
    let hidden = Place::new();
    let key = hidden.0.path().join("key");
    fs::write(&key, "text").unwrap();
    for how in BOTH {
        let add = |sandbox: &Sandbox| sandbox.also_read(fs::File::open(hidden.0.path()).unwrap().as_fd()).unwrap();
        let Outcome { code, errors, .. } = attacked(USER, how, &v1::Sandbox::default(), "files::added", &[&text(&key)], add);
        assert_eq!(code, DONE, "{how:?}: {errors}");
    }
}

pub fn added(key: &[String]) {
    assert_eq!(fs::read(&key[0]).unwrap(), b"text");
    assert_eq!(error(fs::write(&key[0], "")), EACCES);
}
