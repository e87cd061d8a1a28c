//! Other versions of Tern than this one, as programs: one of the past from the history, one of the future from patches.
//!
//! They are built once and kept outside of the checkout (`~/.cache/tern/versions`), each by what it is made of.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FlockOperation, flock};
use serde_json::Value;

use super::releases::{Release, Releases};
use crate::binary;
use crate::process::Scratch;

/// What of the repository the program is made of.
const SOURCES: [&str; 9] = [
    "Cargo.toml",
    "Cargo.lock",
    "rustfmt.toml",
    "vmstate",
    "hw",
    "migration",
    "vmm",
    "tests",
    "tools",
];
/// What of that changes the program.
const OF_THE_PROGRAM: [&str; 6] = ["Cargo.toml", "Cargo.lock", "vmstate", "hw", "migration", "vmm"];

/// A version of Tern that can be run.
#[derive(Clone, Debug)]
pub struct Version {
    /// What it is, for messages.
    pub name: String,
    program: PathBuf,
}

impl Version {
    /// This one.
    #[must_use]
    pub fn here() -> Self {
        Self {
            name: "head".to_owned(),
            program: binary::vm().to_owned(),
        }
    }

    /// The newest release of which this program differs.
    ///
    /// # Errors
    ///
    /// The history does not reach as far as that, and why: a copy without history, or a shallow one.
    ///
    /// # Panics
    ///
    /// If this program differs from no release: whatever was tested then would be nothing. If it does not build.
    pub fn released() -> Result<Self, String> {
        let releases = Releases::of_this_repository();
        let releases: Vec<_> = releases.iter().collect();
        for release in releases.iter().rev() {
            if differs(release)? {
                return Ok(Self {
                    name: release.version.clone(),
                    program: built(&release.commit, |folder| check_out(&release.commit, folder)),
                });
            }
        }
        panic!("this program is that of every release, so that moving between them would show nothing");
    }

