//! What users add to a VM and set of it is what it has elsewhere, whatever the other side's defaults are.

use hw::core::{HotplugHandlerClass, MachineEvents as _};
use hw::i386::microvm::MicroVm11;
use migration::snapshot::{SaveOptions, Snapshot, save};
use migration::vm::{DestinationFactory as _, Offer, Property, RamSource, Setting, UserObject};
use parking_lot::Mutex;
use vmstate::qom::{Class, Config, Object, ObjectPart as _, PropertyValue};

use super::*;
use crate::control::{Event, EventSink};
use crate::test_support::TempDir;

fn vm() -> Arc<Vm> {
    vm_of(TypeTable::gathered().expect("sound types"), None)
}

fn vm_of(types: Arc<TypeTable>, machine: Option<&str>) -> Arc<Vm> {
    let host = Host::without_processors(types);
    let mut spec = VmSpec {
        memory: 8 << 20,
        ..VmSpec::new("test", "")
    };
    if let Some(machine) = machine {
        machine.clone_into(&mut spec.machine);
    }
    let vm = Vm::create(&host, &spec, Arc::default()).expect("made");
    vm.start().expect("runs");
    vm
}

/// A VM with a device that its user has left as it is, and what its snapshot says of it.
fn offer() -> Offer {
    let vm = vm();
    vm.add_device("tern-testdev", Some("box"), Vec::new()).expect("added");
    let folder = TempDir::new();
    let file = folder.path().join("a.tern");
    save(&*vm, &file, &SaveOptions::default(), &()).expect("saves");
    Snapshot::open(&file).expect("a snapshot").offer()
}

fn build(offer: &Offer) -> Result<Arc<Vm>, String> {
    let factory = Factory::without_processors(TypeTable::gathered().expect("sound types"));
    let built = factory
        .build(offer, RamSource::Fresh)
        .map_err(|error| error.to_string())?;
    Ok(Arc::clone(built.vm()))
}

fn iobase(vm: &Vm) -> PropertyValue {
    let device = vm.root().resolve("/machine/peripheral/box").expect("it is there");
    device.property("iobase").expect("known")
}

fn set(properties: &mut [Property], name: &str, value: &str) {
    let property = properties.iter_mut().find(|one| one.name == name).expect("known");
    value.clone_into(&mut property.value);
}

/// The inventory's entry of an object.
fn entry<'a>(offer: &'a mut Offer, path: &str) -> &'a mut Vec<Property> {
    let objects = offer.inventory.objects.iter_mut();
    &mut objects
        .into_iter()
        .find(|object| object.path == path)
        .expect("listed")
        .properties
}

#[test]
fn the_defaults_of_the_version_that_a_device_comes_from_go_with_it() {
    let mut offer = offer();
    let here = iobase(&build(&offer).expect("as it was"));
    // A Tern whose devices of this type are elsewhere unless somebody says so, and have a property more.
    let UserObject {
        properties, in_effect, ..
    } = &mut offer.recipe.objects[0];
    assert_eq!(*properties, []);
    let in_effect = in_effect.as_mut().expect("told");
    set(in_effect, "iobase", "232");
    in_effect.push(Property {
        name: "of-another-version".to_owned(),
        value: "1".to_owned(),
    });
    set(entry(&mut offer, "/machine/peripheral/box"), "iobase", "232");
    let vm = build(&offer).expect("it can be had");
    assert_ne!(here, PropertyValue::Uint(232));
    assert_eq!(iobase(&vm), PropertyValue::Uint(232));
    let again = vm.recipe().objects[0].in_effect.clone().expect("told");
    assert!(
        again.iter().any(|one| one.name == "iobase" && one.value == "232"),
        "{again:?}"
    );
}

