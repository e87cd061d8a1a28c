//! The VM as a transfer makes it.

use std::sync::Arc;

use hw::core::MachineClass;
use hw::i386::microvm::check_memory;
use hw::memory::{Backing, RamBlock};
use hw::timer::clock::TscPolicy;
use migration::ident::Id;
use migration::vm::{
    DestinationFactory, DestinationVm, Finding, Identity, Offer, PreflightReport, RamSource, ReaderSchema, Recipe,
    VmError,
};
use parking_lot::Mutex;
use vmstate::qom::sections::{IncomingSection, LoadTreeError, check_sections, load_tree};
use vmstate::qom::{PropertyDefaults, StateDecl, TypeTable};
use vmstate::state::{Schema, Verdict, compare};

use super::assemble::{Parts, RAM_BLOCK, assemble};
use super::requests::Requests;
use super::source::refused;
use super::{CreateError, Host, Status, Vm, describe, devices, processor, tsc};
use crate::accel::{self, CreatedAccel, Difference};
use crate::boot::BootPayload;

/// Who is told of a VM that has been loaded, just before it runs.
pub trait Arrivals: Send + Sync {
    /// `vm` is whole and about to run.
    fn arrived(&self, vm: &Arc<Vm>);
}

/// Makes VMs of offers, on this host.
pub struct Factory {
    host: Host,
    /// What the VM is to be called; `None` keeps the name that it has.
    name: Option<String>,
    status: Arc<Status>,
    arrivals: Arc<dyn Arrivals>,
    /// Made for the preflight, which asks it what the host can do; taken by the build that follows.
    accel: Mutex<Option<(CreatedAccel, Arc<Requests>)>>,
}

impl Factory {
    /// A factory for one VM, which then is called `name`, stands as `status` says, and is announced to `arrivals`.
    #[must_use]
    pub fn new(host: Host, name: Option<String>, status: Arc<Status>, arrivals: Arc<dyn Arrivals>) -> Self {
        Self {
            host,
            name,
            status,
            arrivals,
            accel: Mutex::new(None),
        }
    }

    /// One that builds machines nobody runs: for who asks whether they can be built.
    #[must_use]
    pub fn without_processors(types: Arc<TypeTable>) -> Self {
        struct Nobody;
        impl Arrivals for Nobody {
            fn arrived(&self, _: &Arc<Vm>) {}
        }
        Self::new(Host::without_processors(types), None, Arc::default(), Arc::new(Nobody))
    }

    fn take_accel(&self) -> Result<(CreatedAccel, Arc<Requests>), CreateError> {
        if let Some(made) = self.accel.lock().take() {
            return Ok(made);
        }
        let requests = Requests::new(Arc::clone(&self.host.runner));
        let accel = accel::create(&self.host.accelerator, &self.host.types, requests.clone())?;
        Ok((accel, requests))
    }

    fn check_machine(&self, recipe: &Recipe, report: &mut PreflightReport) {
        let class = self.host.types.class(&recipe.machine).ok();
        let Some(machine) = class.as_ref().and_then(|class| class.data::<MachineClass>()) else {
            report.refuse(
                "machine",
                format!("this Tern has no {}; it takes a newer one", recipe.machine),
            );
            return;
        };
        let cpus = u32::try_from(recipe.cpus.len()).unwrap_or(u32::MAX);
        if cpus == 0 || cpus > machine.max_cpus {
            report.refuse(
                "cpus",
                format!("{} takes 1 to {}, not {cpus}", recipe.machine, machine.max_cpus),
            );
        }
        if let Err(error) = check_memory(&recipe.machine, recipe.memory) {
            report.refuse("memory", error.to_string());
        }
        devices::check_added(&self.host.types, recipe, report);
        for option in &recipe.options {
            let Some(global) = describe::global_of(option) else {
                report.refuse(&option.name, "this Tern knows no such option of a machine".to_owned());
                continue;
            };
            if let Err(error) = PropertyDefaults::default().with_user([global]).check(&self.host.types) {
                report.refuse(&option.name, error.reason);
            }
        }
    }

