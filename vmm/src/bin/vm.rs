//! The `vm` command. Everything that it does is in [`vmm::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    vmm::cli::main()
}
