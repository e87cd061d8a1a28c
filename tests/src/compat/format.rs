//! What other versions rely on in Tern's files and streams, and no schema says: where the parts of a file lie, how much a reader takes, how long
//! a peer waits. A release keeps it.

use std::fs;
use std::path::Path;

use migration::promises::{May, numbers};
use migration::snapshot::places;
use serde_json::{Value as Json, json};

/// The file of a release that has it.
pub const FILE: &str = "format.json";

/// What it is in this program.
#[must_use]
pub fn format() -> Json {
    json!({ "numbers": numbers_here(), "layouts": layouts() })
}

fn numbers_here() -> Json {
    let number = |number: &migration::promises::Number| {
        let may = match number.may {
            May::Stay => "stay",
            May::Grow => "grow",
            May::Shrink => "shrink",
        };
        json!({ "name": number.name, "value": number.value, "may": may })
    };
    numbers().iter().map(number).collect()
}

/// Where files with blocks of many sizes have their parts.
fn layouts() -> Json {
    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;
    let blocks: [&[u64]; 12] = [
        &[],
        &[4 * MIB, 64 * KIB, 4 * KIB],
        &[2 * MIB - 4 * KIB, 2 * MIB, 2 * MIB + 4 * KIB],
        &[33 * MIB, 12 * MIB, 40 * MIB, 4 * KIB],
        &[128 * MIB, 12 * MIB, 4 * KIB],
        &[GIB - 4 * KIB, 4 * KIB],
        &[GIB, 12 * MIB, 40 * MIB, 4 * KIB],
        &[GIB + 2 * MIB, 64 * KIB, 4 * KIB],
        &[3 * GIB, 4 * KIB],
        &[5 * GIB + 4 * KIB, 12 * MIB, 4 * KIB],
        &[64 * GIB, 12 * MIB, GIB, 4 * KIB],
        &[1024 * GIB, 4 * KIB],
    ];
    let ends = [16, 4096, 100_001, 2 * MIB, 2 * MIB + 1, GIB + 5];
    let layout = |records_end: u64, sizes: &[u64]| {
        let (offsets, index) = places(records_end, sizes).expect("a file can be so long");
        json!({ "records-end": records_end, "sizes": sizes, "offsets": offsets, "index": index })
    };
    let layouts = blocks.iter().flat_map(|sizes| ends.map(|end| layout(end, sizes)));
    layouts.collect()
}

/// Leaves it in a release's folder.
///
/// # Errors
///
/// The file cannot be written.
pub fn make(folder: &Path) -> Result<(), String> {
    let path = folder.join(FILE);
    fs::write(&path, format!("{:#}\n", format())).map_err(|error| format!("{}: {error}", path.display()))
}

/// What of a release's format another program cannot go by, whose format is `here`.
#[must_use]
pub fn breaks(released: &Json, here: &Json) -> Vec<String> {
    let list = |format: &Json, name: &str| format[name].as_array().cloned().unwrap_or_default();
    let mut breaks = Vec::new();
    let numbers = list(here, "numbers");
    for was in list(released, "numbers") {
        let is = numbers.iter().find(|number| number["name"] == was["name"]);
        let value = |number: &Json| number["value"].as_u64();
        let holds = match was["may"].as_str() {
            Some("grow") => is.and_then(value) >= value(&was),
            Some("shrink") => is.and_then(value).is_some_and(|is| Some(is) <= value(&was)),
            _ => is.and_then(value) == value(&was),
        };
        if !holds {
            breaks.push(format!(
                "{}: was {}, is {}, and may {}",
                was["name"],
                was["value"],
                is.map_or(&Json::Null, |number| &number["value"]),
                was["may"]
            ));
        }
    }
    let layouts = list(here, "layouts");
    for was in list(released, "layouts") {
        let is_same = |is: &&Json| ["records-end", "sizes"].iter().all(|key| is[key] == was[key]);
        let is = layouts.iter().find(is_same);
        if is != Some(&was) {
            breaks.push(format!(
                "the layout of a file: was {was}, is {}",
                is.unwrap_or(&Json::Null)
            ));
        }
    }
    breaks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_may_not_change_so_is_a_break_and_one_that_may_is_none() {
        let here = format();
        assert_eq!(breaks(&here, &here), [""; 0]);
        let with = |name: &str, change: fn(u64) -> u64| {
            let mut there = here.clone();
            let numbers = there["numbers"].as_array_mut().expect("a list");
            let number = numbers
                .iter_mut()
                .find(|number| number["name"] == name)
                .expect("it is there");
            number["value"] = change(number["value"].as_u64().expect("a number")).into();
            breaks(&here, &there)
        };
        let (more, less) = (|value| value + 1, |value| value - 1);
        for (name, more_is_one, less_is_one) in [
            ("blocks of RAM", false, true),
            ("between signs of life", true, false),
            ("runs of pages in a RAM record", true, true),
            ("kind of manifest", true, true),
        ] {
            assert_eq!(with(name, more).len(), usize::from(more_is_one), "{name}");
            assert_eq!(with(name, less).len(), usize::from(less_is_one), "{name}");
        }
        let mut moved = here.clone();
        moved["layouts"][30]["index"] = 1.into();
        let found = breaks(&here, &moved);
        assert!(
            found.len() == 1 && found[0].starts_with("the layout of a file"),
            "{found:?}"
        );
        let none = json!({});
        assert_eq!(breaks(&here, &none).len(), numbers().len() + 72);
    }
}
