//! The state-compatibility suite: what holds Tern to its promise that whatever a release saved loads in every later one.
//!
//! What was released lies in `tests/compat/`, a folder for each release, and never changes:
//!
//! | module | what it does |
//! | --- | --- |
//! | [`releases`] | reads the list of releases, and sees that nothing of them has changed |
//! | [`machine`] | makes a machine with everything that can have state, and tells its shape |
//! | [`shape`] | what of a machine's shape may change |
//! | [`lock`] | the schemas of a release, held against those of this program |
//! | [`corpus`] | the snapshots of a release: makes them, and brings them back |
//! | [`accepted`] | the states that a release accepted, made by [`deviations`]: whether this program accepts them |
//! | [`structures`] | what KVM is given for those states |
//! | [`mod@format`] | where the parts of a file lie, how much a reader takes |
//! | [`versions`] | the programs of a release, and of a future one that is made of patches |
//! | [`sample`] | extreme values of a schema, for tests that ask what loads |
//!
//! What a device does with its state is shown on a [`rig`]: any device alone, or a whole machine, with virtual time and
//! without processors. [`conformance`] gives it random legal states ([`values`]) and damaged ones; [`split_run`] does what
//! a guest could do ([`program`]) with a save and a load in the middle; [`forgotten`] has each field of the state lost on
//! that way, and wants somebody to notice.

pub mod accepted;
pub mod behaviour;
pub mod conformance;
pub mod corpus;
pub mod deviations;
pub mod forgotten;
pub mod format;
pub mod lock;
pub mod machine;
pub mod program;
pub mod random;
pub mod releases;
pub mod rig;
pub mod sample;
pub mod shape;
pub mod split_run;
pub mod structures;
pub mod values;
pub mod versions;
