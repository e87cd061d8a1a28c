//! `vm run --config FILE`: the options of the command line in a file.
//!
//! The file is TOML, and its keys are the long options; there is no list of them beside the definition of the command. What the file says is
//! put before the options that the user gave, except where the user gave the same one, and all is read as one command line. So a
//! value means the same in both places, and whatever is wrong with it is told in the same words, with the line of the file.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::{
    Arg, ArgAction, CommandFactory, Error, FromArgMatches,
    error::{ContextKind, ContextValue},
    parser::ValueSource,
};
use toml::de::{DeTable, DeValue};

use super::{Cli, error::CliError, machine::read};

/// The option that names the file; it cannot be in it.
const CONFIG: &str = "config";

/// The command that takes a file.
const COMMAND: &str = "run";

/// No such file is longer.
const LONGEST_BYTES: usize = 1 << 20;

/// Why a command line came to nothing.
#[derive(Debug)]
pub(super) enum Unreadable {
    /// It is wrong, or asks for help.
    CommandLine(Error),
    /// The file is wrong.
    File(CliError),
}

impl From<Error> for Unreadable {
    fn from(error: Error) -> Self {
        Self::CommandLine(error)
    }
}

impl From<CliError> for Unreadable {
    fn from(error: CliError) -> Self {
        Self::File(error)
    }
}

/// Reads a command line, and the file that it names if it does.
pub(super) fn parse(line: &[OsString]) -> Result<Cli, Unreadable> {
    let read = |line: &[OsString]| Cli::from_arg_matches(&Cli::command().try_get_matches_from(line)?);
    // All commands but one with a file are matched once: a guest's start waits for it.
    let option = format!("--{CONFIG}");
    let names_a_file = |word: &OsString| word.as_encoded_bytes().starts_with(option.as_bytes());
    if !line.iter().any(names_a_file) {
        return Ok(read(line)?);
    }
    // An option may need another one that is in the file: what is wrong with the command line alone is told only without a file.
    let lenient = Cli::command().ignore_errors(true).try_get_matches_from(line)?;
    let given = match lenient.subcommand() {
        Some((COMMAND, given)) => given,
        _ => return Ok(read(line)?),
    };
    let Some(path) = given.try_get_one::<PathBuf>(CONFIG).ok().flatten() else {
        return Ok(read(line)?);
    };
    let settings = Settings::read(path)?;
    let on_the_line = |option: &str| given.value_source(option) == Some(ValueSource::CommandLine);
    let from_file = settings
        .0
        .iter()
        .filter(|setting| !on_the_line(setting.option.get_id().as_str()))
        .filter_map(Setting::argument);
    let command = line.iter().position(|word| word == COMMAND).unwrap_or_default();
    let (before, after) = line.split_at(command + 1);
    let whole: Vec<OsString> = before
        .iter()
        .cloned()
        .chain(from_file)
        .chain(after.iter().cloned())
        .collect();
    read(&whole).map_err(|error| settings.blame(path, error, on_the_line))
}

/// What a file says.
struct Settings(Vec<Setting>);

/// A line of the file.
struct Setting {
    option: Arg,
    value: Value,
    line: usize,
}

enum Value {
    Text(String),
    /// Of an option that takes no value.
    Switch(bool),
}

impl Setting {
    fn argument(&self) -> Option<OsString> {
        let name = self.option.get_long()?;
        match &self.value {
            Value::Text(text) => Some(format!("--{name}={text}").into()),
            Value::Switch(true) => Some(format!("--{name}").into()),
            Value::Switch(false) => None,
        }
    }
}

/// The options that a file can have.
fn options() -> Vec<Arg> {
    let program = Cli::command();
    let command = program.find_subcommand(COMMAND).expect("it is one of the commands");
    let wanted = |option: &&Arg| option.get_long().is_some_and(|name| name != CONFIG) && !option.is_hide_set();
    command.get_arguments().filter(wanted).cloned().collect()
}

impl Settings {
    fn read(path: &Path) -> Result<Self, CliError> {
        let bytes = read(path)?;
        let wrong = |line: usize, why: String| CliError::Usage(format!("{}:{line}: {why}", path.display()));
        if bytes.len() > LONGEST_BYTES {
            return Err(wrong(1, "a file of options has 1 MiB at most".into()));
        }
        let text = str::from_utf8(&bytes).map_err(|error| {
            let before = &bytes[..error.valid_up_to()];
            wrong(line_of(before), "it is no UTF-8 text".into())
        })?;
        Self::parse(text).map_err(|(at, why)| wrong(line_of(&bytes[..at.min(bytes.len())]), why))
    }

