//! `vm completions`: what a shell needs to complete `vm`'s command lines.

use clap::{CommandFactory, ValueEnum};
use clap_complete::{Shell as Generator, generate};
use serde_json::json;

use super::{Cli, error::CliError, messages::Messages};

/// Print the script with which a shell completes the commands and options of "vm".
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Example:
  vm completions bash > ~/.local/share/bash-completion/completions/vm
  vm completions zsh > \"${fpath[1]}/_vm\"
  vm completions fish > ~/.config/fish/completions/vm.fish")]
pub(super) struct Args {
    /// The shell.
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
}

/// The shells whose scripts are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

pub(super) fn run(args: &Args, messages: Messages) -> Result<u8, CliError> {
    let script = script(args.shell);
    let shell = args.shell.to_possible_value();
    let shell = shell.as_ref().map_or("", |value| value.get_name());
    messages.result(script.trim_end(), &json!({ "shell": shell, "script": script }))?;
    Ok(0)
}

fn script(shell: Shell) -> String {
    let generator = match shell {
        Shell::Bash => Generator::Bash,
        Shell::Zsh => Generator::Zsh,
        Shell::Fish => Generator::Fish,
    };
    let mut script = Vec::new();
    generate(generator, &mut Cli::command(), "vm", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_completes_every_command_and_every_long_option() {
        for shell in Shell::value_variants() {
            let script = script(*shell);
            for command in Cli::command().get_subcommands() {
                let name = command.get_name();
                assert!(script.contains(name), "{shell:?} does not know {name}");
                for option in command.get_arguments().filter_map(clap::Arg::get_long) {
                    assert!(script.contains(option), "{shell:?} does not know {name} --{option}");
                }
            }
        }
    }
}
