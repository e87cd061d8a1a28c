//! A device alone, or a whole machine, with nothing of a host around it: two address spaces, virtual time, and somebody
//! who notes all that reaches the outside.
//!
//! There are no processors and no accelerator. What an accelerator holds while a guest runs (interrupt controllers, the
//! timer, vCPUs, guest time) is registers here and does nothing, as under `qtest`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hw::char::{CharFrontend, CharSink, Chardev, HostChardev};
use hw::core::{
    Device, DeviceInput, Doorbells, IrqSink, MachineClass, MachineEvents, MachineType, RealizeCtx, ResetKind, Timers,
    Wiring, device_class, realize_device, reset_tree,
};
use hw::i386::microvm::{Board, BoardSpec, layout};
use hw::memory::{AccessError, AddressSpace, Backing, MemoryRegion, MemorySystem, RamBlock};
use parking_lot::Mutex;
use vmm::accel::qtest;
use vmstate::qom::sections::{IncomingSection, LoadTreeError, load_tree, save_tree, tree_schemas};
use vmstate::qom::{GlobalProperty, Obj, Object, ObjectPart, PropertyDefaults, PropertyKind, TypeTable};
use vmstate::state::{Schema, StructValue, encode};

use super::program::{Ground, Op, Place, Space};

/// Where virtual time begins, since 1970: some day in November 2026.
const BEGINNING: Duration = Duration::from_secs(1_795_535_448);
/// RAM of a device that is alone, for its DMA.
const RAM_ALONE: u64 = 64 << 10;

/// What somebody outside of the machine sees happen, or the guest gets for what it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The guest reads this.
    Read(Vec<u8>, Result<(), AccessError>),
    /// The guest's write is refused.
    Refused(AccessError),
    /// An interrupt line changes its level.
    Line {
        /// When, in nanoseconds since the beginning.
        at: u64,
        /// The input of the interrupt controllers.
        input: u32,
        /// The new level.
        level: bool,
    },
    /// The device asks something of whoever runs the machine.
    Asked(String),
    /// A back end gets bytes.
    Written(Vec<u8>),
    /// A back end is told that there is room for input.
    Room,
    /// The device takes so many bytes of input.
    Took(usize),
}

/// All around a device: what it does to that, and what it gets from there. It goes on where a state is loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outside {
    /// Nanoseconds since the beginning.
    now: u64,
    /// The levels of those inputs of the interrupt controllers that were ever driven.
    levels: BTreeMap<u32, bool>,
    /// How many bytes the back ends take.
    room: usize,
}

impl Outside {
    /// What surrounds a device at a time, in nanoseconds since the beginning, whose back ends take so many bytes.
    #[must_use]
    pub const fn new(now: u64, room: usize) -> Self {
        Self {
            now,
            levels: BTreeMap::new(),
            room,
        }
    }

    /// The time, in nanoseconds since the beginning, and how many bytes the back ends take.
    #[must_use]
    pub const fn time_and_room(&self) -> (u64, usize) {
        (self.now, self.room)
    }

    /// The inputs of the interrupt controllers that are high.
    pub fn high(&self) -> impl Iterator<Item = u32> {
        self.levels.iter().filter(|(_, level)| **level).map(|(input, _)| *input)
    }
}

/// [`Outside`], and what was seen there.
#[derive(Default)]
struct World {
    outside: Mutex<Outside>,
    /// With the number of the step.
    seen: Mutex<(usize, Vec<(usize, Seen)>)>,
}

impl World {
    fn see(&self, seen: Seen) {
        let mut log = self.seen.lock();
        let step = log.0;
        log.1.push((step, seen));
    }
}

impl IrqSink for World {
    fn set_level(&self, input: u32, level: bool) {
        let mut outside = self.outside.lock();
        let before = outside.levels.insert(input, level).unwrap_or(false);
        if before != level {
            let at = outside.now;
            self.see(Seen::Line { at, input, level });
        }
    }
}

