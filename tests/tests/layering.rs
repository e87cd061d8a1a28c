//! The rooms stand in a straight line.

use std::collections::BTreeMap;

use cargo_metadata::MetadataCommand;

/// Every crate of the workspace, with how far to the right it stands.
const ORDER: &[(&str, u8)] = &[
    ("vmstate-macros", 0),
    ("vmstate", 1),
    ("hw", 2),
    ("migration", 3),
    ("vmm", 4),
    ("tern-tests", 5),
    ("tern-tools", 5),
];

#[test]
fn a_crate_imports_only_from_those_to_its_left() {
    let metadata = MetadataCommand::new().no_deps().exec().expect("cargo metadata runs");
    let order: BTreeMap<_, _> = ORDER.iter().copied().collect();
    let names: Vec<_> = metadata
        .packages
        .iter()
        .map(|package| package.name.to_string())
        .collect();
    assert_eq!(
        names.len(),
        ORDER.len(),
        "the list above is not that of the workspace: {names:?}"
    );
    for package in &metadata.packages {
        let own = order[package.name.as_str()];
        for dependency in &package.dependencies {
            if let Some(theirs) = order.get(dependency.name.as_str()) {
                // A crate that hw has as a dev-dependency and that depends on hw would register every type twice.
                assert!(*theirs < own, "{} must not depend on {}", package.name, dependency.name);
            }
        }
    }
}
