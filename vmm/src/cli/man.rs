//! `vm man`: the manual pages, made from the definitions of the commands.

use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use serde_json::json;

use super::{Cli, error::CliError, messages::Messages};

/// Write the manual pages of "vm" and of each of its commands into a folder.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Example:
  vm man ~/.local/share/man/man1
  vm man /tmp && man /tmp/vm-run.1")]
pub(super) struct Args {
    /// The folder; it is made if it is not there.
    #[arg(value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    dir: PathBuf,
}

pub(super) fn run(args: &Args, messages: Messages) -> Result<u8, CliError> {
    let pages = write(&args.dir)?;
    messages.result(
        format_args!("{} pages are in {}", pages.len(), args.dir.display()),
        &json!({ "dir": args.dir, "pages": pages }),
    )?;
    Ok(0)
}

/// Writes every page, and returns their names.
fn write(dir: &Path) -> Result<Vec<String>, CliError> {
    let failed = |path: &Path, error| CliError::File {
        action: "write",
        path: path.to_owned(),
        error,
    };
    std::fs::create_dir_all(dir).map_err(|error| failed(dir, error))?;
    let mut pages = Vec::new();
    for (name, page) in pages_of(Cli::command()) {
        let path = dir.join(&name);
        std::fs::write(&path, page).map_err(|error| failed(&path, error))?;
        pages.push(name);
    }
    Ok(pages)
}

/// Name and contents of each page: the program's, its commands', and theirs.
fn pages_of(program: Command) -> Vec<(String, Vec<u8>)> {
    let mut program = program.disable_help_subcommand(true);
    program.build();
    let mut pages = Vec::new();
    let mut left = vec![program];
    while let Some(command) = left.pop() {
        left.extend(command.get_subcommands().filter(|inner| !inner.is_hide_set()).cloned());
        let man = Man::new(command)
            .manual("Tern")
            .source(concat!("tern ", env!("CARGO_PKG_VERSION")));
        let mut page = Vec::new();
        man.render(&mut page).expect("memory takes every byte");
        pages.push((man.get_filename(), page));
    }
    pages.sort();
    pages
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::TempDir;

    #[test]
    fn there_is_a_page_for_every_command_with_its_options_and_its_example() {
        let pages = pages_of(Cli::command());
        let page = |name: &str| {
            let found = pages.iter().find(|(page, _)| page == name);
            String::from_utf8_lossy(&found.unwrap_or_else(|| panic!("{name} is missing")).1).into_owned()
        };
        assert!(
            page("vm.1").contains("exit code"),
            "the exit codes belong to the manual"
        );
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            let text = page(&format!("vm-{name}.1"));
            assert!(text.contains("Example:"), "{name}: {text}");
            for option in command.get_arguments().filter_map(clap::Arg::get_long) {
                let option = option.replace('-', "\\-");
                assert!(text.contains(&option), "{name} --{option}");
            }
        }
    }

    #[test]
    fn pages_go_into_a_folder_that_is_made_for_them() {
        let dir = TempDir::new();
        let folder = dir.path().join("share/man1");
        let pages = write(&folder).expect("a writable place");
        assert_eq!(std::fs::read_dir(&folder).expect("made").count(), pages.len());
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let error = write(Path::new("/proc/nowhere")).expect_err("no place").to_string();
        assert!(error.contains("/proc/nowhere"), "{error}");
    }
}
