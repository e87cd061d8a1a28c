//! Builds the embedded guest (`guest/`): a program without a standard library for the host's own target, so that it
//! takes nothing but the `rustc` and the linker that build the VMM.

use std::env;
use std::path::PathBuf;
use std::process::Command;

/// Where a guest grows past this, something has been linked in that it does not need.
const MAX_BYTES: u64 = 64 << 10;

fn main() {
    println!("cargo::rerun-if-changed=guest");
    let variable = |name: &str| env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"));
    let target = variable("TARGET");
    assert!(
        target.starts_with("x86_64-") && target.contains("linux"),
        "Tern runs on x86_64 Linux, not on {target}"
    );

    let sources = PathBuf::from(variable("CARGO_MANIFEST_DIR")).join("guest");
    let image = PathBuf::from(variable("OUT_DIR")).join("guest.elf");
    let mut rustc = Command::new(variable("RUSTC"));
    rustc.arg(sources.join("main.rs")).arg("-o").arg(&image);
    rustc.args([
        "--crate-name",
        "tern_guest",
        "--crate-type",
        "bin",
        "--edition",
        "2024",
        "--target",
        &target,
    ]);
    for option in [
        "opt-level=s",
        "codegen-units=1",
        "lto=fat",
        "panic=abort",
        "relro-level=off",
        "relocation-model=static",
        "strip=symbols",
    ] {
        rustc.args(["-C", option]);
    }
    let script = sources.join("guest.ld");
    let script = script.to_str().expect("the path of the sources is UTF-8");
    for argument in [
        "-nostartfiles",
        "-nostdlib",
        "-static",
        "-no-pie",
        "-Wl,--build-id=none",
        "-Wl,-z,max-page-size=4096",
    ] {
        rustc.args(["-C", &format!("link-arg={argument}")]);
    }
    rustc.args(["-C", &format!("link-arg=-Wl,-T,{script}")]);
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.args(["-C", &format!("linker={linker}")]);
    }
    let status = rustc.status().expect("rustc, which compiles this, can be started");
    assert!(status.success(), "the embedded guest does not compile: {rustc:?}");
    let bytes = image.metadata().expect("rustc has written the image").len();
    assert!(
        bytes <= MAX_BYTES,
        "the embedded guest has grown to {bytes} bytes; {MAX_BYTES} are enough"
    );
}