impl MachineEvents for World {
    fn reset_requested(&self, by: &str) {
        self.see(Seen::Asked(format!("reset by {by}")));
    }

    fn shutdown_requested(&self) {
        self.see(Seen::Asked("shutdown".to_owned()));
    }

    fn guest_exited(&self, status: u8) {
        self.see(Seen::Asked(format!("exit with {status}")));
    }

    fn guest_panicked(&self) {
        self.see(Seen::Asked("panic".to_owned()));
    }

    fn guest_crash_loaded(&self) {
        self.see(Seen::Asked("crash kernel".to_owned()));
    }

    fn device_released(&self, device: &Arc<Object>) {
        self.see(Seen::Asked(format!("to take off {}", device.path())));
    }

    fn wall_clock(&self) -> Duration {
        BEGINNING + Duration::from_nanos(self.outside.lock().now)
    }
}

impl CharSink for World {
    fn try_write(&self, bytes: &[u8]) -> usize {
        let mut outside = self.outside.lock();
        let taken = bytes.len().min(outside.room);
        outside.room -= taken;
        if taken > 0 {
            self.see(Seen::Written(bytes[..taken].to_vec()));
        }
        taken
    }

    fn input_room(&self) {
        self.see(Seen::Room);
    }
}

/// Timers whose clock runs, by steps, and shows what it is outside.
fn timers_at(world: &World) -> Arc<Timers> {
    let timers = Timers::stepped();
    timers.set(world.outside.lock().now);
    timers.start();
    Arc::new(timers)
}

/// The state of one object, as it is saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedSection {
    /// The canonical path of the object.
    pub path: String,
    /// The type that describes it.
    pub description: String,
    /// The description.
    pub schema: Arc<Schema>,
    /// The state.
    pub value: StructValue,
}

impl SavedSection {
    /// The state as it is written.
    ///
    /// # Errors
    ///
    /// It is none of its description.
    pub fn bytes(&self) -> Result<Vec<u8>, String> {
        let bytes = encode(&self.schema, &self.value);
        bytes.map_err(|error| format!("{} ({}): {error}", self.path, self.description))
    }
}

/// Bytes of a page of RAM.
const PAGE: usize = 4096;

/// Pages of RAM that hold something, by their offset.
pub type Pages = BTreeMap<u64, Vec<u8>>;

/// The state of all objects of a rig.
pub type Saved = Vec<SavedSection>;

/// A device or a machine on the bench.
pub struct Rig {
    root: Arc<Object>,
    memory: AddressSpace,
    io: AddressSpace,
    ram: Arc<RamBlock>,
    world: Arc<World>,
    doorbells: Arc<Doorbells>,
    /// Whose clock shows the nanoseconds since the beginning.
    timers: Arc<Timers>,
    inputs: Vec<DeviceInput>,
    schemas: Vec<Arc<Schema>>,
    /// Where the object is that the rig is for.
    subject: String,
    board: Option<Board>,
}

impl Rig {
    /// A new object of a type and what it needs around it: a machine whole, a device alone and realized, and anything
    /// else in a tree of its own. Back ends of characters are there for every link to one.
    ///
    /// # Errors
    ///
    /// It cannot be made so; the text names the type.
    pub fn new(types: &Arc<TypeTable>, type_name: &str) -> Result<Self, String> {
        Self::amid(types, type_name, &Outside::default())
    }

    /// The same, at a time, and with back ends that have some room.
    ///
    /// # Errors
    ///
    /// As [`Self::new`].
    pub fn amid(types: &Arc<TypeTable>, type_name: &str, outside: &Outside) -> Result<Self, String> {
        Self::on_machine(types, type_name, None, outside)
    }

