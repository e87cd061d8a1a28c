//! The list of releases, `tests/compat/releases.toml`, and the folder of each.
//!
//! A folder has a list of its files with their BLAKE3 hashes, as `b3sum` writes it, and the list of releases has the hash
//! of that. So a file that was changed, removed or added later is named, and the list cannot become shorter unseen.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::behaviour;

/// The list of a folder's files with their hashes.
pub const SUMS: &str = "BLAKE3SUMS";
/// The list of releases.
pub const LIST: &str = "releases.toml";

/// What every release has left behind, from the oldest to the newest.
#[derive(Debug)]
pub struct Releases {
    folder: PathBuf,
    releases: Vec<Release>,
}

/// One release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// Its version, such as `0.1.0`.
    pub version: String,
    /// The commit that it was made of, as 40 hexadecimal digits.
    pub commit: String,
    /// The versions of machines that it has.
    pub machines: Vec<String>,
    /// How many states of those that it accepted its folder has; none if it is older than that list.
    pub accepted: Option<usize>,
    /// How many files its folder has, without the list of them.
    pub files: usize,
    /// How many runs of its devices it has kept ([`behaviour`]), or none if it is of before that.
    pub runs: Option<usize>,
    /// The BLAKE3 hash of the list of its files.
    pub sums: String,
}

impl Releases {
    /// The releases of this repository.
    ///
    /// # Panics
    ///
    /// If the list cannot be read, or is empty: nothing would be tested then.
    #[must_use]
    #[track_caller]
    pub fn of_this_repository() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("compat");
        let releases = Self::read(&folder).unwrap_or_else(|why| panic!("{why}"));
        assert!(
            !releases.releases.is_empty(),
            "{} lists no release",
            folder.join(LIST).display()
        );
        releases
    }

    /// Reads the list in `folder`; a folder without one has no releases.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn read(folder: &Path) -> Result<Self, String> {
        let path = folder.join(LIST);
        let wrong = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(wrong(&error)),
        };
        let table = DeTable::parse(&text).map_err(|error| wrong(&error))?.into_inner();
        let releases = match table.get("release").map(|list| list.get_ref()) {
            None if table.is_empty() => Vec::new(),
            Some(DeValue::Array(list)) if table.len() == 1 => {
                let releases = list.iter().map(|release| Release::from_toml(release.get_ref()));
                releases.collect::<Result<_, _>>().map_err(|error| wrong(&error))?
            }
            _ => return Err(wrong(&"it is a list of [[release]] and nothing else")),
        };
        Ok(Self {
            folder: folder.to_owned(),
            releases,
        })
    }

    /// From the oldest to the newest.
    pub fn iter(&self) -> impl Iterator<Item = &Release> {
        self.releases.iter()
    }

    /// The folder of a release.
    #[must_use]
    pub fn folder_of(&self, release: &Release) -> PathBuf {
        self.folder.join(&release.version)
    }

    /// Whether `version` can be the next release of a tree that calls itself `tree`.
    ///
    /// # Errors
    ///
    /// It is no version, or not the tree's, or not higher than the newest release.
    pub fn check_next(&self, version: &str, tree: &str) -> Result<(), String> {
        let parse = |version: &str| semver::Version::parse(version).map_err(|error| format!("{version}: {error}"));
        if version != tree {
            return Err(format!(
                "the tree is of version {tree} (Cargo.toml, workspace.package.version); make it {version} first, and commit that"
            ));
        }
        let next = parse(version)?;
        for known in &self.releases {
            if next <= parse(&known.version)? {
                return Err(format!(
                    "{version} is not higher than {}, which has been released",
                    known.version
                ));
            }
        }
        Ok(())
    }

    /// The first release that is not higher than the one before it in the list.
    #[must_use]
    pub fn out_of_order(&self) -> Option<&Release> {
        let version = |release: &Release| semver::Version::parse(&release.version).ok();
        let mut pairs = self.releases.windows(2);
        pairs.find_map(|pair| (version(&pair[0]) >= version(&pair[1])).then_some(&pair[1]))
    }

    /// What has changed since it was released: every file, by name. Nothing may.
    ///
    /// # Errors
    ///
    /// A folder or file that cannot be read.
    pub fn changes(&self) -> Result<Vec<String>, String> {
        let mut changes = Vec::new();
        let mut known = BTreeSet::from([LIST.to_owned()]);
        for release in &self.releases {
            if !known.insert(release.version.clone()) {
                changes.push(format!("{} is listed twice", release.version));
            }
            let folder = self.folder_of(release);
            let found = release.changes(&folder)?;
            changes.extend(found.into_iter().map(|change| format!("{}/{change}", release.version)));
        }
        let entries = fs::read_dir(&self.folder).map_err(|error| format!("{}: {error}", self.folder.display()))?;
        for entry in entries {
            let name = entry.map_err(|error| error.to_string())?.file_name();
            let name = name.to_string_lossy().into_owned();
            if !known.contains(&name) {
                changes.push(format!("{name} is no release that {LIST} lists"));
            }
        }
        changes.sort();
        Ok(changes)
    }

    /// Adds a release whose folder is complete, with that many states that it accepted: writes the list of its files, and an entry at the end of the list of releases.
    ///
    /// # Errors
    ///
    /// There is such a release already, or a file cannot be read or written.
    pub fn add(
        &mut self,
        version: &str,
        commit: &str,
        machines: &[String],
        accepted: usize,
    ) -> Result<&Release, String> {
        if self.releases.iter().any(|known| known.version == version) {
            return Err(format!("{version} has been released"));
        }
        let folder = self.folder.join(version);
        let hashes = hashes(&folder)?;
        let sums: String = hashes.iter().map(|(file, hash)| format!("{hash}  {file}\n")).collect();
        let failed = |path: &Path, error: &io::Error| format!("{}: {error}", path.display());
        let path = folder.join(SUMS);
        fs::write(&path, &sums).map_err(|error| failed(&path, &error))?;
        let release = Release {
            version: version.to_owned(),
            commit: commit.to_owned(),
            machines: machines.to_vec(),
            accepted: Some(accepted),
            files: hashes.len(),
            runs: behaviour::count(&folder)?,
            sums: blake3::hash(sums.as_bytes()).to_string(),
        };
        let path = self.folder.join(LIST);
        let mut list = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => HEAD.to_owned(),
            read => read.map_err(|error| failed(&path, &error))?,
        };
        list.push_str(&release.to_toml());
        fs::write(&path, list).map_err(|error| failed(&path, &error))?;
        self.releases.push(release);
        Ok(self.releases.last().expect("it was added"))
    }
}

