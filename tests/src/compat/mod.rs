//! The state-compatibility suite: what holds Tern to its promise that whatever a release saved loads in every later one.
//!
//! What was released lies in `tests/compat/`, a folder for each release, and never changes:
//!
//! | module | what it does |
//! | --- | --- |
//! | [`releases`] | reads the list of releases, and sees that nothing of them has changed |
//! | [`machine`] | makes a machine with everything that can have state |
//! | [`lock`] | the schemas of a release, held against those of this program |
//! | [`corpus`] | the snapshots of a release: makes them, and brings them back |
//! | [`sample`] | extreme values of a schema, for tests that ask what loads |

pub mod corpus;
pub mod lock;
pub mod machine;
pub mod releases;
pub mod sample;
