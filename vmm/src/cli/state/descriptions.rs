//! Descriptions of state, from wherever they are: this program, a file that "vm state schema" wrote, or a snapshot.

use std::{
    fs::File,
    io::{Read, Seek},
    path::Path,
    sync::Arc,
};

use migration::vm::{DestinationFactory as _, Offer, RamSource, SourceVm};
use serde_json::{Value, json};
use vmstate::{
    qom::{StateDecl, TypeTable},
    state::{Schema, StructValue},
};

use super::{failed, plain, section_name, snapshot};
use crate::{
    cli::{CliError, machine::machine_named},
    vm::{Factory, Host, Vm, VmSpec},
};

/// The longest file of descriptions that is read. Those of a machine take a hundredth of it.
const MAX_FILE: u64 = 32 << 20;
/// The least memory that a machine is made with to ask it for its descriptions.
const MEMORY: u64 = 8 << 20;

/// A set of descriptions.
#[derive(Debug)]
pub(super) struct Descriptions {
    /// Where they are from, for people.
    pub(super) what: String,
    /// The Tern that has them.
    pub(super) tern: String,
    /// The machine whose they are; with none, they are all that there are.
    pub(super) machine: Option<String>,
    pub(super) sections: Vec<Described>,
    /// What else a snapshot says of its machine.
    pub(super) offer: Option<Offer>,
}

/// One description.
#[derive(Debug)]
pub(super) struct Described {
    /// The object whose state it is, where it is a machine's.
    pub(super) path: Option<String>,
    /// The type that has the description.
    pub(super) description: String,
    pub(super) schema: Arc<Schema>,
    /// The state itself, where it is from a snapshot.
    pub(super) value: Option<StructValue>,
}

impl Described {
    pub(super) fn name(&self) -> String {
        section_name(self.path.as_deref(), &self.description)
    }
}

/// Those of a VM's objects, in the order in which their state is saved.
fn described(vm: &Vm) -> Vec<Described> {
    let sections = vm.schemas().into_iter().map(|section| Described {
        path: Some(section.path),
        description: section.description,
        schema: Arc::new(section.schema),
        value: None,
    });
    sections.collect()
}

impl Descriptions {
    /// All that this program has, sorted by name.
    pub(super) fn of_this_program() -> Result<Self, CliError> {
        let types = TypeTable::gathered().map_err(failed)?;
        let described = types.infos().filter_map(|info| match &info.state {
            StateDecl::Described(binding) => Some(Described {
                path: None,
                description: info.name.to_owned(),
                schema: Arc::new(binding.schema().clone()),
                value: None,
            }),
            StateDecl::Stateless | StateDecl::Unmigratable(_) => None,
        });
        let mut sections: Vec<_> = described.collect();
        sections.sort_by(|a, b| a.description.cmp(&b.description));
        Ok(Self {
            what: "this program".to_owned(),
            tern: env!("CARGO_PKG_VERSION").to_owned(),
            machine: None,
            sections,
            offer: None,
        })
    }

    /// Those of a machine with one vCPU, in the order in which its state is saved.
    pub(super) fn of_machine(name: &str) -> Result<Self, CliError> {
        let types = TypeTable::gathered().map_err(failed)?;
        let machine = machine_named(&types, name)?;
        let host = Host::without_processors(types);
        let spec = VmSpec {
            machine: machine.name.to_owned(),
            memory: MEMORY,
            ..VmSpec::new("schema", "")
        };
        let vm = Vm::create(&host, &spec, Arc::default()).map_err(failed)?;
        Ok(Self {
            what: format!("{} of this program", machine.name),
            tern: env!("CARGO_PKG_VERSION").to_owned(),
            machine: Some(machine.name.to_owned()),
            sections: described(&vm),
            offer: None,
        })
    }

    /// Those in a file: one that "vm state schema --json" wrote, or a snapshot.
    pub(super) fn of_file(path: &Path) -> Result<Self, CliError> {
        let unreadable = |error| CliError::File {
            action: "read",
            path: path.to_owned(),
            error,
        };
        let mut file = File::open(path).map_err(unreadable)?;
        let is_regular = file.metadata().is_ok_and(|metadata| metadata.is_file());
        if is_regular {
            let mut first = [0];
            let there = file.read(&mut first).map_err(unreadable)?;
            if there == 0 || !(first[0] == b'{' || first[0].is_ascii_whitespace()) {
                return Self::of_snapshot(path);
            }
            file.rewind().map_err(unreadable)?;
        }
        let mut text = String::new();
        file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(unreadable)?;
        let wrong = |why: String| failed(format_args!("{}: {why}", path.display()));
        if u64::try_from(text.len()).is_ok_and(|length| length > MAX_FILE) {
            return Err(wrong(format!("it is longer than {} MiB", MAX_FILE >> 20)));
        }
        let json: Value = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        Self::from_json(path.display().to_string(), &json).map_err(wrong)
    }