/// Which releases the list has had at any time, by the history of the file as `git log --patch` tells it: the version of
/// each, its commit, and the hash of the list of its files.
#[must_use]
pub fn ever_listed(log: &str) -> BTreeSet<(String, String, String)> {
    let mut listed = BTreeSet::new();
    let (mut version, mut commit) = (None, None);
    let text = |line: &str, name: &str| Some(line.strip_prefix(name)?.trim_matches('"').to_owned());
    for line in log.lines() {
        if let Some(found) = text(line, "+version = ") {
            version = Some(found);
        } else if let Some(found) = text(line, "+commit = ") {
            commit = Some(found);
        } else if let Some(sums) = text(line, "+sums = ") {
            let whose = version.take().zip(commit.take());
            listed.extend(whose.map(|(version, commit)| (version, commit, sums)));
        }
    }
    listed
}

/// How the list begins.
const HEAD: &str = "\
# What was released, from the oldest to the newest. `tools/release VERSION` adds an entry and a folder at the end; what is
# here never changes.
";

impl Release {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let DeValue::Table(table) = value else {
            return Err("a release is a table".to_owned());
        };
        let text = |name: &str| match table.get(name).map(|value| value.get_ref()) {
            Some(DeValue::String(text)) => Ok(text.clone().into_owned()),
            _ => Err(format!("a release has no text {name}")),
        };
        let Some(DeValue::Array(machines)) = table.get("machines").map(|value| value.get_ref()) else {
            return Err("a release has no list of machines".to_owned());
        };
        let machine = |value: &DeValue<'_>| match value {
            DeValue::String(name) => Ok(name.clone().into_owned()),
            _ => Err("a machine is a text".to_owned()),
        };
        let number = |name: &str| match table.get(name).map(|value| value.get_ref()) {
            Some(DeValue::Integer(number)) => number.as_str().parse().ok(),
            _ => None,
        };
        let (accepted, runs) = (number("accepted"), number("runs"));
        if table.len() != 5 + usize::from(accepted.is_some()) + usize::from(runs.is_some()) {
            return Err(
                "a release has a version, a commit, machines, perhaps accepted, files, perhaps runs, and sums, and nothing else"
                    .to_owned(),
            );
        }
        Ok(Self {
            version: text("version")?,
            commit: text("commit")?,
            machines: machines
                .iter()
                .map(|value| machine(value.get_ref()))
                .collect::<Result<_, _>>()?,
            accepted,
            files: number("files").ok_or("a release has no number of files")?,
            runs,
            sums: text("sums")?,
        })
    }

    fn to_toml(&self) -> String {
        let machines: Vec<_> = self.machines.iter().map(|machine| format!("{machine:?}")).collect();
        let Self {
            version,
            commit,
            files,
            runs,
            sums,
            ..
        } = self;
        let runs = runs.map_or_else(String::new, |runs| format!("runs = {runs}\n"));
        let mut text = String::new();
        let machines = machines.join(", ");
        let accepted = self
            .accepted
            .map(|count| format!("accepted = {count}\n"))
            .unwrap_or_default();
        write!(
            text,
            "\n[[release]]\nversion = {version:?}\ncommit = {commit:?}\nmachines = [{machines}]\n{accepted}files = {files}\n{runs}sums = {sums:?}\n"
        )
        .expect("a string takes all");
        text
    }

    /// What of its folder is not as it was released.
    fn changes(&self, folder: &Path) -> Result<Vec<String>, String> {
        let mut changes = Vec::new();
        let sums = match fs::read_to_string(folder.join(SUMS)) {
            Ok(sums) => sums,
            Err(error) => return Ok(vec![format!("{SUMS}: {error}")]),
        };
        if blake3::hash(sums.as_bytes()).to_string() != self.sums {
            changes.push(format!("{SUMS} is not the one that {LIST} has the hash of"));
        }
        let released: BTreeMap<_, _> = sums
            .lines()
            .filter_map(|line| line.split_once("  "))
            .map(|(hash, file)| (file, hash))
            .collect();
        if released.len() != self.files || self.files == 0 {
            changes.push(format!(
                "{SUMS} has {} files, and {LIST} {}",
                released.len(),
                self.files
            ));
        }
        let found = hashes(folder)?;
        for (file, hash) in &released {
            match found.get(*file) {
                None => changes.push(format!("{file} has been removed")),
                Some(now) if now != hash => changes.push(format!("{file} has been changed")),
                Some(_) => {}
            }
        }
        let added = found.keys().filter(|file| !released.contains_key(file.as_str()));
        changes.extend(added.map(|file| format!("{file} has been added")));
        Ok(changes)
    }
}

