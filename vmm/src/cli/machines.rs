//! `vm machines`: the machines that a guest can have.

use std::fmt;

use hw::core::MachineType;
use serde_json::Value;
use vmstate::qom::TypeTable;

use super::{
    error::CliError,
    info::Outline,
    machine::{machine_named, start_error},
    messages::Messages,
};
use crate::{monitor::machine_list, vm::shape};

/// List the machines that a guest can have, or show what a guest sees of one.
///
/// A machine's name has a version: what the guest sees of it never changes. The alias stands for the newest version.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  vm machines\n  vm machines microvm-1.0\n  vm run --machine microvm-1.0")]
pub(super) struct Args {
    /// The machine to show: its limits, its memory map, its objects and their properties, what of them is saved; with --json also what
    /// can be set and added, its tables, and the CPUID of each model.
    #[arg(value_name = "MACHINE")]
    machine: Option<String>,
}

pub(super) fn run(args: &Args, messages: Messages) -> Result<u8, CliError> {
    let types = TypeTable::gathered().map_err(start_error)?;
    if let Some(name) = &args.machine {
        let machine = machine_named(&types, name)?;
        let mut shape = shape(&types, machine.name, machine.class.since).map_err(start_error)?;
        if let Some(members) = shape.as_object_mut().filter(|_| !messages.is_json()) {
            for long in ["settable", "addable", "tables", "cpuid"] {
                members.remove(long);
            }
        }
        messages.result(Outline(&shape), &shape)?;
        return Ok(0);
    }
    let machines = MachineType::all(&types);
    messages.result(Table(&machines), &Value::from(machine_list(&machines)))?;
    Ok(0)
}

struct Table<'a>(&'a [MachineType]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let alias = |machine: &MachineType| machine.class.alias.unwrap_or("-");
        let width = |header: &str, of: &dyn Fn(&MachineType) -> usize| {
            self.0.iter().map(of).max().unwrap_or_default().max(header.len())
        };
        let (name_width, alias_width) = (
            width("NAME", &|machine| machine.name.len()),
            width("ALIAS", &|machine| alias(machine).len()),
        );
        write!(
            f,
            "{:name_width$}  {:alias_width$}  {:>8}  DESCRIPTION",
            "NAME", "ALIAS", "MAX CPUS"
        )?;
        for machine in self.0 {
            let default = if machine.class.is_default { " (default)" } else { "" };
            write!(
                f,
                "\n{:name_width$}  {:alias_width$}  {:>8}  {}{default}",
                machine.name,
                alias(machine),
                machine.class.max_cpus,
                machine.class.description
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hw::core::MachineClass;

    #[test]
    fn the_table_lines_up_and_marks_the_default() {
        let machine = |name, alias, is_default| MachineType {
            name,
            class: MachineClass {
                description: "small",
                max_cpus: 8,
                alias,
                is_default,
                ..MachineClass::default()
            },
        };
        assert_eq!(
            Table(&[machine("a-1.0", None, false), machine("a-1.10", Some("a"), true)]).to_string(),
            "\
NAME    ALIAS  MAX CPUS  DESCRIPTION
a-1.0   -             8  small
a-1.10  a             8  small (default)"
        );
    }
}