    /// The same, with the properties that a device has on a version of the machine; `microvm-1.1,timer=on` is that machine with an
    /// option of the device's switched on.
    ///
    /// # Errors
    ///
    /// As [`Self::new`], or there is no such machine.
    pub fn on_machine(
        types: &Arc<TypeTable>,
        type_name: &str,
        machine: Option<&str>,
        outside: &Outside,
    ) -> Result<Self, String> {
        let compat = match machine {
            None => Vec::new(),
            Some(on) => {
                let (name, option) = on.split_once(',').unzip();
                let name = name.unwrap_or(on);
                let machine = MachineType::find(types, name).ok_or_else(|| format!("there is no machine {name}"))?;
                let option = option.map(|option| format!("{type_name}.{option}").parse::<GlobalProperty>());
                let option = option.transpose().map_err(|error| error.to_string())?;
                machine.class.compat.into_iter().chain(option).collect()
            }
        };
        let defaults = PropertyDefaults::default().with_machine(compat);
        let class = types.class(type_name).map_err(|error| error.to_string())?;
        let world = Arc::new(World::default());
        *world.outside.lock() = Outside {
            levels: BTreeMap::new(),
            ..outside.clone()
        };
        let made = if class.data::<MachineClass>().is_some() {
            Self::machine(types, type_name, world)
        } else {
            Self::alone(types, type_name, &defaults, world)
        };
        let mut rig = made.map_err(|error| format!("{type_name} cannot be put on the bench: {error}"))?;
        rig.schemas = tree_schemas(&rig.root)
            .into_iter()
            .map(|section| Arc::new(section.schema))
            .collect();
        rig.root.walk(|object| {
            let inputs = device_class(object).map(|class| class.inputs(object));
            rig.inputs.extend(inputs.unwrap_or_default());
        });
        Ok(rig)
    }

    fn alone(
        types: &Arc<TypeTable>,
        type_name: &str,
        defaults: &PropertyDefaults,
        world: Arc<World>,
    ) -> Result<Self, String> {
        let text = |error: &dyn std::error::Error| error.to_string();
        let root = types.new_object("container").map_err(|error| text(&error))?;
        let subject = defaults.new_object(types, type_name).map_err(|error| text(&error))?;
        root.add_child("subject", Arc::clone(&subject))
            .map_err(|error| text(&error))?;
        let links = subject.class().properties();
        let links = links.filter(|property| *property.kind() == PropertyKind::Link(Chardev::TYPE));
        for (number, link) in links.map(|property| property.name().to_owned()).enumerate() {
            let back_end: Obj<HostChardev> = Obj::create(types).map_err(|error| text(&error))?;
            let chardev: &Chardev = back_end.object().part().expect("its parent class");
            chardev.set_sink(world.clone());
            let name = format!("back-end-{number}");
            root.add_child(&name, Arc::clone(back_end.object()))
                .map_err(|error| text(&error))?;
            subject
                .set_link(&link, Some(back_end.object()))
                .map_err(|error| text(&error))?;
        }
        let ram = RamBlock::new("ram", RAM_ALONE, Backing::PrivateAnonymous).map_err(|error| text(&error))?;
        let system = MemorySystem::new();
        let memory = MemoryRegion::container("memory", 1 << 52);
        let low = MemoryRegion::ram("ram", Arc::clone(&ram));
        memory.add_subregion(0, &low).map_err(|error| text(&error))?;
        let rig = Self {
            root,
            io: system.address_space("io", &MemoryRegion::container("io", 1 << 16)),
            memory: system.address_space("memory", &memory),
            ram,
            doorbells: Arc::default(),
            timers: timers_at(&world),
            world,
            inputs: Vec::new(),
            schemas: Vec::new(),
            subject: subject.path(),
            board: None,
        };
        if subject.part::<Device>().is_some() {
            let cx = RealizeCtx::new(&rig.memory, &rig.io, rig.world.clone(), rig.world.clone());
            let mut cx = cx.with_doorbells(&rig.doorbells).with_timers(&rig.timers);
            realize_device(&subject, &mut cx).map_err(|error| text(&error))?;
        }
        Ok(rig)
    }

