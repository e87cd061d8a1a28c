//! Writes what snapshot files have for each target: `seeds FOLDER FILE...` fills `FOLDER/TARGET/`.

use std::{env, fs, path::PathBuf, process::ExitCode};

use tern_fuzz::fuzz::{TARGETS, seeds_of, seeds_of_connections};

fn main() -> ExitCode {
    let mut args = env::args_os().skip(1).map(PathBuf::from);
    let Some(folder) = args.next() else {
        eprintln!("usage: seeds FOLDER FILE...");
        return ExitCode::from(2);
    };
    for (target, _) in TARGETS {
        fs::create_dir_all(folder.join(target)).expect("a folder that can be written");
    }
    for (target, seed) in seeds_of_connections() {
        fs::write(folder.join(target).join("made"), seed).expect("written");
    }
    for file in args {
        let bytes = fs::read(&file).expect("a snapshot");
        for (number, (target, seed)) in seeds_of(&bytes).into_iter().enumerate() {
            let name = format!("{}-{number}", file.file_stem().unwrap_or_default().display());
            fs::write(folder.join(target).join(name), seed).expect("written");
        }
    }
    ExitCode::SUCCESS
}