    /// Reads the text of a file; an error says where it is, in bytes.
    fn parse(text: &str) -> Result<Self, (usize, String)> {
        let table = DeTable::parse(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            (at, error.message().to_owned())
        })?;
        let options = options();
        let mut settings = Vec::new();
        for (key, value) in table.get_ref() {
            let (name, at) = (key.get_ref().as_ref(), key.span().start);
            let option = options.iter().find(|option| {
                let aliases = option.get_visible_aliases().unwrap_or_default();
                option.get_long() == Some(name) || aliases.contains(&name)
            });
            let option = option.ok_or_else(|| (at, unknown(name, &options)))?;
            let values = match (value.get_ref(), option.get_action()) {
                (DeValue::Array(values), ArgAction::Append) => values.iter().map(|value| value.get_ref()).collect(),
                (value, _) => vec![value],
            };
            for value in values {
                settings.push(Setting {
                    option: option.clone(),
                    value: Value::of(option, value).map_err(|why| (at, format!("{name}: {why}")))?,
                    line: line_of(&text.as_bytes()[..at]),
                });
            }
        }
        Ok(Self(settings))
    }

    /// The file's line is named where the file is to blame.
    fn blame(&self, path: &Path, error: Error, on_the_line: impl Fn(&str) -> bool) -> Unreadable {
        let Some(ContextValue::String(blamed)) = error.get(ContextKind::InvalidArg) else {
            return error.into();
        };
        let names = |setting: &&Setting| {
            let name = setting.option.get_long().unwrap_or_default();
            blamed.split([' ', '=', '[']).next() == Some(&format!("--{name}"))
        };
        let setting = self.0.iter().find(names);
        match setting.filter(|setting| !on_the_line(setting.option.get_id().as_str())) {
            None => error.into(),
            Some(Setting { line, .. }) => {
                let text = error.to_string();
                let why = text
                    .trim_start_matches("error: ")
                    .split("\n\n")
                    .next()
                    .unwrap_or_default();
                CliError::Usage(format!("{}:{line}: {why}", path.display())).into()
            }
        }
    }
}

impl Value {
    fn of(option: &Arg, value: &DeValue<'_>) -> Result<Self, String> {
        let is_a_switch = matches!(option.get_action(), ArgAction::SetTrue);
        match value {
            DeValue::Boolean(on) if is_a_switch => Ok(Self::Switch(*on)),
            DeValue::String(text) if !is_a_switch => Ok(Self::Text(text.as_ref().to_owned())),
            DeValue::Integer(number) if !is_a_switch => i64::from_str_radix(number.as_str(), number.radix())
                .map(|number| Self::Text(number.to_string()))
                .map_err(|_| "the number is too large".to_owned()),
            other if is_a_switch => Err(format!(
                "it is true or false, and not a value of the type {}",
                other.type_str()
            )),
            other => Err(format!(
                "it is a text or a number, and not a value of the type {}",
                other.type_str()
            )),
        }
    }
}

/// What is said about a key that there is not.
fn unknown(name: &str, options: &[Arg]) -> String {
    let known = options.iter().filter_map(Arg::get_long);
    let nearest = known.max_by(|one, two| {
        let [one, two] = [one, two].map(|known| strsim::jaro_winkler(name, known));
        one.total_cmp(&two)
    });
    let nearest = nearest.unwrap_or_default();
    format!(
        "there is no key {name:?}; the nearest is {nearest:?}, and \"vm {COMMAND} --help\" has all of them, without the dashes"
    )
}

