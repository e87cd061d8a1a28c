//! The `vm` command: one file per subcommand.
//!
//! `run`, `restore` and `receive` hold a VM in the foreground ([`host`]): stdout is the guest's console, and whatever Tern has to say goes to
//! stderr. With `--detach` they do so in a process of its own (`detach`). The others talk to such a process through its monitor and print what they found to stdout. Errors are printed once,
//! here, and end in one of the documented exit codes (`exit`).

mod attention;
mod completions;
mod config;
mod console;
mod cont;
mod cpu;
mod demo;
mod detach;
mod error;
mod exit;
mod follow;
pub mod host;
mod info;
mod leave;
mod machine;
mod machines;
mod man;
mod messages;
mod migrate;
mod monitor;
mod object_tree;
mod progress;
mod ps;
mod qom;
mod quit;
mod receive;
mod resolve;
mod restore;
mod run;
mod snapshot;
mod snapshot_info;
mod state;
mod stop;
mod throttle;
mod trial;
mod values;
mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use config::Unreadable;
pub use error::CliError;
use exit::EXIT_CODES;
use messages::Messages;

/// Run, save, restore and move virtual machines.
#[derive(Debug, Parser)]
#[command(name = "vm", version, after_help = EXIT_CODES)]
struct Cli {
    /// Say everything in JSON, one object a line.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Demo(demo::Args),
    Snapshot(snapshot::Args),
    Restore(restore::Args),
    Migrate(migrate::Args),
    Receive(receive::Args),
    Resolve(resolve::Args),
    Ps(ps::Args),
    Info(info::Args),
    Stop(stop::Args),
    Cont(cont::Args),
    Console(console::Args),
    Monitor(monitor::Args),
    Cpu(cpu::Args),
    State(state::Args),
    Qom(qom::Args),
    Quit(quit::Args),
    Machines(machines::Args),
    Completions(completions::Args),
    Man(man::Args),
}

