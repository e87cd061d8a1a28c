//! Everything that a command can fail of, as a sentence for its user.

use std::{io, path::PathBuf};

use super::exit::Exit;
use crate::{
    console::ConsoleError,
    monitor::{
        client::ClientError,
        place::{PlaceError, VmAddress, VmName},
    },
    unix_socket::SocketError,
};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CliError {
    /// No such VM runs.
    #[error("there is no VM {0}; \"vm ps\" lists those that there are")]
    NoSuchVm(VmAddress),
    /// Neither a VM nor a file is called so.
    #[error("there is neither a VM nor a snapshot file {0:?}; \"vm ps\" lists the VMs that there are")]
    NoSuchVmOrFile(PathBuf),
    /// There is nothing to watch.
    #[error("no migration or snapshot of {0} is under way; \"vm info {0}\" shows how the last one went")]
    NothingUnderWay(VmAddress),
    /// A VM could not be talked to, or refused.
    #[error("{address}: {error}")]
    Vm {
        /// The VM.
        address: VmAddress,
        /// Why.
        #[source]
        error: ClientError,
    },
    /// The VM has no place for its socket.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The control socket could not be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The console could not be opened.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// Another process has the console, which only one can have.
    #[error(
        "another program has the console of {0}, and two would each get a part of what the guest writes; leave it there first (Ctrl-A X \
         where that is \"vm console\")"
    )]
    ConsoleInUse(VmAddress),
    /// What the user wrote makes no sense; a sentence with the remedy.
    #[error("{0}")]
    Usage(String),
    /// The process could not set itself up.
    #[error("cannot set up the process: {0}")]
    Process(#[source] io::Error),
    /// What the command has to say cannot be written.
    #[error("cannot write to standard output: {0}")]
    Output(#[source] io::Error),
    /// A file that the user named.
    #[error("cannot {action} {path:?}: {error}")]
    File {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// The VM could not be started, restored or made ready to receive.
    #[error("{0}")]
    Start(String),
    /// The file behind a guest's memory has changed under it.
    #[error(
        "{name} has ended, and its guest is lost: its memory is mapped from {file:?} (--verify=none), which has become shorter since, or \
         whose storage fails; restore it from a whole copy of the snapshot, which has to stay as it is as long as the guest runs, or \
         without --verify=none"
    )]
    MemoryLost {
        /// The VM.
        name: VmName,
        /// The snapshot.
        file: PathBuf,
    },
    /// A signal came before there was a guest.
    #[error("interrupted by signal {0}; nothing is left of what was begun")]
    Interrupted(u8),
    /// A VM in the foreground could not go on.
    #[error("{name} has ended: {why}")]
    VmFailed {
        /// The VM.
        name: VmName,
        /// What happened.
        why: String,
    },
    /// A migration or snapshot came to nothing.
    #[error("{what} failed: {why}; the guest is where it was")]
    NotMoved {
        /// What was tried.
        what: String,
        /// Why it failed.
        why: String,
    },
    /// The guest was handed over and never heard of.
    #[error(
        "the guest was handed over, and the receiver never said that it runs: {why}; find out which side has it, and then \"vm resolve {address} --resume\" to run it here or \"vm resolve {address} --discard\" to drop it here"
    )]
    Undecided {
        /// The VM here.
        address: VmAddress,
        /// What happened.
        why: String,
    },
    /// The demonstration did not go as it should.
    #[error("the demonstration failed while {step}: {why}")]
    Demo {
        /// What was under way.
        step: String,
        /// What went wrong.
        why: String,
    },
}

impl CliError {
    /// An error in talking to the VM at `address`.
    pub(super) fn of_vm(address: &VmAddress, error: ClientError) -> Self {
        match error {
            ClientError::NobodyThere { .. } => Self::NoSuchVm(address.clone()),
            error => Self::Vm {
                address: address.clone(),
                error,
            },
        }
    }

    pub(super) fn exit_code(&self) -> Exit {
        match self {
            Self::NoSuchVm(_) | Self::NoSuchVmOrFile(_) => Exit::NoSuchVm,
            Self::NotMoved { .. } => Exit::NotMoved,
            Self::Undecided { .. } => Exit::Undecided,
            Self::Usage(_) => Exit::Usage,
            Self::MemoryLost { .. } => Exit::MemoryLost,
            Self::Interrupted(number) => Exit::Signal(*number),
            _ => Exit::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_that_is_not_there_is_told_with_the_remedy_and_its_own_code() {
        let address: VmAddress = "a".parse().expect("a name");
        let error = CliError::of_vm(&address, ClientError::NobodyThere { path: "/x".into() });
        assert_eq!(
            error.to_string(),
            "there is no VM a; \"vm ps\" lists those that there are"
        );
        assert_eq!(error.exit_code().code(), 3);
    }

    #[test]
    fn an_undecided_hand_over_names_both_ways_out() {
        let error = CliError::Undecided {
            address: "a".parse().expect("a name"),
            why: "the wire was cut".into(),
        };
        let text = error.to_string();
        assert!(
            text.contains("vm resolve a --resume") && text.contains("vm resolve a --discard"),
            "{text}"
        );
        assert_eq!(error.exit_code().code(), 5);
    }
}
