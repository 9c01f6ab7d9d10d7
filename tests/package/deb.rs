//! The Debian package, made of `[package.metadata.deb]` in Cargo.toml as cargo-deb does it, with the programs of this build: a release
//! build takes minutes, and what is tested here is what dpkg does with it.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

/// What goes where.
pub struct Asset {
    pub from: PathBuf,
    /// From the root on, with the file's name.
    pub to: PathBuf,
    pub mode: u32,
}

pub struct Metadata(toml::Table);

impl Metadata {
    pub fn read() -> Self {
        let manifest: toml::Table = fs::read_to_string("Cargo.toml").unwrap().parse().unwrap();
        Self(manifest["package"]["metadata"]["deb"].as_table().unwrap().clone())
    }

    pub fn text(&self, key: &str) -> &str {
        self.0[key].as_str().unwrap()
    }

    pub fn list(&self, key: &str) -> Vec<&str> {
        self.0[key].as_array().unwrap().iter().map(|item| item.as_str().unwrap()).collect()
    }

    /// Every file, with patterns spelt out. What does not exist is a mistake, but for what is built.
    pub fn assets(&self) -> Vec<Asset> {
        let mut assets = Vec::new();
        for asset in self.0["assets"].as_array().unwrap() {
            let [from, to, mode] = asset.as_array().unwrap().as_slice() else { panic!("{asset:?}") };
            let (from, to) = (from.as_str().unwrap(), to.as_str().unwrap());
            let mode = u32::from_str_radix(mode.as_str().unwrap(), 8).unwrap();
            let found = matching(from);
            assert!(!found.is_empty(), "{from} is nowhere");
            for from in found {
                let to = if to.ends_with('/') { Path::new(to).join(from.file_name().unwrap()) } else { to.into() };
                assets.push(Asset { from, to, mode });
            }
        }
        assets
    }
}

/// `folder/*.end`: one star, in the file's name.
fn matching(pattern: &str) -> Vec<PathBuf> {
    let Some((start, end)) = pattern.split_once('*') else { return vec![pattern.into()] };
    let (folder, start) = start.rsplit_once('/').unwrap();
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let fits = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        path.is_file() && name.starts_with(start) && name.ends_with(end)
    };
    let mut found: Vec<_> = entries.filter(fits).collect();
    found.sort();
    found
}

/// A package's tree, ready to be packed in any version.
pub struct Tree(tempfile::TempDir);

impl Tree {
    pub fn build() -> Self {
        let tree = Self(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap());
        let metadata = Metadata::read();
        for Asset { from, to, mode } in metadata.assets() {
            let target = tree.0.path().join(&to);
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            put(&from, &target);
            fs::set_permissions(&target, fs::Permissions::from_mode(mode)).unwrap();
        }
        let control = tree.0.path().join("DEBIAN");
        fs::create_dir(&control).unwrap();
        let conffiles = metadata.list("conf-files");
        fs::write(control.join("conffiles"), conffiles.join("\n") + "\n").unwrap();
        for script in ["postinst", "prerm", "postrm"] {
            fs::copy(Path::new(metadata.text("maintainer-scripts")).join(script), control.join(script)).unwrap();
        }
        tree
    }

    /// Packs it, and returns the package's file.
    pub fn pack(&self, version: &str, folder: &Path) -> PathBuf {
        let metadata = Metadata::read();
        let depends = metadata.text("depends").replace("$auto", "libc6 (>= 2.34)");
        let control = format!(
            "Package: valetkey\nVersion: {version}\nArchitecture: {}\nMaintainer: {}\nDepends: {depends}\nSection: {}\nPriority: {}\n\
             Description: {}\n {}\n",
            architecture(),
            metadata.text("maintainer"),
            metadata.text("section"),
            metadata.text("priority"),
            env!("CARGO_PKG_DESCRIPTION"),
            metadata.text("extended-description").replace('\n', "\n "),
        );
        fs::write(self.0.path().join("DEBIAN/control"), control).unwrap();
        let file = folder.join(format!("valetkey_{version}.deb"));
        // Uncompressed: it is read once.
        let packed =
            Command::new("dpkg-deb").args(["--root-owner-group", "-Znone", "--build"]).arg(self.0.path()).arg(&file).output();
        let packed = packed.unwrap();
        assert!(packed.status.success(), "{packed:?}");
        file
    }
}

fn architecture() -> String {
    let asked = Command::new("dpkg").arg("--print-architecture").output().unwrap();
    String::from_utf8(asked.stdout).unwrap().trim().to_owned()
}

/// One file: a program of this build without its symbols, a completion as the program prints it, or what is in the repository.
fn put(from: &Path, target: &Path) {
    let name = from.file_name().unwrap().to_str().unwrap();
    let programs = BTreeMap::from([("valetkeyd", env!("CARGO_BIN_EXE_valetkeyd")), ("valetkey", env!("CARGO_BIN_EXE_valetkey"))]);
    let shells = BTreeMap::from([("valetkey.bash", "bash"), ("_valetkey", "zsh"), ("valetkey.fish", "fish")]);
    if from.starts_with("target/completions") {
        let printed = Command::new(programs["valetkeyd"]).args(["completions", shells[name]]).output().unwrap();
        assert!(printed.status.success() && printed.stdout.len() > 1000, "{printed:?}");
        fs::write(target, printed.stdout).unwrap();
    } else if from.starts_with("target") {
        let program = programs[name];
        let stripped = Command::new("strip").arg("-o").arg(target).arg(program).status();
        if !stripped.is_ok_and(|status| status.success()) {
            fs::copy(program, target).unwrap();
        }
    } else {
        fs::copy(from, target).unwrap();
    }
}