    fn check_cpu(&self, recipe: &Recipe, report: &mut PreflightReport) {
        let made = match self.take_accel() {
            Ok(made) => made,
            Err(error) => return report.refuse("accelerator", error.to_string()),
        };
        processor::check(&self.host, made.0.accelerator.as_ref(), recipe, report);
        let here = tsc::here(&*made.0.accelerator);
        tsc::check(self.host.tsc, here, &recipe.cpu, report);
        *self.accel.lock() = Some(made);
    }

    /// The schema by which this Tern reads what `description` names.
    fn reader_schema(&self, description: &str) -> Option<&'static Schema> {
        match &self.host.types.info(description)?.state {
            StateDecl::Described(binding) => Some(binding.schema()),
            StateDecl::Stateless | StateDecl::Unmigratable(_) => None,
        }
    }

    fn check_schemas(&self, offer: &Offer, report: &mut PreflightReport) {
        for section in &offer.schemas {
            let Some(reader) = self.reader_schema(&section.description) else {
                report.refuse(
                    &section.path,
                    format!("this Tern has no state called {}", section.description),
                );
                continue;
            };
            let comparison = compare(&section.schema, reader);
            if matches!(comparison.verdict(), Verdict::LoadsOnlyIf(_))
                && !report
                    .readers
                    .iter()
                    .any(|known| known.description == section.description)
            {
                report.readers.push(ReaderSchema::new(&section.description, reader));
            }
            for field in comparison.fields {
                let subject = format!("{}: {}", section.path, field.path);
                match field.verdict {
                    Verdict::Loads => {}
                    Verdict::LoadsOnlyIf(condition) => {
                        report.conditions.push(Finding {
                            subject,
                            because: condition.to_string(),
                        });
                    }
                    Verdict::DoesNot(because) => report.refusals.push(Finding {
                        subject,
                        because: because.to_string(),
                    }),
                }
            }
        }
    }

    fn assemble(&self, offer: &Offer, ram: RamSource) -> Result<Arc<Vm>, CreateError> {
        let mut recipe = offer.recipe.clone();
        let blocks = make_blocks(&recipe, ram)?;
        let payload = BootPayload::from_recipe(&recipe.boot, &blocks)?;
        let (accel, requests) = self.take_accel()?;
        if self.host.tsc == TscPolicy::Tolerate {
            accel.accelerator.set_tsc_policy(self.host.tsc);
            tsc::adopt(tsc::here(&*accel.accelerator), &mut recipe.cpu);
        }
        let identity = Identity {
            vm: offer.header.identity.vm,
            instance: Id::random()?,
            name: self.name.clone().unwrap_or_else(|| offer.header.identity.name.clone()),
            parent: offer.parent,
        };
        let cpuid = describe::cpuid_of(&recipe);
        let status = Arc::clone(&self.status);
        assemble(
            &self.host,
            Parts {
                identity,
                recipe,
                cpuid,
                payload,
                ram: blocks,
                accel,
                requests,
                status,
            },
        )
    }
}

pub(super) trait Refuse {
    fn refuse(&mut self, subject: &str, because: String);
}

impl Refuse for PreflightReport {
    fn refuse(&mut self, subject: &str, because: String) {
        self.refusals.push(Finding {
            subject: subject.to_owned(),
            because,
        });
    }
}

/// The blocks of a recipe, from where `source` says. The guest's memory comes first, of the size that the recipe has.
fn make_blocks(recipe: &Recipe, source: RamSource) -> Result<Vec<Arc<RamBlock>>, CreateError> {
    let mut files = match source {
        RamSource::Fresh => Vec::new(),
        RamSource::PrivateFile(files) => files,
    };
    let mut blocks = Vec::with_capacity(recipe.ram.len());
    for block in &recipe.ram {
        let file = files
            .iter()
            .position(|file| file.name == block.name)
            .map(|at| files.swap_remove(at));
        let backing = match file {
            None => Backing::PrivateAnonymous,
            Some(file) => Backing::PrivateFile {
                file: file.file.try_clone()?,
                offset: file.offset,
            },
        };
        blocks.push(RamBlock::new(&block.name, block.size, backing)?);
    }
    let memory = blocks.iter().find(|block| block.name() == RAM_BLOCK);
    if memory.is_none_or(|memory| memory.size() != recipe.memory) {
        return Err(CreateError::NoMemory { memory: recipe.memory });
    }
    Ok(blocks)
}