    fn of_snapshot(path: &Path) -> Result<Self, CliError> {
        let info = snapshot(path)?;
        if let Some((part, because)) = info.unreadable.into_iter().next() {
            return Err(failed(format_args!("{}: {part}: {because}", path.display())));
        }
        let schemas = info.schemas.clone();
        let mut sections: Vec<_> = info
            .schemas
            .into_iter()
            .map(|section| Described {
                path: Some(section.path),
                description: section.description,
                schema: Arc::new(section.schema),
                value: None,
            })
            .collect();
        for section in info.sections {
            let described = sections.iter_mut().find(|described| {
                described.path.as_deref() == Some(&section.path) && described.description == section.description
            });
            if let Some(described) = described {
                described.value = Some(section.state);
            }
        }
        Ok(Self {
            what: path.display().to_string(),
            tern: info.header.writer.clone(),
            machine: Some(info.manifest.recipe.machine.clone()),
            sections,
            offer: Some(Offer {
                header: info.header,
                recipe: info.manifest.recipe,
                inventory: info.manifest.inventory,
                schemas,
                parent: Some(info.as_parent),
            }),
        })
    }

    /// What this program has beside them: of the VM of a snapshot the descriptions of that VM, as it would be here; and else all. With
    /// them goes why that VM cannot be built here, wherever it may run, if it cannot.
    pub(super) fn counterpart(&self) -> Result<(Self, Option<String>), CliError> {
        let all = Self::of_this_program()?;
        let Some(offer) = &self.offer else {
            return Ok((all, None));
        };
        let types = TypeTable::gathered().map_err(failed)?;
        Ok(
            match Factory::without_processors(types).build(offer, RamSource::Fresh) {
                Ok(arrival) => (
                    Self {
                        machine: self.machine.clone(),
                        sections: described(arrival.vm()),
                        ..all
                    },
                    None,
                ),
                Err(error) => (all, Some(plain(&error.to_string()))),
            },
        )
    }

    /// As a file holds them.
    pub(super) fn to_json(&self) -> Value {
        let section = |section: &Described| {
            let mut json = json!({ "description": section.description, "schema": section.schema.to_json() });
            if let Some(path) = &section.path {
                json["path"] = path.as_str().into();
            }
            json
        };
        json!({
            "tern": self.tern,
            "machine": self.machine,
            "sections": self.sections.iter().map(section).collect::<Value>(),
        })
    }

    fn from_json(what: String, json: &Value) -> Result<Self, String> {
        let sections = json["sections"]
            .as_array()
            .ok_or("it is no file of descriptions, which \"vm state schema --json\" writes, and no snapshot")?;
        let section = |json: &Value| {
            let description = json["description"].as_str().ok_or("a section has no description")?;
            let path = json["path"].as_str().map(str::to_owned);
            let schema = Schema::from_json(&json["schema"])
                .map_err(|error| format!("{}: {error}", section_name(path.as_deref(), description)))?;
            Ok::<_, String>(Described {
                path,
                description: description.to_owned(),
                schema: Arc::new(schema),
                value: None,
            })
        };
        Ok(Self {
            what,
            tern: json["tern"].as_str().unwrap_or("unknown").to_owned(),
            machine: json["machine"].as_str().map(str::to_owned),
            sections: sections.iter().map(section).collect::<Result<_, _>>()?,
            offer: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_read_back_from_their_file() {
        let here = Descriptions::of_machine("microvm-1.0").expect("a machine");
        let back = Descriptions::from_json("file".into(), &here.to_json()).expect("what was written");
        assert_eq!(back.machine.as_deref(), Some("microvm-1.0"));
        let names = |of: &Descriptions| of.sections.iter().map(Described::name).collect::<Vec<_>>();
        assert_eq!(names(&back), names(&here));
        for (back, here) in back.sections.iter().zip(&here.sections) {
            assert_eq!(back.schema, here.schema, "{}", here.name());
        }
    }

    #[test]
    fn every_description_of_a_machine_is_one_of_the_programs() {
        let all = Descriptions::of_this_program().expect("the types fit");
        let machine = Descriptions::of_machine("microvm-1.0").expect("a machine");
        assert!(machine.sections.len() > 8, "{}", machine.sections.len());
        for section in &machine.sections {
            let known = all
                .sections
                .iter()
                .any(|known| known.description == section.description);
            assert!(known, "{}", section.name());
        }
    }

    #[test]
    fn a_file_that_holds_something_else_is_refused_with_what_it_should_be() {
        let error = Descriptions::from_json("file".into(), &json!({ "name": "a" })).expect_err("no descriptions");
        assert!(error.contains("vm state schema --json"), "{error}");
        let json = json!({ "sections": [{ "description": "uart", "schema": { "name": "uart" } }] });
        let error = Descriptions::from_json("file".into(), &json).expect_err("half a schema");
        assert!(
            error.contains("uart: the description in a schema: it has no"),
            "{error}"
        );
    }
}
