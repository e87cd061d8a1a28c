//! The lists of what Tern does about KVM: they are complete, and `docs/kvm.md` has them.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use cargo_metadata::MetadataCommand;
use hw::i386::msr::{MSRS, MsrNeed};
use hw::i386::msr_account::ACCOUNTS;
use vmm::accel::kvm::exits::{EXITS, INTERNAL_ERRORS, RUN_ERRORS, SYSTEM_EVENTS};

/// KVM's interface as the crate has it that Tern is built with.
fn bindings() -> String {
    let metadata = MetadataCommand::new()
        .manifest_path(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        // What was not needed to build this is not fetched for it either.
        .other_options(["--offline", "--filter-platform", "x86_64-unknown-linux-gnu"].map(str::to_owned))
        .exec()
        .expect("cargo knows its packages");
    let package = metadata
        .packages
        .iter()
        .find(|package| package.name.as_str() == "kvm-bindings");
    let folder = package
        .and_then(|package| package.manifest_path.parent())
        .expect("a dependency");
    std::fs::read_to_string(folder.join("src/x86_64/bindings.rs")).expect("the bindings")
}

/// The names with `prefix` that the interface gives to numbers, but for those that begin as one of `others` does.
fn named(bindings: &str, prefix: &str, others: &[&str]) -> BTreeSet<(u32, String)> {
    bindings
        .lines()
        .filter_map(|line| {
            let (name, number) = line
                .strip_prefix("pub const ")?
                .strip_suffix(';')?
                .split_once(": u32 = ")?;
            let wanted = name.starts_with(prefix) && !others.iter().any(|other| name.starts_with(other));
            Some((number.parse().ok()?, name.to_owned())).filter(|_| wanted)
        })
        .collect()
}

#[test]
fn every_number_that_kvm_names_has_its_row() {
    let bindings = bindings();
    // Not reasons themselves, but details of some.
    let details = ["KVM_EXIT_IO_", "KVM_EXIT_HYPERV_", "KVM_EXIT_XEN_"];
    let exits: BTreeSet<_> = EXITS.iter().map(|row| (row.reason, row.name.to_owned())).collect();
    assert_eq!(exits, named(&bindings, "KVM_EXIT_", &details));
    for (rows, prefix, flags) in [
        (SYSTEM_EVENTS, "KVM_SYSTEM_EVENT_", "KVM_SYSTEM_EVENT_RESET_FLAG_"),
        (
            INTERNAL_ERRORS,
            "KVM_INTERNAL_ERROR_",
            "KVM_INTERNAL_ERROR_EMULATION_FLAG_",
        ),
    ] {
        let rows: BTreeSet<_> = rows.iter().map(|row| (row.number, row.name.to_owned())).collect();
        assert_eq!(rows, named(&bindings, prefix, &[flags]));
    }
    let errors: BTreeSet<_> = RUN_ERRORS.iter().map(|row| row.errno).collect();
    assert_eq!(errors.len(), RUN_ERRORS.len());
}

fn table<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut text = format!("| {} |\n|{}\n", head.join(" | "), " --- |".repeat(N));
    for row in rows {
        writeln!(text, "| {} |", row.join(" | ")).expect("a string takes everything");
    }
    text
}

/// When a VM has a register, in words.
fn need(need: MsrNeed) -> String {
    match need {
        MsrNeed::Always => "any processor".to_owned(),
        MsrNeed::AnyOf(features) => features.join(", "),
        MsrNeed::Vendors(vendors) => {
            let names: Vec<_> = vendors
                .iter()
                .map(|vendor| String::from_utf8_lossy(&vendor[..]))
                .collect();
            names.iter().map(|name| name.trim()).collect::<Vec<_>>().join(", ")
        }
    }
}

/// The lists by the names of their places in the page.
fn lists() -> Vec<(&'static str, String)> {
    let exits = EXITS.iter().map(|row| {
        [
            row.reason.to_string(),
            row.name.to_owned(),
            row.answer.text().to_owned(),
            row.what.to_owned(),
        ]
    });
    let details = |rows: &[vmm::accel::kvm::exits::DetailRow]| {
        let rows: Vec<_> = rows
            .iter()
            .map(|row| [row.number.to_string(), row.name.to_owned(), row.what.to_owned()])
            .collect();
        table(["number", "name", "what"], rows)
    };
    let errors = RUN_ERRORS.iter().map(|row| {
        let answer = if row.goes_on { "goes on" } else { "report" };
        [row.name.to_owned(), answer.to_owned(), row.what.to_owned()]
    });
    let saved = MSRS.iter().map(|row| {
        let reason = row.reason.trim_end_matches('.').to_owned();
        [format!("{:#x}", row.index), row.name.to_owned(), need(row.need), reason]
    });
    let others = ACCOUNTS.iter().map(|account| {
        let numbers = if account.first == account.last {
            format!("{:#x}", account.first)
        } else {
            format!("{:#x} to {:#x}", account.first, account.last)
        };
        let fate = account.fate.text().to_owned();
        [numbers, account.name.to_owned(), fate, account.reason.to_owned()]
    });
    vec![
        (
            "saved registers",
            table(["number", "name", "where the VM has", "what"], saved),
        ),
        ("other registers", table(["number", "name", "fate", "why"], others)),
        ("exits", table(["number", "name", "answer", "how"], exits)),
        ("system events", details(SYSTEM_EVENTS)),
        ("internal errors", details(INTERNAL_ERRORS)),
        ("run errors", table(["error", "answer", "what"], errors)),
    ]
}

/// The page with its lists written anew.
fn with_lists(page: &str) -> String {
    let mut page = page.to_owned();
    for (name, list) in lists() {
        let begin = format!("<!-- {name} -->\n");
        let from = page
            .find(&begin)
            .unwrap_or_else(|| panic!("the page has no place for {name}"))
            + begin.len();
        let to = from + page[from..].find("<!-- end -->").expect("a place has an end");
        page.replace_range(from..to, &list);
    }
    page
}

#[test]
fn the_page_has_the_lists() {
    let place: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/kvm.md");
    let page = std::fs::read_to_string(&place).expect("the page");
    let wanted = with_lists(&page);
    if std::env::var_os("TERN_WRITE_LISTS").is_some() {
        std::fs::write(&place, &wanted).expect("written");
        return;
    }
    assert!(
        page == wanted,
        "docs/kvm.md is behind; TERN_WRITE_LISTS=1 cargo test -p tern-tests --test kvm_lists writes it anew"
    );
}
