//! `tools/release` calls this: leaves behind what the suite of state compatibility keeps of a release.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs, io};

use tern_tests::compat::lock::SchemaFile;
use tern_tests::compat::random::seed;
use tern_tests::compat::releases::Releases;
use tern_tests::compat::{accepted, behaviour, corpus, format, machine, structures};
use vmstate::qom::TypeTable;

fn main() -> ExitCode {
    let args: Vec<_> = env::args().skip(1).collect();
    let done = match args.as_slice() {
        [version] => check(version).map(drop),
        [version, commit] => release(version, commit),
        _ => {
            eprintln!("usage: release VERSION [COMMIT]   (without COMMIT: only whether it can be made)");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("release: {why}");
            ExitCode::FAILURE
        }
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("compat")
}

/// The releases so far, which `version` can follow.
fn check(version: &str) -> Result<Releases, String> {
    let releases = Releases::read(&folder())?;
    releases.check_next(version, env!("CARGO_PKG_VERSION"))?;
    Ok(releases)
}

/// Makes the folder under another name first, so that a release that fails leaves none.
fn release(version: &str, commit: &str) -> Result<(), String> {
    let compat = folder();
    let failed = |error: io::Error| format!("{}: {error}", compat.display());
    fs::create_dir_all(&compat).map_err(failed)?;
    let mut releases = check(version)?;
    let folder = compat.join(version);
    if folder.exists() {
        return Err(format!("{} is there already", folder.display()));
    }
    let partial = tempfile::tempdir_in(&compat).map_err(failed)?;
    let machines = machine::all();
    for machine in &machines {
        let schemas = SchemaFile {
            tern: version.to_owned(),
            machine: machine.clone(),
            sections: machine::schemas(machine),
        };
        let file = partial.path().join(SchemaFile::name(machine));
        fs::write(file, schemas.to_text()).map_err(failed)?;
        let file = partial.path().join(machine::shape_file(machine));
        fs::write(file, format!("{:#}\n", machine::shape(machine))).map_err(failed)?;
    }
    let file = partial.path().join(machine::CPU_MODELS_FILE);
    fs::write(file, format!("{:#}\n", machine::cpu_models())).map_err(failed)?;
    corpus::make(&partial.path().join(corpus::FOLDER), true);
    let mut states = 0;
    for machine in &machines {
        states += accepted::make(partial.path(), machine)?;
        structures::make(partial.path(), machine)?;
    }
    format::make(partial.path())?;
    let types = TypeTable::gathered().map_err(|error| error.to_string())?;
    behaviour::Transcript::make(&types, seed())?.write(partial.path())?;
    fs::rename(partial.keep(), &folder).map_err(failed)?;
    let release = releases.add(version, commit, &machines, states)?;
    println!("{}: {} files, {states} states", folder.display(), release.files);
    Ok(())
}
