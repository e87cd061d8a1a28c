//! Builds the embedded guest (`guest/`): a program without a standard library for the host's own target, so that it
//! takes nothing but the `rustc` and the linker that build the VMM. And has `vm` linked statically.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where a guest grows past this, something has been linked in that it does not need.
const MAX_BYTES: u64 = 64 << 10;

/// The shared libraries that `rustc` asks for, and the static ones that have the same in them.
const LIBRARIES: [(&str, &[&str]); 3] = [
    ("libc.so", &["libc.a", "libgcc_eh.a", "libgcc.a"]),
    ("libgcc_s.so", &["libgcc_eh.a", "libgcc.a", "libc.a"]),
    ("libm.so", &["libm.a"]),
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=guest");
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    let out = PathBuf::from(variable("OUT_DIR"));
    build_guest(&out);
    link_statically(&out);
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"))
}

/// Has `vm` start without a dynamic loader, which takes half a millisecond: a sixth of the time to a guest's first output.
///
/// For `-C target-feature=+crt-static` rustc would do it. But that can be said to all crates only, procedural macros among
/// them, which cannot be built so (unless everything is built as if for another machine, in another folder). So the linker
/// is told for `vm` alone: by names that stand before the shared libraries' and mean the static ones. Where a system does not
/// have those, `vm` is linked as usual.
fn link_statically(out: &Path) {
    let folder = out.join("static");
    fs::create_dir_all(&folder).expect("the folder for what is built can be written");
    for (shared, archives) in LIBRARIES {
        if !archives.iter().all(|archive| the_linker_has(archive)) {
            return;
        }
        let script = format!("GROUP ( {} )\n", archives.join(" "));
        fs::write(folder.join(shared), script).expect("the folder for what is built can be written");
    }
    println!("cargo::rustc-link-arg-bin=vm=-static-pie");
    println!("cargo::rustc-link-arg-bin=vm=-L{}", folder.display());
}

fn the_linker_has(library: &str) -> bool {
    let linker = env::var("RUSTC_LINKER").unwrap_or_else(|_| "cc".to_owned());
    let output = Command::new(linker).arg(format!("-print-file-name={library}")).output();
    // It answers with the bare name where it finds none.
    output.is_ok_and(|output| output.status.success() && output.stdout.starts_with(b"/"))
}

fn build_guest(out: &Path) {
    let target = variable("TARGET");
    assert!(
        target.starts_with("x86_64-") && target.contains("linux"),
        "Tern runs on x86_64 Linux, not on {target}"
    );

    let sources = PathBuf::from(variable("CARGO_MANIFEST_DIR")).join("guest");
    let image = out.join("guest.elf");
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