#[test]
fn a_machine_that_would_be_another_one_is_refused_before_anything_moves() {
    let offer = offer();
    let refused = |change: &dyn Fn(&mut Offer)| {
        let mut offer = offer.clone();
        change(&mut offer);
        build(&offer).err().expect("refused")
    };
    // The defaults of an older Tern, which did not tell.
    let error = refused(&|offer| {
        offer.recipe.objects[0].in_effect = None;
        set(entry(offer, "/machine/peripheral/box"), "iobase", "232");
    });
    assert!(
        error.contains("/machine/peripheral/box: its iobase is 232 where it comes from, and "),
        "{error}"
    );
    let error = refused(&|offer| set(entry(offer, "/machine/serial0"), "irq", "3"));
    assert_eq!(error, "/machine/serial0: its irq is 3 where it comes from, and 4 here");
    let error = refused(&|offer| {
        let objects = offer.inventory.objects.iter_mut();
        let rtc = objects
            .into_iter()
            .find(|object| object.path == "/machine/rtc")
            .expect("listed");
        "ds1287".clone_into(&mut rtc.type_name);
    });
    assert_eq!(
        error,
        "/machine/rtc: it is a ds1287 where it comes from, and a mc146818rtc here"
    );
    let error = refused(&|offer| offer.schemas.retain(|section| section.path != "/machine/serial0"));
    assert!(
        error.contains("holds no state of /machine/serial0 (serial16550)"),
        "{error}"
    );
    let error = refused(&|offer| drop(offer.recipe.objects.remove(0)));
    assert!(
        error.contains("holds state of /machine/peripheral/box (tern-testdev)"),
        "{error}"
    );
}

#[test]
fn devices_without_an_id_keep_their_numbers_and_what_is_gone_stays_so() {
    let vm = vm();
    let add = |type_name: &str, id: Option<&str>| vm.add_device(type_name, id, Vec::new());
    for id in ["s[1]", "", "1st", "a b", "/machine/x"] {
        let error = add("tern-testdev", Some(id)).expect_err("no id").to_string();
        assert!(
            error.starts_with(&format!("'{id}' cannot be the name of an object")),
            "{error}"
        );
    }
    let error = vm.delete_device("/machine/serial0").expect_err("it stays").to_string();
    assert_eq!(error, "/machine/serial0 cannot be unplugged: it is part of the board");
    add("tern-testdev", Some("box")).expect("added");
    vm.delete_device("box").expect("it goes");
    assert_eq!(vm.recipe_now().objects, []);
}

/// A machine whose guest has to be asked before a device goes, and that takes off all devices but the one called `kept`.
#[derive(Object)]
#[object(name = "microvm-asking", parent = MicroVm11, stateless, unregistered, class_init = asks_first)]
struct AsksFirst {}

fn asks_first(class: &mut Class) {
    let data = class.data_mut::<HotplugHandlerClass>().expect("of the interface");
    data.unplug_request = Some(|_, _| Ok(()));
    data.unplug = Some(|_, device| match device.name().as_str() {
        "kept" => Err("it stays".to_owned()),
        _ => Ok(()),
    });
}

#[derive(Default)]
struct Heard(Mutex<Vec<Event>>);

impl EventSink for Heard {
    fn event(&self, event: &Event) {
        self.0.lock().push(event.clone());
    }
}

