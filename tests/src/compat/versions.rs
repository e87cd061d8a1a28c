//! Other versions of Tern than this one, as programs: one of the past from the history, one of the future from patches.
//!
//! They are built once and kept outside of the checkout (`~/.cache/tern/versions`), each by what it is made of.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

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

    /// That of a release which [`newest_release`] found.
    ///
    /// # Panics
    ///
    /// If it does not build.
    #[must_use]
    pub fn of(release: &Release) -> Self {
        Self {
            name: release.version.clone(),
            program: built(&release.commit, |folder| check_out(&release.commit, folder)),
        }
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
            to_the_future(&folder.join("Cargo.toml"));
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

fn git_in(repository: &Path, args: &[&str]) -> io::Result<Output> {
    Command::new("git").arg("-C").arg(repository).args(args).output()
}

/// The newest release of which this program differs.
///
/// # Errors
///
/// The history does not reach as far as that, and why: a copy without history, or a shallow one.
///
/// # Panics
///
/// If this program differs from no release: whatever was tested then would be nothing. If the history is whole and a release
/// is not in it.
pub fn newest_release() -> Result<Release, String> {
    let releases = Releases::of_this_repository();
    let releases: Vec<_> = releases.iter().collect();
    for release in releases.iter().rev() {
        match in_history(release) {
            Ok(()) if differs(release) => return Ok(Release::clone(release)),
            Ok(()) => {}
            Err(Missing::History(why)) => return Err(why),
            Err(Missing::Commit(why)) => panic!("{why}"),
        }
    }
    panic!("this program is that of every release, so that moving between them would show nothing");
}

/// Why the commit of a release is not found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// There is no history here, or not all of it, so that nobody can tell.
    History(String),
    /// It is in no history of this program: it was never there, or has been rewritten.
    Commit(String),
}

/// Whether a release was made of a commit that this program comes from.
///
/// # Errors
///
/// It was not, or the history here does not tell.
pub fn in_history(release: &Release) -> Result<(), Missing> {
    in_history_of(&root(), release)
}

fn in_history_of(repository: &Path, release: &Release) -> Result<(), Missing> {
    let Release { version, commit, .. } = release;
    let git = |args: &[&str]| git_in(repository, args).ok();
    let is_shallow = is_shallow(repository).map_err(Missing::History)?;
    let of_release = format!("{commit}^{{commit}}");
    let is_there = git(&["cat-file", "-e", &of_release]).is_some_and(|output| output.status.success());
    let is_ancestor = || {
        let asked = git(&["merge-base", "--is-ancestor", commit, "HEAD"]);
        asked.is_some_and(|output| output.status.success())
    };
    if is_there && is_ancestor() {
        return Ok(());
    }
    if is_shallow {
        return Err(Missing::History(format!(
            "the history here does not reach to {commit}, of which {version} was made; \"git fetch --unshallow\" brings it"
        )));
    }
    let what = if is_there {
        "is no ancestor of HEAD"
    } else {
        "is not in this repository"
    };
    Err(Missing::Commit(format!(
        "{version} was made of {commit}, which {what}: a release is made of a commit that stays (no rebase, no squash)"
    )))
}

/// Whether the history has been cut off somewhere.
fn is_shallow(repository: &Path) -> Result<bool, String> {
    let asked = git_in(repository, &["rev-parse", "--is-shallow-repository"]).ok();
    let shallow = asked.filter(|output| output.status.success());
    let shallow = shallow.ok_or("there is no git history here")?;
    Ok(shallow.stdout.trim_ascii() == b"true")
}

/// Every change of the list of releases, as `git log --patch` tells it.
///
/// # Errors
///
/// The history does not have them all, and why: a copy without history, or a shallow one.
pub fn history_of_the_list() -> Result<String, String> {
    history_of_the_list_in(&root())
}

fn history_of_the_list_in(repository: &Path) -> Result<String, String> {
    if is_shallow(repository)? {
        return Err(
            "the history here does not reach back to the first release, and what was taken off the list before it begins cannot be \
             seen; \"git fetch --unshallow\" brings it"
                .to_owned(),
        );
    }
    let log = git_in(
        repository,
        &["log", "--format=", "--patch", "--", "tests/compat/releases.toml"],
    );
    let log = log.map_err(|error| format!("git log: {error}"))?;
    if !log.status.success() {
        return Err(format!("git log: {}", String::from_utf8_lossy(&log.stderr).trim_end()));
    }
    Ok(String::from_utf8_lossy(&log.stdout).into_owned())
}