/// The hashes of all files below `folder`, but for the list of them.
fn hashes(folder: &Path) -> Result<BTreeMap<String, String>, String> {
    let mut hashes = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(inner) = folders.pop() {
        let failed = |error: io::Error| format!("{}: {error}", inner.display());
        for entry in fs::read_dir(&inner).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(folder).expect("it lies in the folder");
            let name = name.to_string_lossy().into_owned();
            if name != SUMS {
                hashes.insert(name, blake3::hash(&fs::read(&path).map_err(failed)?).to_string());
            }
        }
    }
    Ok(hashes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Scratch;

    /// Two releases of two files each.
    fn released(home: &Scratch) -> Releases {
        let mut releases = Releases::read(home.path()).expect("none yet");
        for version in ["0.1.0-rc.1", "0.1.0"] {
            let folder = home.file(version);
            fs::create_dir_all(folder.join("corpus")).expect("a folder");
            fs::write(folder.join("schema.json"), version).expect("a file");
            fs::write(folder.join("corpus/a.tern"), "a").expect("a file");
            let machines = ["m-1.0".to_owned(), "m-1.1".to_owned()];
            releases.add(version, &"0".repeat(40), &machines, 7).expect("it is new");
        }
        releases
    }

    fn changes(home: &Scratch) -> Vec<String> {
        Releases::read(home.path())
            .expect("a list")
            .changes()
            .expect("readable")
    }

    #[test]
    fn what_was_added_reads_back_and_has_not_changed() {
        let home = Scratch::new();
        let added = released(&home);
        let back = Releases::read(home.path()).expect("a list");
        assert_eq!(back.releases, added.releases);
        assert_eq!(changes(&home), [""; 0]);
    }

    #[test]
    fn the_next_release_is_the_trees_version_and_higher_than_all_before() {
        let home = Scratch::new();
        let releases = released(&home);
        assert_eq!(releases.check_next("0.1.1", "0.1.1"), Ok(()));
        assert_eq!(releases.check_next("0.2.0-rc.1", "0.2.0-rc.1"), Ok(()));
        for (version, tree, why) in [
            ("0.1.1", "0.1.1-dev", "the tree is of version 0.1.1-dev"),
            ("0.1.0", "0.1.0", "0.1.0 is not higher than 0.1.0"),
            ("0.1.0-rc.2", "0.1.0-rc.2", "is not higher than 0.1.0,"),
            ("0.0.9", "0.0.9", "is not higher than 0.1.0-rc.1"),
            ("1", "1", "1: "),
        ] {
            let error = releases.check_next(version, tree).expect_err(version);
            assert!(error.contains(why), "{version}: {error}");
        }
        assert_eq!(releases.out_of_order(), None);
        let mut releases = releases;
        releases.releases.reverse();
        let found = releases.out_of_order().map(|release| &release.version);
        assert_eq!(found.map(String::as_str), Some("0.1.0-rc.1"));
    }

    #[test]
    fn a_version_is_released_once() {
        let home = Scratch::new();
        let error = released(&home).add("0.1.0", "", &[], 0).expect_err("there is one");
        assert_eq!(error, "0.1.0 has been released");
    }

    #[test]
    fn whatever_is_changed_removed_or_added_is_named() {
        let home = Scratch::new();
        released(&home);
        fs::write(home.file("0.1.0/schema.json"), "other").expect("a file");
        fs::remove_file(home.file("0.1.0-rc.1/corpus/a.tern")).expect("a file");
        fs::write(home.file("0.1.0/corpus/b.tern"), "b").expect("a file");
        fs::create_dir(home.file("0.2.0")).expect("a folder");
        assert_eq!(
            changes(&home),
            [
                "0.1.0-rc.1/corpus/a.tern has been removed",
                "0.1.0/corpus/b.tern has been added",
                "0.1.0/schema.json has been changed",
                "0.2.0 is no release that releases.toml lists",
            ]
        );
    }

    #[test]
    fn a_list_of_files_that_has_become_shorter_with_its_files_is_noticed() {
        let home = Scratch::new();
        released(&home);
        let sums = home.file("0.1.0").join(SUMS);
        let text = fs::read_to_string(&sums).expect("a list");
        let shorter: String = text.lines().filter(|line| !line.contains("a.tern")).collect();
        fs::write(sums, shorter + "\n").expect("a list");
        fs::remove_file(home.file("0.1.0/corpus/a.tern")).expect("a file");
        let changes = changes(&home);
        assert_eq!(changes.len(), 2, "{changes:?}");
        assert!(changes[0].contains("has 1 files, and releases.toml 2"), "{changes:?}");
        assert!(changes[1].contains("has the hash of"), "{changes:?}");
    }

    #[test]
    fn whatever_was_listed_once_is_found_in_the_history() {
        let log = "\
            --- a/tests/compat/releases.toml\n+++ b/tests/compat/releases.toml\n@@ -8,7 +8,0 @@\n\
            -[[release]]\n-version = \"0.2.0\"\n-commit = \"b\"\n-files = 3\n-sums = \"two\"\n\
            @@ -1,0 +1,7 @@\n+[[release]]\n+version = \"0.2.0\"\n+commit = \"b\"\n+files = 3\n+sums = \"two\"\n\
            @@ -0,0 +1 @@\n+[[release]]\n+version = \"0.1.0\"\n+commit = \"a\"\n+files = 2\n+sums = \"one\"\n";
        let listed = [("0.1.0", "a", "one"), ("0.2.0", "b", "two")];
        let owned =
            |(version, commit, sums): (&str, &str, &str)| (version.to_owned(), commit.to_owned(), sums.to_owned());
        assert_eq!(ever_listed(log), BTreeSet::from(listed.map(owned)));
    }

    #[test]
    fn what_is_no_list_of_releases_is_refused() {
        let home = Scratch::new();
        for list in [
            "release = 1",
            "[[release]]\nversion = \"0.1.0\"",
            "[[relase]]\nversion = \"0.1.0\"",
        ] {
            fs::write(home.file(LIST), list).expect("a file");
            Releases::read(home.path()).expect_err(list);
        }
    }
}