    fn machine(types: &Arc<TypeTable>, type_name: &str, world: Arc<World>) -> Result<Self, String> {
        let text = |error: &dyn std::error::Error| error.to_string();
        let ram = RamBlock::new("ram", layout::MIN_RAM, Backing::PrivateAnonymous).map_err(|error| text(&error))?;
        let spec = BoardSpec {
            machine: type_name.to_owned(),
            cpus: vec![0, 1],
            ram: Arc::clone(&ram),
            types: qtest::TYPES,
            defaults: PropertyDefaults::default(),
        };
        let board = Board::build(types, &spec).map_err(|error| text(&error))?;
        board.connect_console(world.clone()).map_err(|error| text(&error))?;
        let doorbells = Arc::<Doorbells>::default();
        let timers = timers_at(&world);
        let wiring = Wiring {
            interrupts: world.clone(),
            events: world.clone(),
            doorbells: Arc::clone(&doorbells),
            timers: Arc::clone(&timers),
        };
        board.realize(&wiring).map_err(|error| text(&error))?;
        for cpu in board.cpus() {
            board.realize_cpu(cpu, &wiring).map_err(|error| text(&error))?;
        }
        Ok(Self {
            root: Arc::clone(board.root()),
            memory: board.memory().clone(),
            io: board.io().clone(),
            ram,
            world,
            doorbells,
            timers,
            inputs: Vec::new(),
            schemas: Vec::new(),
            subject: board.machine().path(),
            board: Some(board),
        })
    }

    /// The object that the rig is for.
    ///
    /// # Panics
    ///
    /// Never: it stays where it was put.
    #[must_use]
    pub fn subject(&self) -> Arc<Object> {
        self.root.resolve(&self.subject).expect("nobody takes it away")
    }

    /// The state of all objects. None of them is changed.
    ///
    /// # Errors
    ///
    /// An object refuses.
    pub fn save(&self) -> Result<Saved, String> {
        let sections = save_tree(&self.root).map_err(|error| error.to_string())?;
        let saved = sections
            .into_iter()
            .zip(&self.schemas)
            .map(|(section, schema)| SavedSection {
                path: section.path,
                description: section.description,
                schema: Arc::clone(schema),
                value: section.value,
            });
        Ok(saved.collect())
    }

    /// Loads sections, each in these bytes, and drives the lines, as a machine does that arrives.
    ///
    /// # Errors
    ///
    /// As [`load_tree`].
    pub fn load_bytes(&self, sections: &Saved, bytes: Vec<Vec<u8>>) -> Result<(), LoadTreeError> {
        let incoming = sections.iter().zip(bytes).map(|(section, bytes)| IncomingSection {
            path: section.path.clone(),
            description: section.description.clone(),
            writer_schema: Arc::clone(&section.schema),
            bytes,
        });
        self.load_sections(incoming.collect())
    }

    /// Loads sections as somebody wrote them, and drives the lines, as a machine does that arrives.
    ///
    /// # Errors
    ///
    /// As [`load_tree`].
    pub fn load_sections(&self, sections: Vec<IncomingSection>) -> Result<(), LoadTreeError> {
        load_tree(&self.root, sections, self.board.as_ref().map_or(&[], Board::moves))?;
        self.root.walk(|object| {
            if let Some(class) = device_class(object) {
                class.drive_lines(object);
            }
        });
        Ok(())
    }

    /// Loads a state that was saved.
    ///
    /// # Errors
    ///
    /// It is none, or is refused.
    pub fn load(&self, saved: &Saved) -> Result<(), String> {
        let bytes: Result<_, _> = saved.iter().map(SavedSection::bytes).collect();
        self.load_bytes(saved, bytes?).map_err(|error| error.to_string())
    }

