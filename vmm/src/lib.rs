//! The Tern virtual machine monitor: a VMM on KVM that is built around snapshots and live migration.
//!
//! A virtual machine is a tree of objects plus RAM. Saving, restoring and moving it are one operation, *transfer*, with
//! different endpoints. Tern is five layers in a straight line; each knows only those above it in this table.
//!
//! | layer | what it is |
//! | --- | --- |
//! | [`vmstate`](../vmstate/index.html) | the **object model** ([`qom`](../vmstate/qom/index.html): types, objects, properties, the tree) and the **state descriptions** ([`state`](../vmstate/state/index.html): what of an object travels, as data) |
//! | [`hw`](../hw/index.html) | **what a guest sees**: the memory map ([`memory`](../hw/memory/index.html)), devices ([`core`](../hw/core/index.html)), the machine ([`i386::microvm`](../hw/i386/microvm/index.html)) |
//! | [`migration`](../migration/index.html) | **transfer**: records and phases, snapshot files ([`snapshot`](../migration/snapshot/index.html)), live migration ([`precopy`](../migration/precopy/index.html)) |
//! | [`vmm`](crate) | this crate: **what runs a guest and what people touch** |
//! | [`tests`](../tern_tests/index.html), [`tools`](../tern_tools/index.html) | **what holds it to its word**: black-box tests, the benchmark |
//!
//! A newcomer's way: [`vm::Vm`] is a board with an accelerator; [`Board`](../hw/i386/microvm/struct.Board.html) is its tree;
//! [`SourceVm`](../migration/vm/trait.SourceVm.html) is all that a transfer needs of it. `ARCHITECTURE.md` tells the ways through the house
//! (a register write, a dirty page, a field of state) with the files that they pass, and the order of locks.
//!
//! In this crate:
//!
//! | module | what it does |
//! | --- | --- |
//! | [`accel`] | the accelerators: [`accel::kvm`], and [`accel::qtest`] without processors |
//! | [`vm`] | the VM as a value: assembly, life cycle, source and destination of transfers |
//! | [`boot`] | what a guest boots from, and PVH |
//! | [`instance`] | a named place for one VM: the jobs that take long, and their account |
//! | [`control`], [`run_state`], [`migration_info`] | the seam between a VM and its faces |
//! | [`monitor`] | QMP on a private socket |
//! | [`cli`] | the command `vm` |
//! | [`console`], [`terminal`] | the guest's console |
//! | [`event_loop`], [`timers`], [`clock`], [`signals`] | the main loop |
//! | [`guest`] | the embedded guest |

pub mod accel;
pub mod boot;
pub mod cli;
pub mod clock;
pub mod console;
pub mod control;
pub mod event_loop;
#[cfg(test)]
mod fake_vm;
pub mod guest;
pub mod instance;
#[cfg(test)]
#[path = "../../tests/src/kvm.rs"]
mod kvm_turn;
pub mod migration_info;
pub mod monitor;
pub mod run_state;
pub mod signals;
pub mod terminal;
#[cfg(test)]
mod test_support;
pub mod timers;
pub mod unix_socket;
pub mod vm;
