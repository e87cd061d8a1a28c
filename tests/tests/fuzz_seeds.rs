//! What a fuzzer begins with and what it has found goes through its targets at each test, with some thousand mutations.
//! `tests/fuzz/run` goes on from there for as long as it is let.

use std::fs;
use std::path::{Path, PathBuf};

use tern_tests::compat::corpus::{FOLDER, Golden};
use tern_tests::compat::random::{self, Random};
use tern_tests::compat::releases::Releases;
use tern_tests::fuzz::{TARGETS, seeds_of, seeds_of_connections};
use tern_tests::process::Scratch;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The seeds of a target: of every golden snapshot without a guest, of connections, and what was found once.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let scratch = Scratch::new();
    let mut seeds: Vec<_> = seeds_of_connections().into();
    let releases = Releases::of_this_repository();
    for release in releases.iter() {
        let golden = Golden::all(&releases.folder_of(release).join(FOLDER)).expect("a corpus");
        for golden in golden.iter().filter(|golden| !golden.has_guest()) {
            seeds.extend(seeds_of(&fs::read(golden.unpack(&scratch)).expect("a snapshot")));
        }
    }
    let found = fs::read_dir(folder("fuzz/regressions").join(target)).into_iter();
    let found = found.flatten().flatten();
    let found = found.map(|entry| fs::read(entry.path()).expect("a finding"));
    let of_target = seeds.into_iter().filter(|(of, _)| *of == target);
    of_target.map(|(_, seed)| seed).chain(found).collect()
}

/// A seed with a few bytes changed, cut, put in or taken from elsewhere in it.
fn mutated(seed: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(4) {
        if bytes.is_empty() {
            break;
        }
        let at = random.index(bytes.len());
        match random.below(5) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.byte(),
            2 => bytes.truncate(at),
            3 => bytes.insert(at, 0xff),
            _ => bytes[at] = bytes[random.index(bytes.len())],
        }
    }
    bytes
}

#[test]
fn no_seed_and_no_mutation_of_one_breaks_a_promise() {
    for (name, target) in TARGETS {
        let seeds = seeds(name);
        let mut random = Random::new(random::seed(), name, 0);
        for seed in &seeds {
            target(seed);
        }
        for round in 0..2000 {
            let seed = seeds.get(random.index(seeds.len())).map_or(&[][..], Vec::as_slice);
            let bytes = mutated(seed, &mut random);
            let outcome = std::panic::catch_unwind(|| target(&bytes));
            assert!(outcome.is_ok(), "{name}, round {round}: {}", bytes.escape_ascii());
        }
    }
}

#[test]
fn every_target_has_seeds_a_program_and_a_place_in_the_manifest() {
    let manifest = fs::read_to_string(folder("fuzz/Cargo.toml")).expect("readable");
    for (name, _) in TARGETS {
        assert!(
            manifest.contains(&format!("name = \"{name}\"")),
            "{name} is not in tests/fuzz/Cargo.toml"
        );
        let program = fs::read_to_string(folder(&format!("fuzz/targets/{name}.rs"))).expect(name);
        assert!(program.contains(&format!("fuzz::{name}(")), "{program}");
        assert!(!seeds(name).is_empty(), "{name} has no seeds");
    }
}
