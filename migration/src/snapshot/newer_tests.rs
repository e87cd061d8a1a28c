//! Snapshots of a later Tern: what it adds to machines is shown, although nothing here has a type for it.

use std::ops::Range;
use std::sync::Arc;

use hw::memory::RamBlock;
use vmstate::qom::sections::SectionSchema;
use vmstate::state::{
    Bitmap, Description, FieldSchema, Schema, Section, StructValue, SubsectionSchema, Value, WireType,
};

use super::*;
use crate::testing::{FakeVm, Scratch};
use crate::vm::{Identity, Inventory, Recipe, SourceVm, VmError};

const PATH: &str = "/machine/quantum0";

/// A fake machine with one more device, of a kind that does not exist yet.
struct Later(FakeVm);

fn schema() -> Schema {
    let mut vendor = Description::new("quantum/calibration");
    vendor.version = 12;
    vendor.fields = vec![FieldSchema::new("phase", WireType::I64)];
    let mut description = Description::new("quantum");
    description.version = 7;
    description.minimum_version = 5;
    description.fields = vec![
        FieldSchema::new("entangled", WireType::Bitmap { max: 64 }),
        FieldSchema::new("decay", WireType::Deadline { clock: "lunar".into() }),
    ];
    description.subsections = vec![SubsectionSchema {
        name: "calibration".into(),
        optional: true,
        absent: None,
        schema: vendor.check().expect("legal"),
    }];
    description.check().expect("legal")
}

fn state() -> StructValue {
    let mut entangled = Bitmap::new(5);
    entangled.set(3, true);
    let mut state = StructValue::new(7)
        .with("entangled", Value::Bits(entangled))
        .with("decay", Value::Deadline(Some(99)));
    state.set_subsection("calibration", StructValue::new(12).with("phase", Value::Int(-4)));
    state
}

impl SourceVm for Later {
    fn identity(&self) -> Identity {
        self.0.identity()
    }

    fn recipe(&self) -> Recipe {
        Recipe {
            machine: "fake-9.0".to_owned(),
            ..self.0.recipe()
        }
    }

    fn inventory(&self) -> Inventory {
        self.0.inventory()
    }

    fn schemas(&self) -> Vec<SectionSchema> {
        let mut schemas = self.0.schemas();
        schemas.push(SectionSchema {
            path: PATH.to_owned(),
            description: "quantum".to_owned(),
            schema: schema(),
        });
        schemas
    }

    fn ram(&self) -> Vec<Arc<RamBlock>> {
        self.0.ram()
    }

    fn dirty_log_start(&self) -> Result<(), VmError> {
        self.0.dirty_log_start()
    }

    fn dirty_log_sync(&self) -> Result<(), VmError> {
        self.0.dirty_log_sync()
    }

    fn dirty_log_clear(&self, block: &RamBlock, range: Range<u64>) -> Result<(), VmError> {
        self.0.dirty_log_clear(block, range)
    }

    fn dirty_log_stop(&self) {
        self.0.dirty_log_stop();
    }

    fn pause(&self) -> Result<(), VmError> {
        self.0.pause()
    }

    fn sections(&self) -> Result<Vec<Section>, VmError> {
        let mut sections = self.0.sections()?;
        sections.push(Section {
            path: PATH.to_owned(),
            description: "quantum".to_owned(),
            value: state(),
        });
        Ok(sections)
    }

    fn peek(&self) -> Vec<Section> {
        self.0.peek()
    }

    fn resume(&self) -> Result<(), VmError> {
        self.0.resume()
    }

    fn handed_over(&self, to: &str) {
        self.0.handed_over(to);
    }

    fn undecided(&self) {
        self.0.undecided();
    }
}

#[test]
fn a_file_of_a_newer_version_is_shown_field_by_field_without_its_writers_types() {
    let scratch = Scratch::new();
    let path = scratch.path().join("later.snap");
    let later = Later(FakeVm::new(1 << 20));
    later.0.fill(0..8192, 3);
    save(&later, &path, &SaveOptions::default(), &()).expect("saved");
    let info = inspect(&path).expect("readable");
    assert_eq!(info.manifest.recipe.machine, "fake-9.0");
    assert!(info.unreadable.is_empty());
    let section = info
        .sections
        .iter()
        .find(|section| section.path == PATH)
        .expect("it is there");
    assert_eq!((&section.state, &*section.schema), (&state(), &schema()));
    let ram = &info.ram[0];
    assert_eq!((ram.raw, ram.zero, ram.compressed), (8192, (1 << 20) - 8192, 0));
    let verified = verify(&path, 1, &()).expect("whole");
    assert_eq!((verified.chunks, verified.payloads), (2, 1));
}