/// Whether this program is made of something else than the release, which is in the history.
fn differs(release: &Release) -> bool {
    let commit = release.commit.as_str();
    let difference = git_in(
        &root(),
        &[&["diff", "--quiet", commit, "--"][..], &OF_THE_PROGRAM].concat(),
    );
    match difference.map(|output| output.status.code()) {
        Ok(Some(0)) => false,
        Ok(Some(1)) => true,
        other => panic!("git diff {commit}: {other:?}"),
    }
}

/// Puts the tree of a commit into `folder`.
fn check_out(commit: &str, folder: &Path) {
    let archive = git_in(&root(), &["archive", "--format=tar", commit]).expect("git starts");
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

/// Makes the version of a workspace a later one than all others, whatever it is.
fn to_the_future(manifest: &Path) {
    let text = fs::read_to_string(manifest).expect("a manifest");
    let lines = text.lines().map(|line| match line.starts_with("version = ") {
        true => "version = \"99.0.0\"\n".to_owned(),
        false => format!("{line}\n"),
    });
    fs::write(manifest, lines.collect::<String>()).expect("written");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn run_in(repository: &Path, args: &[&str]) {
        assert!(
            git_in(repository, args).expect("git starts").status.success(),
            "{args:?}"
        );
    }

    /// Commits what is staged, or nothing, with a message of its own, and returns the commit.
    fn commit(repository: &Path, message: &str) -> String {
        let identity = [
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@b",
            "-c",
            "commit.gpgsign=false",
        ];
        let args = [
            &identity[..],
            &["commit", "--quiet", "--allow-empty", "--message", message],
        ]
        .concat();
        assert!(git_in(repository, &args).expect("git starts").status.success());
        let head = git_in(repository, &["rev-parse", "HEAD"]).expect("git starts").stdout;
        String::from_utf8(head).expect("a hash").trim().to_owned()
    }

    fn release(commit: &str) -> Release {
        let releases = Releases::of_this_repository();
        let any = releases.iter().next().expect("one");
        Release {
            commit: commit.to_owned(),
            ..any.clone()
        }
    }

    #[test]
    fn a_release_is_made_of_a_commit_that_stays_in_the_history() {
        let home = Scratch::new();
        let whole = home.file("whole");
        fs::create_dir(&whole).expect("a folder");
        assert!(matches!(
            in_history_of(&home.file("none"), &release(&"0".repeat(40))),
            Err(Missing::History(_))
        ));
        let run = |args: &[&str]| run_in(&whole, args);
        run(&["init", "--quiet", "--initial-branch=main"]);
        let first = commit(&whole, "first");
        run(&["switch", "--quiet", "--create", "side"]);
        let side = commit(&whole, "side");
        run(&["switch", "--quiet", "main"]);
        let second = commit(&whole, "second");
        for there in [&first, &second] {
            assert_eq!(in_history_of(&whole, &release(there)), Ok(()));
        }
        for (commit, why) in [
            (&side, "is no ancestor"),
            (&"0".repeat(40), "is not in this repository"),
        ] {
            let error = in_history_of(&whole, &release(commit)).expect_err("it is not");
            assert!(
                matches!(&error, Missing::Commit(said) if said.contains(why)),
                "{error:?}"
            );
        }
        let url = format!("file://{}", whole.display());
        run(&["clone", "--quiet", "--depth=1", &url, "../shallow"]);
        let error = in_history_of(&home.file("shallow"), &release(&first)).expect_err("it does not reach");
        assert!(
            matches!(&error, Missing::History(said) if said.contains("unshallow")),
            "{error:?}"
        );
    }

    #[test]
    fn a_history_that_is_cut_off_does_not_say_what_was_listed() {
        let home = Scratch::new();
        let whole = home.file("whole");
        let list = whole.join("tests/compat/releases.toml");
        fs::create_dir_all(list.parent().expect("a folder")).expect("a folder");
        let none = history_of_the_list_in(&whole).expect_err("there is no repository");
        assert_eq!(none, "there is no git history here");
        run_in(&whole, &["init", "--quiet", "--initial-branch=main"]);
        for version in ["0.1.0", "0.2.0"] {
            fs::write(&list, format!("version = \"{version}\"\n")).expect("a list");
            run_in(&whole, &["add", "."]);
            commit(&whole, version);
        }
        let log = history_of_the_list_in(&whole).expect("it is whole");
        for line in ["+version = \"0.1.0\"", "+version = \"0.2.0\"", "-version = \"0.1.0\""] {
            assert!(log.lines().any(|found| found == line), "{line}: {log}");
        }
        let url = format!("file://{}", whole.display());
        run_in(&whole, &["clone", "--quiet", "--depth=1", &url, "../shallow"]);
        let cut = history_of_the_list_in(&home.file("shallow")).expect_err("its beginning is not there");
        assert!(cut.contains("git fetch --unshallow"), "{cut}");
    }
}