/// What the program `vm` does: reads the command line, carries it out, and says how that went.
#[must_use]
pub fn main() -> ExitCode {
    let line: Vec<_> = std::env::args_os().collect();
    let wants_json = line.iter().any(|word| word == "--json");
    let Cli { json, command } = match config::parse(&line) {
        Ok(cli) => cli,
        Err(Unreadable::CommandLine(error)) if error.use_stderr() && wants_json => {
            let error = CliError::Usage(error.render().to_string().trim_end().to_owned());
            Messages::new(true).error(&error);
            return error.exit_code().into();
        }
        Err(Unreadable::CommandLine(error)) => error.exit(),
        Err(Unreadable::File(error)) => {
            Messages::new(wants_json).error(&error);
            return error.exit_code().into();
        }
    };
    let messages = Messages::new(json);
    let result = match command {
        Command::Run(args) => run::run(&args, messages),
        Command::Demo(args) => demo::run(&args, messages),
        Command::Snapshot(args) => snapshot::run(&args, messages),
        Command::Restore(args) => restore::run(&args, messages),
        Command::Migrate(args) => migrate::run(&args, messages),
        Command::Receive(args) => receive::run(&args, messages),
        Command::Resolve(args) => resolve::run(&args, messages),
        Command::Ps(args) => ps::run(&args, messages),
        Command::Info(args) => info::run(&args, messages),
        Command::Stop(args) => stop::run(&args, messages),
        Command::Cont(args) => cont::run(&args, messages),
        Command::Console(args) => console::run(&args, messages),
        Command::Monitor(args) => monitor::run(&args, messages),
        Command::Cpu(args) => cpu::run(&args, messages),
        Command::State(args) => state::run(&args, messages),
        Command::Qom(args) => qom::run(&args, messages),
        Command::Quit(args) => quit::run(&args, messages),
        Command::Machines(args) => machines::run(&args, messages),
        Command::Completions(args) => completions::run(&args, messages),
        Command::Man(args) => man::run(&args, messages),
    };
    match result {
        Ok(code) => code.into(),
        Err(error) => {
            messages.error(&error);
            error.exit_code().into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example_in_its_help() {
        for command in Cli::command().get_subcommands_mut() {
            let name = command.get_name().to_owned();
            let help = command.render_long_help().to_string();
            assert!(help.contains("Example:\n  vm "), "{name}: {help}");
            assert!(help.contains(&format!("vm {name}")), "{name}: {help}");
        }
    }

    #[test]
    fn the_help_lists_the_exit_codes() {
        let help = Cli::command().render_long_help().to_string();
        for code in ["0 ", "1 ", "2 ", "3 ", "4 ", "5 ", "128+N"] {
            assert!(
                help.lines().any(|line| line.trim_start().starts_with(code)),
                "{code} in {help}"
            );
        }
    }

    #[test]
    fn the_documented_command_lines_are_understood() {
        for line in [
            "vm run",
            "vm run --machine microvm --kernel k --initrd i --cmdline console=ttyS0 --cpus 2 --memory 256M --name a --cpu host --accel kvm",
            "vm run --config vm.toml --cpus 4",
            "vm run --console pty",
            "vm run --detach --name a",
            "vm restore a.tern -d --console file:log --log messages",
            "vm receive unix:/s -d --json",
            "vm run --machine microvm-1.0 --global serial16550.iobase=0x2f8 --global microvm-1.0.cpus=1",
            "vm run --console file:log",
            "vm run --console unix:/tmp/c --control /tmp/s --json",
            "vm --json demo",
            "vm snapshot a a.tern --stop",
            "vm restore a.tern --name b --verify=none --console null --control /tmp/s",
            "vm migrate a tcp:127.0.0.1:4444 --downtime-limit 300ms",
            "vm migrate a tcp:127.0.0.1:4444 --bandwidth-limit 100M --switchover-bandwidth 1G",
            "vm migrate a tcp:127.0.0.1:4444 --bandwidth-limit none",
            "vm migrate a tcp:127.0.0.1:4444 --watch",
            "vm migrate a --watch --json --bandwidth-limit 1G",
            "vm receive tcp:127.0.0.1:0 --name c --allow-remote",
            "vm resolve a --resume",
            "vm resolve a --discard",
            "vm ps --json",
            "vm info ./a.tern",
            "vm stop a",
            "vm cont a",
            "vm monitor a",
            "vm monitor /tmp/s --json -c stop --command cont",
            "vm cpu list",
            "vm cpu show x86-64-v2,-popcnt,+aes --cpus 2 --json",
            "vm cpu check EPYC,pcid=on --accel qtest",
            "vm cpu baseline a.json b.json c.json",
            "vm state schema",
            "vm state schema --machine microvm-1.0 --json",
            "vm state inspect a.tern",
            "vm state diff a.tern b.tern --json",
            "vm state check old.json",
            "vm state check a.tern new.json --forward --all",
            "vm state verify a.tern",
            "vm qom tree a",
            "vm qom tree a /machine --properties --json",
            "vm qom get a serial state",
            "vm qom get a /machine/serial",
            "vm qom set a pvpanic events -1",
            "vm quit /tmp/s",
            "vm machines --json",
            "vm machines microvm-1.0 --json",
            "vm run --compat 0.1 --machine microvm-1.0",
            "vm completions fish",
            "vm man /tmp/man",
        ] {
            Cli::try_parse_from(line.split(' ')).expect(line);
        }
    }

    #[test]
    fn a_wrong_command_line_is_refused() {
        for line in [
            "vm",
            "vm fly",
            "vm resolve a",
            "vm resolve a --resume --discard",
            "vm run --memory 256",
            "vm run --memory lots",
            "vm run --cpus 0",
            "vm run --console vc",
            "vm run --global iobase=1",
            "vm run --compat latest",
            "vm run --name ../a",
            "vm restore a.tern --verify=maybe",
            "vm migrate a tcp:h:1 --downtime-limit 300",
            "vm migrate a tcp:h:1 --downtime-limit 500us",
            "vm migrate a tcp:h:1 --downtime-limit 0s",
            "vm migrate a h:1",
            "vm migrate a file:/x",
            "vm run --log /x",
            "vm migrate a tcp:h:1 --bandwidth-limit 100",
            "vm migrate a tcp:h:1 --bandwidth-limit 0M",
            "vm receive file:/x",
            "vm cpu show pentium",
            "vm cpu check x86-64-v2,+popcount",
            "vm cpu baseline a.json",
            "vm state",
            "vm state check",
            "vm state diff a.tern",
            "vm qom get a",
            "vm qom set a serial iobase",
            "vm completions powershell",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
