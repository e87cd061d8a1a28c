//! `vm cpu`: the processors that guests can have.

mod baseline;
mod check;
mod list;
mod show;

use hw::i386::{cpu_feature::CpuFeature, cpuid::CpuidTable};
use serde_json::{Value, json};
use vmstate::qom::TypeTable;

use super::{error::CliError, messages::Messages, trial::Trial};
use crate::accel::HostFeatures;

/// Show which processors guests can have, here and on other hosts.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Example:
  vm cpu list                       # the models, and which of them run here
  vm cpu show x86-64-v2,+aes        # all that a guest of it sees
  vm cpu check EPYC                 # does it run here? the exit status says so
  vm cpu show host --json > a.json  # on each host, and then on any of them:
  vm cpu baseline a.json b.json     # the processor that they share")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    List(list::Args),
    Show(show::Args),
    Check(check::Args),
    Baseline(baseline::Args),
}

pub(super) fn run(args: &Args, messages: Messages) -> Result<u8, CliError> {
    match &args.command {
        Command::List(args) => list::run(args, messages),
        Command::Show(args) => show::run(args, messages),
        Command::Check(args) => check::run(args, messages),
        Command::Baseline(args) => baseline::run(args, messages),
    }
}

/// Lists the models for a user of `vm run` who asks for them there.
pub(super) fn help(accel: &str, messages: Messages) -> Result<u8, CliError> {
    list::list(accel, messages)
}

/// What guests can be given on this host, by the accelerator called `accel`.
fn here(accel: &str, messages: Messages) -> Result<HostFeatures, CliError> {
    let failed = |error: &dyn std::fmt::Display| CliError::Start(error.to_string());
    let trial = Trial::from_environment(messages)?;
    let types = TypeTable::gathered().map_err(|error| failed(&error))?;
    HostFeatures::ask(accel, &types, &trial.hidden_features).map_err(|error| failed(&error))
}

fn vendor(table: &CpuidTable) -> String {
    table.vendor().escape_ascii().to_string()
}

fn names<'a>(features: impl IntoIterator<Item = &'a CpuFeature>) -> Vec<&'static str> {
    features.into_iter().map(|feature| feature.name).collect()
}

/// Each feature with where CPUID announces it.
fn places<'a>(features: impl IntoIterator<Item = &'a CpuFeature>) -> Value {
    let place = |feature: &CpuFeature| json!({ "feature": feature.name, "bit": feature.place().to_string() });
    features.into_iter().map(place).collect()
}

/// Words in lines of no more than 100 letters, all but the first one indented.
fn wrapped(words: &[&str], indent: usize) -> String {
    const WIDTH: usize = 100;
    let (mut text, mut column) = (String::new(), indent);
    for word in words {
        if column > indent {
            if column + 1 + word.len() > WIDTH {
                text.push('\n');
                text.extend(std::iter::repeat_n(' ', indent));
                column = indent;
            } else {
                text.push(' ');
                column += 1;
            }
        }
        text.push_str(word);
        column += word.len();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_wrapped_and_lose_no_word() {
        let words: Vec<_> = (0..40).map(|number| format!("feature-{number}")).collect();
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let text = wrapped(&words, 10);
        assert!(text.lines().skip(1).all(|line| line.starts_with("          feature")));
        assert!(text.lines().all(|line| line.len() <= 100));
        assert_eq!(text.split_ascii_whitespace().collect::<Vec<_>>(), words);
        assert_eq!(wrapped(&[], 4), "");
    }
}