/// The number of the line that begins after these bytes, or goes on.
fn line_of(before: &[u8]) -> usize {
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::super::{Command, run};
    use super::*;
    use crate::test_support::TempDir;

    const DOCUMENTED: &str = include_str!("../../../docs/vm.toml");

    /// What `vm run` comes to with this file and these further words.
    fn run_with(text: &str, words: &[&str]) -> Result<run::Args, String> {
        let dir = TempDir::new();
        let file = dir.path().join("vm.toml");
        std::fs::write(&file, text).expect("a writable folder");
        let mut line: Vec<OsString> = vec![
            "vm".into(),
            "--json".into(),
            "run".into(),
            "--config".into(),
            file.into(),
        ];
        line.extend(words.iter().map(OsString::from));
        match parse(&line) {
            Ok(Cli {
                json: true,
                command: Command::Run(args),
            }) => Ok(args),
            Ok(other) => panic!("something else was understood: {other:?}"),
            Err(Unreadable::CommandLine(error)) => Err(error.to_string()),
            Err(Unreadable::File(error)) => {
                assert_eq!(error.exit_code().code(), 2, "{error}");
                Err(error.to_string())
            }
        }
    }

    #[test]
    fn the_documented_file_has_every_option_and_means_what_the_options_mean() {
        let settings = Settings::parse(DOCUMENTED).unwrap_or_else(|(at, why)| panic!("at {at}: {why}"));
        let documented: Vec<_> = settings
            .0
            .iter()
            .filter_map(|setting| setting.option.get_long())
            .collect();
        for option in options() {
            let name = option.get_long().expect("a long option");
            assert!(documented.contains(&name), "docs/vm.toml does not show {name}");
        }
        let from_file = run_with(DOCUMENTED, &[]).expect("the file is sound");
        let line = "vm run --name web --kernel /boot/vmlinuz-6.1.0-56-amd64 --initrd initrd.cpio --machine microvm --compat 0.1 --cpus 2 \
                    --memory 512M --cpu x86-64-v2,-popcnt --accel kvm --console unix:web.console --control web.sock --detach --log web.log \
                    --global pvpanic.events=1 --global serial16550.iobase=0x2f8";
        let mut line: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        line.extend(["--cmdline".into(), "console=ttyS0 quiet".into()]);
        let Ok(Cli {
            command: Command::Run(mut from_line),
            ..
        }) = parse(&line)
        else {
            panic!("the documented options are not understood")
        };
        from_line.config = from_file.config.clone();
        assert_eq!(format!("{from_file:?}"), format!("{from_line:?}"));
    }

    #[test]
    fn an_option_that_may_be_repeated_takes_a_list_and_no_other_does() {
        let args = run_with("global = [\"pvpanic.events=1\", \"pvpanic.events=3\"]", &[]).expect("a list");
        assert_eq!(args.global.len(), 2);
        let one = run_with("global = \"pvpanic.events=1\"", &[]).expect("a single one");
        assert_eq!(one.global.len(), 1);
        let args = run_with("kernel = \"k\"\nappend = \"quiet\"\n", &[]).expect("another name of an option's");
        assert_eq!(args.cmdline, "quiet");
        let args = run_with("", &["--kernel", "k", "--append", "quiet"]).expect("as QEMU's users type it");
        assert_eq!(args.cmdline, "quiet");
        let wrong = run_with("name = [\"a\", \"b\"]", &[]).expect_err("there is one name");
        assert!(wrong.contains("vm.toml:1: name: it is a text or a number"), "{wrong}");
    }

    #[test]
    fn options_on_the_command_line_win_and_need_not_be_complete_without_the_file() {
        let args = run_with(
            "kernel = \"k\"\ncpus = 0x2\nmemory = \"1G\"\n",
            &["--initrd", "i", "--memory", "2G"],
        );
        let args = args.expect("together it is sound");
        assert_eq!((args.cpus, args.memory.0), (2, 2 << 30));
        assert_eq!(args.initrd, Some("i".into()));
        assert!(
            run_with("", &["--initrd", "i"])
                .expect_err("no kernel")
                .contains("--kernel")
        );
        assert!(run_with("detach = false\n", &[]).is_ok());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, line, words) in [
            ("\nmemroy = \"1G\"\n", 2, &["no key \"memroy\"", "\"memory\""][..]),
            ("config = \"x\"\n", 1, &["no key \"config\""]),
            ("json = true\n", 1, &["no key \"json\""]),
            ("cpus = 1\nmemory = \"256\"\n", 2, &["'256'", "--memory", "256M"]),
            ("# x\n\ncpus = 0\n", 3, &["--cpus"]),
            ("name = \"../a\"\n", 1, &["no name for a VM"]),
            ("cpus = [1]\n", 1, &["cpus", "array"]),
            ("cpus = true\n", 1, &["cpus", "boolean"]),
            ("detach = \"yes\"\n", 1, &["detach", "true or false"]),
            ("cpus = 1\ncpus = 2\n", 2, &["duplicate key"]),
            ("cpus = 1\nname = \n", 2, &[]),
            ("[vm]\ncpus = 1\n", 1, &["no key \"vm\""]),
        ] {
            let error = run_with(text, &[]).expect_err(text);
            assert!(error.contains(&format!("vm.toml:{line}: ")), "{text}: {error}");
            for word in words {
                assert!(error.contains(word), "{text}: {error}");
            }
        }
        let error = run_with("cpus = 0\n", &["--cpus", "none"]).expect_err("no number");
        assert!(!error.contains("vm.toml"), "the file is not to blame: {error}");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let line = ["vm", "run", "--config", "/nowhere/vm.toml"].map(OsString::from);
        assert!(matches!(parse(&line), Err(Unreadable::File(error)) if error.to_string().contains("/nowhere/vm.toml")));
        assert!(
            run_with(&"#".repeat(LONGEST_BYTES + 1), &[])
                .expect_err("too long")
                .contains("1 MiB")
        );
    }
}
