//! The monitor: how other programs, the `vm` command among them, talk to a running VM.
//!
//! It speaks QMP, the wire format of QEMU's monitor, on a unix socket that only its owner may open. A client finds the same greeting,
//! negotiation, errors and events, and commands under QEMU's names where they mean the same, and only there.
//!
//! **What QEMU has no name for begins with `x-tern-`**: commands (`x-tern-resolve`), members of replies
//! (`x-tern-listening`) and values (`x-tern-undecided`) alike. Nothing else is added to what QEMU defines.
//!
//! | file | what it does |
//! | --- | --- |
//! | `framer` | cuts the bytes of a client into JSON objects, within bounds |
//! | `qmp` | requests, replies, errors, events as JSON |
//! | `commands` | the table of commands, their arguments and what they do |
//! | `objects`, `cpu_models`, `capabilities` | commands with a subject of their own |
//! | `replies` | what the VM reports, in QMP's words |
//! | `session` | one client's conversation: negotiation, then commands |
//! | `server` | sockets and queues, on the event loop |
//! | [`place`] | names of VMs, and where their sockets are |
//! | [`client`] | the other side, as the `vm` command uses it |

mod capabilities;
pub mod client;
mod commands;
mod cpu_models;
mod framer;
mod json;
mod live_state;
mod objects;
pub mod place;
mod qmp;
mod replies;
mod server;
mod session;

pub use commands::{Argument, COMMANDS, Command, Kind};
pub use qmp::version;
pub use replies::machine_list;
pub use server::MonitorServer;