    /// What a guest and its surroundings can reach.
    #[must_use]
    pub fn ground(&self) -> Ground {
        let mut places = Vec::new();
        for (space, of) in [(Space::Memory, &self.memory), (Space::Ports, &self.io)] {
            let view = of.view();
            let registers = view.sections().iter().filter(|section| section.ram.is_none());
            places.extend(registers.map(|section| Place {
                space,
                address: section.guest_address,
                size: section.size,
            }));
        }
        Ground {
            places,
            inputs: self.inputs.len(),
        }
    }

    /// Does the steps, the first of which has the number `first`.
    ///
    /// # Panics
    ///
    /// If the devices ring each other's doorbells without end.
    pub fn run(&self, first: usize, ops: &[Op]) {
        for (step, op) in (first..).zip(ops) {
            self.world.seen.lock().0 = step;
            self.step(op);
            // What is due by now, as what was loaded or has just been armed may be.
            self.pass(0);
            self.doorbells.quiesce().expect("doorbells come to rest");
        }
    }

    fn step(&self, op: &Op) {
        let world = &self.world;
        match op {
            Op::Read { space, address, size } => {
                let mut bytes = vec![0; *size];
                let outcome = self.space(*space).read(*address, &mut bytes);
                world.see(Seen::Read(bytes, outcome));
            }
            Op::Write { space, address, bytes } => {
                if let Err(error) = self.space(*space).write(*address, bytes) {
                    world.see(Seen::Refused(error));
                }
            }
            Op::Wait { ns } => self.pass(*ns),
            Op::Type { input, bytes } => match &self.inputs[*input] {
                DeviceInput::Characters(frontend) => world.see(Seen::Took(frontend.receive(bytes))),
                DeviceInput::Event(happens) => happens(),
            },
            Op::Room { bytes } => {
                world.outside.lock().room = *bytes;
                for frontend in self.frontends() {
                    frontend.writable();
                }
            }
            Op::Reset => reset_tree(&self.root, ResetKind::Cold),
        }
    }

    /// Has time pass, and the timers run out that are due in it.
    fn pass(&self, ns: u64) {
        let mut before = self.timers.now();
        self.timers.step(ns, |now| {
            self.world.outside.lock().now += now - before;
            before = now;
        });
    }

    fn frontends(&self) -> impl Iterator<Item = &Arc<dyn CharFrontend>> {
        self.inputs.iter().filter_map(|input| match input {
            DeviceInput::Characters(frontend) => Some(frontend),
            DeviceInput::Event(_) => None,
        })
    }

    fn space(&self, space: Space) -> &AddressSpace {
        match space {
            Space::Memory => &self.memory,
            Space::Ports => &self.io,
        }
    }

    /// Resets all devices.
    pub fn reset(&self) {
        reset_tree(&self.root, ResetKind::Cold);
    }

    /// What was seen since this was asked the last time, with the number of the step.
    #[must_use]
    pub fn take_seen(&self) -> Vec<(usize, Seen)> {
        std::mem::take(&mut self.world.seen.lock().1)
    }

    /// All around.
    #[must_use]
    pub fn outside(&self) -> Outside {
        self.world.outside.lock().clone()
    }

    /// The pages of the RAM that hold something, by their offset.
    ///
    /// # Panics
    ///
    /// If they cannot be read.
    #[must_use]
    pub fn ram(&self) -> Pages {
        let populated = self.ram.populated_ranges().expect("the system knows");
        let starts = populated.into_iter().flat_map(|range| range.step_by(PAGE));
        let pages = starts.map(|start| {
            let mut page = vec![0; PAGE];
            self.ram.read(start, &mut page).expect("all of a block can be read");
            (start, page)
        });
        pages.filter(|(_, page)| page.iter().any(|byte| *byte != 0)).collect()
    }

    /// Puts pages into the RAM of a new rig.
    ///
    /// # Panics
    ///
    /// If there are pages where there is no RAM.
    pub fn set_ram(&self, pages: &Pages) {
        for (start, page) in pages {
            self.ram.write(*start, page).expect("there is as much");
        }
    }
}
