//! `#[derive(Object)]` from outside of vmstate: what a device's author sees.

#![forbid(unsafe_code)]

use std::sync::Arc;

use vmstate::qom::{
    Class, Config, Container, Link, Obj, Object, ObjectPart, Phase, PropertyError, PropertyValue, StateDecl, TypeKind,
    TypeTable,
};

/// What a reset does to a device of the family.
#[derive(Clone, Default)]
struct ChipClass {
    revision: u8,
    describe: Option<fn(&Chip) -> String>,
}

const TYPE_RESETTABLE: &str = "resettable";

#[derive(Object)]
#[object(name = "resettable", interface)]
struct Resettable;

#[derive(Object)]
#[object(name = "chip", abstract, interfaces = [TYPE_RESETTABLE], stateless, class_data = ChipClass)]
struct Chip {
    #[config(property, default = 0x60, min = 0x10, max = 0x3ff, description = "first port")]
    io_base: Config<u16>,
    #[config(property, size)]
    buffer: Config<Option<u64>>,
    #[config(link, description = "who is told")]
    peer: Link<Chip>,
    #[config]
    shape: std::sync::OnceLock<String>,
    #[runtime(reason = "for the test alone", init = 7)]
    handle: u32,
    #[derived(reason = "counts for the log only")]
    accesses: std::sync::atomic::AtomicU64,
}

#[derive(Object)]
#[object(name = "chip-b", parent = Chip, stateless, class_init = chip_b, phase = Machine)]
struct ChipB {}

fn chip_b(class: &mut Class) {
    if let Some(data) = class.data_mut::<ChipClass>() {
        data.revision = 2;
        data.describe = Some(|chip| format!("b at {:#x}", chip.io_base.get()));
    }
}

#[derive(Object)]
#[object(name = "stuck", unmigratable = "it holds a file lock of this host")]
struct Stuck {}

fn types() -> Arc<TypeTable> {
    TypeTable::gathered().expect("the declarations fit together")
}

#[test]
fn a_type_declared_in_any_linked_crate_is_gathered_in_its_phase() {
    let declared = |phase: Phase| phase.declared().into_iter().map(|info| info.name).collect::<Vec<_>>();
    assert_eq!(declared(Phase::Qom), ["chip", "resettable", "stuck"]);
    assert_eq!(declared(Phase::Machine), ["chip-b"]);
    let names: Vec<_> = types().names().collect();
    assert_eq!(
        names,
        [
            "chip",
            "chip-b",
            "container",
            "object",
            "resettable",
            "stuck",
            "user-creatable"
        ]
    );
}

#[test]
fn the_declaration_says_what_the_attributes_say() {
    let chip = types().info("chip").copied().expect("declared");
    assert_eq!(
        (chip.kind, chip.parent, chip.interfaces),
        (TypeKind::Abstract, Some("object"), &["resettable"][..])
    );
    assert!(chip.declared_at.contains("derive_object.rs:"), "{}", chip.declared_at);
    assert_eq!(ChipB::type_info().parent, Some("chip"));
    assert_eq!(Resettable::type_info().kind, TypeKind::Interface);
    assert!(matches!(
        Stuck::type_info().state,
        StateDecl::Unmigratable("it holds a file lock of this host")
    ));
}

#[test]
fn fields_start_as_declared_and_virtual_methods_are_found_through_class_data() {
    let chip = Obj::<ChipB>::create(&types()).expect("concrete");
    let part = chip.object().part::<Chip>().expect("inherited");
    assert_eq!((part.io_base.get(), part.buffer.get(), part.handle), (0x60, None, 7));
    assert!(part.shape.get().is_none() && part.accesses.load(std::sync::atomic::Ordering::Relaxed) == 0);
    let class = chip.object().class().data::<ChipClass>().expect("inherited");
    assert_eq!(
        (class.revision, class.describe.map(|describe| describe(part))),
        (2, Some("b at 0x60".to_owned()))
    );
    assert!(chip.object().is_a("resettable"));
}

#[test]
fn properties_carry_ranges_defaults_and_descriptions() {
    let chip = types().new_object("chip-b").expect("concrete");
    let all: Vec<_> = chip
        .properties()
        .into_iter()
        .map(|property| (property.name, property.type_name))
        .collect();
    let expected = [("buffer", "size"), ("io-base", "uint16"), ("peer", "link<chip>")];
    assert_eq!(all, expected.map(|(name, ty)| (name.to_owned(), ty.to_owned())));
    let io_base = chip.properties().swap_remove(1);
    assert_eq!(
        (io_base.default, io_base.description),
        (Some(PropertyValue::Uint(0x60)), "first port")
    );
    chip.set_property_str("io-base", "0x3f8").expect("in range");
    chip.set_property_str("buffer", "64K").expect("a size");
    assert_eq!(chip.property("io-base"), Ok(PropertyValue::Uint(0x3f8)));
    assert_eq!(chip.property("buffer"), Ok(PropertyValue::Uint(64 << 10)));
    let error = chip
        .set_property("io-base", PropertyValue::Uint(0x400))
        .expect_err("out of range");
    assert_eq!(
        error.to_string(),
        "'1024' is not a value for property 'io-base' of /: give a number from 16 to 1023"
    );
}

#[test]
fn links_lead_to_objects_of_their_type_and_do_not_keep_them() {
    let types = types();
    let root = types.new_object("container").expect("concrete");
    let [a, b] = ["a", "b"].map(|name| {
        let chip = Obj::<ChipB>::create(&types).expect("concrete");
        root.add_child(name, chip.clone()).expect("free");
        chip
    });
    a.object().set_property_str("peer", "/b").expect("there");
    let peer = || a.object().part::<Chip>().and_then(|chip| chip.peer.get());
    assert!(peer().is_some_and(|peer| Arc::ptr_eq(peer.object(), b.object())));
    assert_eq!(
        a.object().property("peer"),
        Ok(PropertyValue::Link(Some("/b".to_owned())))
    );
    let wrong = a.object().set_property_str("peer", "/").expect_err("a container");
    assert_eq!(
        wrong.to_string(),
        "property 'peer' of /a cannot link to /: that is a container, not a chip"
    );
    let nowhere = a.object().set_property_str("peer", "/c").expect_err("nothing there");
    assert!(matches!(nowhere, PropertyError::NoTarget { .. }), "{nowhere}");
    b.object().unparent();
    drop(b);
    assert!(peer().is_none());
    assert_eq!(a.object().property("peer"), Ok(PropertyValue::Link(None)));
}

#[test]
fn a_handle_knows_its_part_and_only_that() {
    let container = types().new_object(Container::TYPE).expect("concrete");
    assert!(Obj::<Container>::new(Arc::clone(&container)).is_some());
    assert!(Obj::<Chip>::new(Arc::<Object>::clone(&container)).is_none());
}
