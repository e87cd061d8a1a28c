//! The `vm` program, built once per test run.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

/// The path of the release build of `vm`, which is brought up to date first.
///
/// # Panics
///
/// If it does not build: no test that needs it can mean anything then.
pub fn vm() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    let here = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    PATH.get_or_init(|| build_in(here, |_| ()))
}

/// Builds the `vm` of the sources in `folder`, by a cargo that `prepare` may change; returns its path.
///
/// # Panics
///
/// If it does not build.
pub(crate) fn build_in(folder: &Path, prepare: impl FnOnce(&mut Command)) -> PathBuf {
    // `cargo test` builds no binaries of other packages, and a path guessed from the target folder may be stale.
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args([
            "build",
            "--release",
            "--package",
            "vmm",
            "--bin",
            "vm",
            "--message-format",
            "json-render-diagnostics",
        ])
        .current_dir(folder)
        .stderr(Stdio::inherit());
    prepare(&mut command);
    let output = command.output().expect("cargo starts");
    assert!(output.status.success(), "vm does not build in {}", folder.display());
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact" && message["target"]["name"] == "vm")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .expect("cargo names the executable")
}