#[test]
fn a_device_that_the_guest_was_asked_for_goes_when_it_has_let_go() {
    let types = TypeTable::gathered().expect("sound types");
    let of_every_table = ["object", "container", "user-creatable"];
    let infos = types.infos().filter(|info| !of_every_table.contains(&info.name));
    let types = TypeTable::build(infos.chain([AsksFirst::type_info()])).expect("sound types");
    let vm = vm_of(types, Some("microvm-asking"));
    let heard = Arc::<Heard>::default();
    vm.status().events.subscribe(heard.clone());
    let add = |id| vm.add_device("tern-testdev", Some(id), Vec::new()).expect("added");
    let release = |id: &str| {
        let device = vm
            .root()
            .resolve(&format!("/machine/peripheral/{id}"))
            .expect("it is there");
        vm.requests.device_released(&device);
    };
    let left = || {
        vm.recipe_now()
            .objects
            .into_iter()
            .map(|object| object.path)
            .collect::<Vec<_>>()
    };
    add("box");
    vm.delete_device("box").expect("the guest is asked");
    assert_eq!(
        left(),
        ["/machine/peripheral/box"],
        "it is there until the guest lets go"
    );
    release("box");
    vm.serve_request();
    assert_eq!(left(), [""; 0]);

    // What the guest did up to its last instruction before a pause has been done when it stands still.
    add("late");
    vm.delete_device("late").expect("the guest is asked");
    release("late");
    vm.stop().expect("stops");
    assert_eq!(left(), [""; 0]);
    vm.cont().expect("goes on");

    // Whoever sends or saves the machine has described it with the device.
    add("sent");
    vm.delete_device("sent").expect("the guest is asked");
    let whole = vm.keep_whole();
    release("sent");
    release("sent");
    vm.serve_request();
    vm.stop().expect("stops");
    assert_eq!(left(), ["/machine/peripheral/sent"]);
    drop(whole);
    vm.cont().expect("goes on");
    vm.serve_request();
    assert_eq!(left(), [""; 0]);

    add("kept");
    vm.delete_device("kept").expect("the guest is asked");
    release("kept");
    vm.serve_request();
    assert_eq!(left(), ["/machine/peripheral/kept"]);
    let told = |id: &str| (Some(id.to_owned()), format!("/machine/peripheral/{id}"));
    let of_devices: Vec<_> = heard
        .0
        .lock()
        .iter()
        .filter_map(|event| match event {
            Event::DeviceDeleted { device, path } => Some((true, (device.clone(), path.clone()))),
            Event::DeviceStays { device, path } => Some((false, (device.clone(), path.clone()))),
            _ => None,
        })
        .collect();
    assert_eq!(
        of_devices,
        [
            (true, told("box")),
            (true, told("late")),
            (true, told("sent")),
            (false, told("kept"))
        ]
    );
}

/// An object with a property that can be set while the object is in use, which none of this release has.
#[derive(Object)]
#[object(name = "tuned", stateless, unregistered)]
struct Tuned {
    #[config(property, live)]
    tune: Config<u8>,
    #[config(property, default = 7)]
    fixed: Config<u8>,
}

#[test]
fn what_was_set_of_an_object_in_use_is_told_as_it_is_now() {
    let types = TypeTable::build([Tuned::type_info()]).expect("sound");
    let root = types.new_object("container").expect("concrete");
    let mut changes = devices::Changes::default();
    for name in ["board", "a", "b"] {
        let object = types.new_object("tuned").expect("concrete");
        root.add_child(name, Arc::clone(&object)).expect("free");
        object.freeze();
        if name != "board" {
            changes.added(object.path(), Vec::new());
        }
    }
    let property = |name: &str, value: &str| Property {
        name: name.to_owned(),
        value: value.to_owned(),
    };
    for (path, value) in [("/board", 3), ("/b", 4), ("/b", 5)] {
        root.resolve(path)
            .expect("there")
            .set_property("tune", value)
            .expect("live");
        changes.set(path.to_owned(), "tune");
    }
    let setting = |path: &str, value: &str| Setting {
        path: path.to_owned(),
        property: property("tune", value),
    };
    assert_eq!(changes.settings(&root), [setting("/b", "5"), setting("/board", "3")]);
    root.resolve("/a").expect("there").unparent();
    let b = UserObject {
        type_name: "tuned".to_owned(),
        path: "/b".to_owned(),
        properties: vec![],
        in_effect: Some(vec![property("fixed", "7")]),
    };
    assert_eq!(changes.objects(&root), [b], "what is gone is not told");
}

#[test]
fn what_was_set_of_an_object_in_use_is_set_where_it_goes_or_refused() {
    let mut offer = offer();
    let setting = |path: &str, value: &str| Setting {
        path: path.to_owned(),
        property: Property {
            name: "irq".to_owned(),
            value: value.to_owned(),
        },
    };
    offer.recipe.settings = Some(vec![setting("/machine/serial0", "3")]);
    let error = build(&offer)
        .err()
        .expect("no property of this release can be set in use");
    assert!(
        error.contains("property 'irq' of /machine/serial0 can no longer be set"),
        "{error}"
    );
    offer.recipe.settings = Some(vec![setting("/machine/serial9", "3")]);
    let error = build(&offer).err().expect("there is none");
    assert!(error.contains("this machine has no /machine/serial9"), "{error}");
}