    /// The one of the future: this one with the patches in `tests/future/` applied.
    ///
    /// # Panics
    ///
    /// If there are no patches, or one does not apply any more, or it does not build.
    #[must_use]
    #[track_caller]
    pub fn future() -> Self {
        let mut patches: Vec<_> = fs::read_dir(root().join("tests/future"))
            .expect("tests/future")
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.extension() == Some(OsStr::new("patch")))
            .collect();
        patches.sort();
        assert!(
            !patches.is_empty(),
            "tests/future has no patches, so that there is no future"
        );
        let mut hash = blake3::Hasher::new();
        for file in OF_THE_PROGRAM.map(|name| root().join(name)).iter().chain(&patches) {
            hash_below(file, &mut hash);
        }
        let key = format!("future-{}", &hash.finalize().to_hex()[..32]);
        let make = |folder: &Path| {
            for name in SOURCES {
                copy(&root().join(name), &folder.join(name));
            }
            for patch in &patches {
                apply(patch, folder);
            }
        };
        Self {
            name: "the future".to_owned(),
            program: built(&key, make),
        }
    }

    /// Its `vm` with these arguments, its runtime folder in `home`.
    #[must_use]
    pub fn command(&self, home: &Scratch, args: &[&str]) -> Command {
        home.command_of(&self.program, args)
    }

    /// Runs its `vm` to its end; returns what it wrote to stdout, or to stderr if it failed.
    ///
    /// # Errors
    ///
    /// It failed.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn run(&self, home: &Scratch, args: &[&str]) -> Result<String, String> {
        let output = self.command(home, args).output().expect("vm starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(text(&output.stderr)),
        }
    }

    /// The machines that it knows.
    ///
    /// # Panics
    ///
    /// If it does not say so.
    #[must_use]
    #[track_caller]
    pub fn machines(&self, home: &Scratch) -> Vec<String> {
        let said = self.run(home, &["machines", "--json"]).expect("a list");
        let list: Value = serde_json::from_str(&said).expect("JSON");
        let names = list.as_array().expect("a list").iter();
        names
            .map(|machine| machine["name"].as_str().expect("a name").to_owned())
            .collect()
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn git(args: &[&str]) -> io::Result<std::process::Output> {
    Command::new("git").arg("-C").arg(root()).args(args).output()
}

/// Whether this program is made of something else than the release.
fn differs(release: &Release) -> Result<bool, String> {
    let Release { version, commit, .. } = release;
    let of_release = format!("{commit}^{{commit}}");
    let known = git(&["cat-file", "-e", &of_release]).map_err(|error| format!("git: {error}"))?;
    if !known.status.success() {
        return Err(format!(
            "the history here does not have {commit}, of which {version} was made; \"git fetch --unshallow\" brings it"
        ));
    }
    let difference = git(&[&["diff", "--quiet", commit, "--"][..], &OF_THE_PROGRAM].concat());
    match difference.map(|output| output.status.code()) {
        Ok(Some(0)) => Ok(false),
        Ok(Some(1)) => Ok(true),
        other => Err(format!("git diff {commit}: {other:?}")),
    }
}

/// Puts the tree of a commit into `folder`.
fn check_out(commit: &str, folder: &Path) {
    let archive = git(&["archive", "--format=tar", commit]).expect("git starts");
    assert!(archive.status.success(), "{}", String::from_utf8_lossy(&archive.stderr));
    let file = folder.join("tree.tar");
    fs::write(&file, archive.stdout).expect("written");
    let status = Command::new("tar").arg("-xf").arg(&file).arg("-C").arg(folder).status();
    assert!(status.expect("tar starts").success(), "{commit} cannot be unpacked");
}

fn apply(patch: &Path, folder: &Path) {
    let output = Command::new("git")
        .args(["apply", "-C1"])
        .arg(patch)
        .current_dir(folder)
        // Outside of any repository, or git looks for its own files.
        .env("GIT_DIR", "/nonexistent")
        .output()
        .expect("git starts");
    assert!(
        output.status.success(),
        "{} does not apply any more; make it anew:\n{}",
        patch.display(),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// What of a folder of sources is none.
fn is_left_out(path: &Path) -> bool {
    path.ends_with("target") || path.ends_with("tests/compat") || path.ends_with("tests/fuzz")
}

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir_all(to).expect("a folder");
        for entry in fs::read_dir(from).expect("a folder").flatten() {
            if !is_left_out(&entry.path()) {
                copy(&entry.path(), &to.join(entry.file_name()));
            }
        }
    } else if from.exists() {
        fs::copy(from, to).expect("a file");
    }
}

fn hash_below(path: &Path, hash: &mut blake3::Hasher) {
    if path.is_dir() {
        let mut entries: Vec<_> = fs::read_dir(path)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").path())
            .collect();
        entries.sort();
        for entry in entries.iter().filter(|entry| !is_left_out(entry)) {
            hash_below(entry, hash);
        }
    } else if let Ok(contents) = fs::read(path) {
        let name = path.strip_prefix(root()).unwrap_or(path);
        hash.update(name.as_os_str().as_encoded_bytes());
        hash.update(&u64::try_from(contents.len()).unwrap_or(0).to_le_bytes());
        hash.update(&contents);
    }
}

/// The program called `key` in the cache. What is not there is built, of the sources that `make` puts into a folder.
fn built(key: &str, make: impl FnOnce(&Path)) -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || Path::new(&std::env::var_os("HOME").expect("a home")).join(".cache");
    let versions = cache.unwrap_or_else(home).join("tern/versions");
    fs::create_dir_all(&versions).expect("a cache that can be written");
    let lock = File::create(versions.join("lock")).expect("a lock");
    flock(&lock, FlockOperation::LockExclusive).expect("it can be locked");
    let program = versions.join(key).join("vm");
    if program.is_file() {
        return program;
    }
    // The same path each time, so that cargo need not build anew what is the same.
    let sources = versions.join("sources");
    let _ = fs::remove_dir_all(&sources);
    fs::create_dir_all(&sources).expect("a folder");
    make(&sources);
    let vm = binary::build_in(&sources, |cargo| {
        cargo.env("CARGO_TARGET_DIR", versions.join("target"));
        // What it does counts here, and not how fast.
        for (name, value) in [("LTO", "off"), ("CODEGEN_UNITS", "16"), ("OPT_LEVEL", "0")] {
            cargo.env(format!("CARGO_PROFILE_RELEASE_{name}"), value);
        }
    });
    if key.starts_with("future") {
        // Each change of the program has another future, and the old ones are of no use to anybody.
        for old in fs::read_dir(&versions).expect("a folder").flatten() {
            if old.file_name().to_string_lossy().starts_with("future-") {
                let _ = fs::remove_dir_all(old.path());
            }
        }
    }
    fs::create_dir_all(versions.join(key)).expect("a folder");
    let partial = program.with_extension("part");
    fs::copy(&vm, &partial).expect("a copy");
    fs::rename(&partial, &program).expect("a name");
    program
}
