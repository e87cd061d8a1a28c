//! The documentation opens at `target/doc/vmm/index.html`, names the five layers, and leads nowhere in vain.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The crates whose pages are looked at.
const CRATES: &[&str] = &["vmstate", "hw", "migration", "vmm", "tern_tests", "tern_tools"];

fn build() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["doc", "--workspace", "--no-deps", "--quiet"])
        .current_dir(&root)
        .status()
        .expect("cargo runs");
    assert!(status.success(), "the documentation does not build");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    target.join("doc")
}

fn pages(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder of pages") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            pages(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "html") {
            found.push(path);
        }
    }
}

/// The local targets of a page's links, without fragments.
fn links(page: &str) -> impl Iterator<Item = &str> {
    page.split("href=\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .map(|link| link.split(['#', '?']).next().unwrap_or_default())
        // A page of rustdoc has a script in it that makes links of its own.
        .filter(|link| !link.is_empty() && !link.contains("://") && !link.contains("${"))
}

#[test]
fn every_layer_is_named_and_linked_and_no_link_leads_nowhere() {
    let doc = build();
    let index = std::fs::read_to_string(doc.join("vmm/index.html")).expect("the entrance");
    for layer in CRATES.iter().filter(|name| **name != "vmm") {
        assert!(
            links(&index).any(|link| link == format!("../{layer}/index.html")),
            "the entrance does not lead to {layer}"
        );
    }
    let mut found = Vec::new();
    for name in CRATES {
        pages(&doc.join(name), &mut found);
    }
    let mut broken = BTreeSet::new();
    for page in &found {
        let text = std::fs::read_to_string(page).expect("a page");
        let folder = page.parent().expect("a page is in a folder");
        for link in links(&text).filter(|link| !folder.join(link).exists()) {
            broken.insert(format!("{} -> {link}", page.display()));
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere:\n{broken:#?}");
}

#[test]
fn every_file_that_the_documents_name_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for document in ["ARCHITECTURE.md", "README.md"] {
        let text = std::fs::read_to_string(root.join(document)).expect("a document");
        for name in text.split('`').skip(1).step_by(2) {
            let is_path = name.contains('/') && name.ends_with(".rs") && !name.contains(char::is_whitespace);
            assert!(
                !is_path || root.join(name).exists(),
                "{document} names {name}, which is not there"
            );
        }
    }
}

/// The device is compiled, and its test runs, with those of `hw`.
#[test]
fn the_device_of_the_guide_is_the_one_that_is_tested() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let guide = std::fs::read_to_string(root.join("docs/add-a-device.md")).expect("the guide");
    let mut blocks = guide.split("```rust\n").skip(1);
    let block = blocks
        .next()
        .and_then(|rest| rest.split("```").next())
        .expect("a device");
    assert_eq!(blocks.count(), 0, "what else it has in Rust is compiled by nobody");
    let file = "hw/src/misc/mailbox.rs";
    assert!(guide.contains(&format!("`{file}`")), "the guide names the file");
    let compiled = std::fs::read_to_string(root.join(file)).expect("the device");
    assert!(
        block == compiled,
        "the block of docs/add-a-device.md and {file} differ; make them the same"
    );
    let mods = std::fs::read_to_string(root.join("hw/src/misc/mod.rs")).expect("the room");
    assert!(mods.contains("pub mod mailbox;"), "{file} is compiled");
}

/// Every Rust source below `folder`, as one text.
fn sources(folder: &Path, text: &mut String) {
    for entry in std::fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&std::fs::read_to_string(path).expect("a source"));
        }
    }
}

#[test]
fn every_obligation_of_the_object_model_names_tests_that_there_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut text = String::new();
    for layer in ["vmstate", "hw", "migration", "vmm", "tests"] {
        sources(&root.join(layer), &mut text);
    }
    let page = std::fs::read_to_string(root.join("docs/object-model.md")).expect("the page");
    let rows = page
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| ---"));
    // The first row of a table is its head.
    let rows: Vec<_> = rows.filter(|row| !row.starts_with("| obligation")).collect();
    assert!(rows.len() > 20, "the page has {} obligations", rows.len());
    for row in rows {
        let (_, tests) = row.trim_end_matches(" |").rsplit_once(" | ").expect("two columns");
        let tests: Vec<_> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "no test: {row}");
        for test in tests {
            assert!(text.contains(&format!("fn {test}()")), "there is no test {test}: {row}");
        }
    }
}