impl DestinationFactory for Factory {
    type Vm = Arrival;

    fn preflight(&self, offer: &Offer) -> PreflightReport {
        let mut report = PreflightReport::default();
        self.check_machine(&offer.recipe, &mut report);
        self.check_cpu(&offer.recipe, &mut report);
        self.check_schemas(offer, &mut report);
        report
    }

    fn build(&self, offer: &Offer, ram: RamSource) -> Result<Arrival, VmError> {
        let vm = self.assemble(offer, ram).map_err(|error| VmError::Build {
            subject: offer.recipe.machine.clone(),
            because: error.to_string(),
        })?;
        let root = vm.board.root();
        check_sections(root, &offer.schemas, vm.board.moves()).map_err(|error| state_refused(&error))?;
        if let Some(difference) = describe::difference(root, &offer.inventory) {
            return Err(difference);
        }
        Ok(Arrival {
            vm,
            arrivals: Arc::clone(&self.arrivals),
        })
    }
}

/// A VM that was built of an offer and waits for its contents.
pub struct Arrival {
    vm: Arc<Vm>,
    arrivals: Arc<dyn Arrivals>,
}

impl Arrival {
    /// The VM.
    #[must_use]
    pub fn vm(&self) -> &Arc<Vm> {
        &self.vm
    }
}

impl DestinationVm for Arrival {
    fn ram(&self) -> Vec<Arc<RamBlock>> {
        self.vm.ram.clone()
    }

    fn load(&mut self, sections: Vec<IncomingSection>) -> Result<(), VmError> {
        let moves = self.vm.board.moves();
        load_tree(self.vm.board.root(), sections, moves).map_err(|error| state_refused(&error))?;
        self.vm.accelerator.push().map_err(|error| VmError::Accelerator {
            operation: "take the guest's state",
            because: error.to_string(),
        })?;
        // While the guest can still go on where it comes from.
        let read = self.vm.accelerator.readback_compare();
        expect_no_differences(&read.map_err(|error| VmError::Accelerator {
            operation: "tell the guest's state",
            because: error.to_string(),
        })?)?;
        self.vm.drive_lines();
        Ok(())
    }

    fn run(&mut self) -> Result<(), VmError> {
        self.arrivals.arrived(&self.vm);
        self.vm.start_arrived().map_err(refused("run"))
    }
}

fn state_refused(error: &LoadTreeError) -> VmError {
    VmError::State {
        path: "/machine".to_owned(),
        because: error.to_string(),
    }
}

/// Refuses a load that did not reach the accelerator as it was.
fn expect_no_differences(differences: &[Difference]) -> Result<(), VmError> {
    let Some(first) = differences.first() else {
        return Ok(());
    };
    let because = match differences.len() - 1 {
        0 => first.to_string(),
        more => format!("{first} (and {more} more)"),
    };
    Err(VmError::Accelerator {
        operation: "hold the guest's state",
        because,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_fails_by_the_name_of_the_field_that_the_accelerator_does_not_hold() {
        let difference = |field: &str| Difference {
            field: field.to_owned(),
            loaded: "1".to_owned(),
            read: "0".to_owned(),
        };
        assert!(expect_no_differences(&[]).is_ok());
        let error = |differences: &[_]| expect_no_differences(differences).expect_err("differs").to_string();
        let one = "the accelerator cannot hold the guest's state: cpu-0: a was loaded as 1 and reads as 0";
        assert_eq!(error(&[difference("cpu-0: a")]), one);
        let two = error(&[difference("cpu-0: a"), difference("cpu-0: b")]);
        assert_eq!(two, format!("{one} (and 1 more)"));
    }
}
