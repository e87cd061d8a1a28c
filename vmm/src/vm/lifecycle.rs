//! Start, pause, resume, reset, end: who may do what when, one at a time.

use hw::core::{Machine, ResetKind, device_class, reset_tree};
use hw::timer::clock::TimePolicy;
use parking_lot::MutexGuard;
use thiserror::Error;

use super::Vm;
use super::requests::Request;
use crate::accel::AccelError;
use crate::boot::{self, BootError};
use crate::control::{Ending, Event, ShutdownReason};
use crate::run_state::{IllegalTransition, RunState};

/// What a reset at the user's wish comes from.
const BY_USER: &str = "system_reset";

/// Guarded by the outermost lock of the VM: whoever changes between running and standing still holds it.
#[derive(Debug, Default)]
pub(super) struct Lifecycle {
    /// A transfer has paused the guest and decides what becomes of it; the flag says whether it ran before.
    held: Option<bool>,
}

/// Why the VM cannot do what was asked. It is as it was before.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LifecycleError {
    /// A transfer has the guest.
    #[error("a snapshot or a migration has the guest at this moment; wait until it is done")]
    HandingOver,
    /// The guest has ended by itself.
    #[error("the guest has ended")]
    Ended,
    /// It makes no sense in this state.
    #[error("the VM is {0}")]
    WrongState(RunState),
    /// The accelerator cannot.
    #[error(transparent)]
    Accelerator(#[from] AccelError),
    /// The guest cannot boot.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The table of states says no.
    #[error(transparent)]
    Illegal(#[from] IllegalTransition),
}

impl Vm {
    /// Copies the boot payload into the guest's memory and puts the vCPUs to their start. The guest stands still.
    pub(super) fn boot(&self, fresh: bool) -> Result<(), LifecycleBootError> {
        let cpus = u8::try_from(self.board.cpus().len()).expect("a machine has fewer than 256 vCPUs");
        let memory = self.board.memory().guest_memory();
        let entry = boot::load(memory.as_ref(), self.board.ram().size(), cpus, &self.payload, fresh)?;
        Ok(self.accelerator.reset(&entry)?)
    }

    /// Keeps the VM from being started, paused, reset or taken elsewhere while its objects change.
    ///
    /// # Errors
    ///
    /// It does not belong to its user at this moment, or no more.
    pub(super) fn changing(&self) -> Result<MutexGuard<'_, Lifecycle>, LifecycleError> {
        let life = self.lifecycle.lock();
        match self.status.run_state.get() {
            _ if life.held.is_some() => Err(LifecycleError::HandingOver),
            RunState::Created | RunState::Running | RunState::Paused => Ok(life),
            state => Err(LifecycleError::WrongState(state)),
        }
    }

    /// Lets a VM that was made run for the first time.
    ///
    /// # Errors
    ///
    /// It has run before, or the accelerator refuses.
    pub fn start(&self) -> Result<(), LifecycleError> {
        let _life = self.lifecycle.lock();
        match self.status.run_state.get() {
            RunState::Created => self.set_running(TimePolicy::Continue),
            state => Err(LifecycleError::WrongState(state)),
        }
    }

    /// Lets a VM that has arrived and was loaded run, or stand still where its user had stopped it.
    pub(super) fn start_arrived(&self) -> Result<(), LifecycleError> {
        let _life = self.lifecycle.lock();
        if self.machine_part().is_stopped() {
            self.status.run_state.set(RunState::Paused)?;
            return Ok(());
        }
        self.set_running(TimePolicy::Continue)
    }

    /// Stops the guest at the user's wish. It stays so, wherever it goes, until [`Vm::cont`].
    ///
    /// # Errors
    ///
    /// There is no running guest, or it ended in this very moment, or the vCPUs did not come out: it runs on.
    pub fn stop(&self) -> Result<(), LifecycleError> {
        let life = self.lifecycle.lock();
        match self.status.run_state.get() {
            RunState::Paused if life.held.is_none() => Ok(()),
            RunState::Running => {
                self.pause_guest()?;
                self.machine_part().set_stopped(true);
                self.set_paused()
            }
            RunState::Paused => Err(LifecycleError::HandingOver),
            state => Err(LifecycleError::WrongState(state)),
        }
    }

    /// Lets a stopped guest go on, from the instant at which it stopped.
    ///
    /// # Errors
    ///
    /// The guest is not merely stopped, or the accelerator refuses.
    pub fn cont(&self) -> Result<(), LifecycleError> {
        let life = self.lifecycle.lock();
        match self.status.run_state.get() {
            RunState::Running => Ok(()),
            RunState::Paused if life.held.is_some() => Err(LifecycleError::HandingOver),
            RunState::Paused | RunState::Created => self.set_running(TimePolicy::Continue),
            state => Err(LifecycleError::WrongState(state)),
        }
    }

    /// Resets the machine: the guest boots from its payload. A stopped guest stays stopped, and one that could not go on is stopped
    /// then, as with QEMU: that it runs again is for its user to say.
    ///
    /// # Errors
    ///
    /// There is no guest to reset, or its vCPUs did not come out. A guest that cannot boot any more cannot go on.
    pub fn reset(&self, reason: ShutdownReason) -> Result<(), LifecycleError> {
        let life = self.lifecycle.lock();
        if life.held.is_some() {
            return Err(LifecycleError::HandingOver);
        }
        self.reset_locked(reason, BY_USER)
    }

    fn reset_locked(&self, reason: ShutdownReason, by: &str) -> Result<(), LifecycleError> {
        let state = self.status.run_state.get();
        match state {
            RunState::Running => self.pause_vcpus()?,
            RunState::Paused => {}
            RunState::GuestPanicked | RunState::InternalError => self.expect_still()?,
            RunState::Created | RunState::InMigrate | RunState::PostMigrate | RunState::Shutdown => {
                return Err(LifecycleError::WrongState(state));
            }
        }
        self.reset_paused(reason, by)?;
        if state != RunState::Running {
            return Ok(());
        }
        self.run_vcpus(TimePolicy::Continue)
            .inspect_err(|error| self.fail(format!("the guest cannot go on after a reset: {error}")))?;
        Ok(self.status.run_state.set(RunState::Running)?)
    }

    /// Resets a machine whose vCPUs stand still; one that cannot boot again has failed.
    fn reset_paused(&self, reason: ShutdownReason, by: &str) -> Result<(), LifecycleError> {
        // What the guest asked for, up to its last instruction, has lost its meaning.
        self.requests.take();
        reset_tree(self.board.machine(), ResetKind::Cold);
        if let Err(error) = self.boot(false) {
            self.fail(format!("the guest cannot be reset: {error}"));
            return Err(error.into());
        }
        if self.status.run_state.get() != RunState::Running {
            self.status.run_state.set(RunState::Paused)?;
            *self.status.trouble.lock() = None;
        }
        let by = by.to_owned();
        self.status.events.publish(&Event::Reset { reason, by });
        Ok(())
    }

    /// Has a guest that cannot go on stand still, if it does not yet. That its state can be read does not matter: it gets another.
    fn expect_still(&self) -> Result<(), LifecycleError> {
        match self.accelerator.pause() {
            Err(error @ AccelError::Stuck { .. }) => Err(error.into()),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Presses the power button of a machine that runs: a guest that listens to it shuts itself down.
    ///
    /// # Errors
    ///
    /// The guest stands still. Its state has been taken out by then, so that nothing may change in its devices.
    pub fn press_power_button(&self) -> Result<(), LifecycleError> {
        let life = self.lifecycle.lock();
        match self.status.run_state.get() {
            RunState::Running => {}
            RunState::Paused if life.held.is_some() => return Err(LifecycleError::HandingOver),
            state => return Err(LifecycleError::WrongState(state)),
        }
        self.status.events.publish(&Event::Powerdown);
        self.board.power_button().press_power_button();
        Ok(())
    }

    /// Does what the guest has asked for, if it still stands.
    pub(super) fn serve_request(&self) {
        let _life = self.lifecycle.lock();
        if self.status.run_state.get() != RunState::Running {
            // It stands until the guest goes on.
            return;
        }
        self.finish_unplugs();
        match self.requests.take() {
            None => {}
            Some(Request::Reset(by)) => {
                if let Err(error) = self.reset_locked(ShutdownReason::GuestReset, &by) {
                    // Also where the vCPUs do not come out; a failure that has been told is not told again.
                    self.fail(format!("the guest cannot be reset: {error}"));
                }
            }
            Some(Request::Exit(status)) => self.end_guest(Ending::GuestExit(status)),
            Some(Request::Shutdown) => self.end_guest(Ending::GuestShutdown),
            Some(Request::Panic) => self.end_panicked(),
            Some(Request::Crash(why)) => self.fail(why),
        }
    }

    /// Takes the vCPUs out for a pause that lasts. What the guest asked for until then is part of what it did, so it is
    /// served first: nothing stands while the guest stands still, and none of it is lost with a state that is taken.
    fn pause_guest(&self) -> Result<(), LifecycleError> {
        self.pause_vcpus()?;
        self.finish_unplugs();
        match self.requests.take() {
            None => return Ok(()),
            Some(Request::Reset(by)) => return self.reset_paused(ShutdownReason::GuestReset, &by),
            Some(Request::Exit(status)) => self.end_guest(Ending::GuestExit(status)),
            Some(Request::Shutdown) => self.end_guest(Ending::GuestShutdown),
            Some(Request::Panic) => self.end_panicked(),
            Some(Request::Crash(why)) => {
                self.fail(why);
                return Err(LifecycleError::WrongState(RunState::InternalError));
            }
        }
        Err(LifecycleError::Ended)
    }

    fn end_guest(&self, ending: Ending) {
        // The vCPU that asked may have gone on for some instructions; whether the others come out does not matter.
        self.console.close();
        let _ = self.accelerator.pause();
        let _ = self.status.run_state.set(RunState::Shutdown);
        self.status
            .events
            .publish(&Event::Shutdown(ShutdownReason::GuestShutdown));
        self.status.end(ending);
    }

    /// The guest says that it has crashed and does not go on.
    fn end_panicked(&self) {
        self.console.close();
        let _ = self.accelerator.pause();
        let _ = self.status.run_state.set(RunState::GuestPanicked);
        let events = &self.status.events;
        events.publish(&Event::GuestPanicked);
        events.publish(&Event::Shutdown(ShutdownReason::GuestPanic));
        self.status.end(Ending::GuestPanicked);
    }

    /// The guest cannot go on. It stands still as it is, to be looked at, until its user resets it or ends the VM.
    fn fail(&self, why: String) {
        if self.status.run_state.get() == RunState::InternalError {
            return;
        }
        self.console.close();
        // What cannot be read of it cannot be looked at.
        let _ = self.accelerator.pause();
        *self.status.trouble.lock() = Some(why.clone());
        let _ = self.status.run_state.set(RunState::InternalError);
        let events = &self.status.events;
        events.publish(&Event::CannotGoOn { why });
        events.publish(&Event::Stop);
    }

    /// Pauses the guest for a transfer, which alone decides from now on whether it goes on here.
    pub(super) fn hold(&self) -> Result<(), LifecycleError> {
        let mut life = self.lifecycle.lock();
        let ran = match self.status.run_state.get() {
            RunState::Running => true,
            RunState::Paused if life.held.is_some() => return Err(LifecycleError::HandingOver),
            RunState::Paused => false,
            // A guest that may run elsewhere is held as well, and nobody takes it from there by another transfer.
            state => return Err(LifecycleError::WrongState(state)),
        };
        if ran {
            self.pause_guest()?;
            self.set_paused()?;
        }
        self.machine_part().set_stopped(!ran);
        life.held = Some(ran);
        Ok(())
    }

    /// Ends a [`Vm::hold`]: the guest goes on if it ran before. One that cannot stands still until its user tries again.
    pub(super) fn release(&self) -> Result<(), LifecycleError> {
        let mut life = self.lifecycle.lock();
        if self.status.run_state.get() != RunState::Paused {
            // It is not this side's to let go on.
            return Ok(());
        }
        match life.held.take() {
            Some(true) => self
                .set_running(TimePolicy::Continue)
                .inspect_err(|_| self.machine_part().set_stopped(true)),
            Some(false) | None => Ok(()),
        }
    }

    /// Ends a [`Vm::hold`] with the guest standing still, as if its user had stopped it: after a last snapshot.
    pub(crate) fn release_stopped(&self) {
        let mut life = self.lifecycle.lock();
        if life.held.take().is_some() {
            self.machine_part().set_stopped(true);
        }
    }

    /// The guest that is held runs elsewhere. It stays held, so that nothing here runs it again.
    pub(super) fn give_up(&self) {
        let _life = self.lifecycle.lock();
        // From paused there is a way to shutdown, and a held guest is paused.
        let _ = self.status.run_state.set(RunState::Shutdown);
    }

    /// Keeps a held guest until somebody decides; see [`Vm::resolve_resume`] and [`Vm::resolve_discard`].
    pub(super) fn keep_undecided(&self) {
        let _life = self.lifecycle.lock();
        // From paused there is a way to post-migrate, and a held guest is paused.
        let _ = self.status.run_state.set(RunState::PostMigrate);
    }

    /// The user says that the receiver does not run the guest: it runs here again.
    ///
    /// # Errors
    ///
    /// Nobody waits for that decision, or the accelerator refuses.
    pub fn resolve_resume(&self) -> Result<(), LifecycleError> {
        let mut life = self.lifecycle.lock();
        match (self.status.run_state.get(), life.held) {
            (RunState::PostMigrate, Some(true)) => self.set_running(TimePolicy::Continue)?,
            (RunState::PostMigrate, _) => self.status.run_state.set(RunState::Paused)?,
            (state, _) => return Err(LifecycleError::WrongState(state)),
        }
        life.held = None;
        Ok(())
    }

    /// The user says that the receiver runs the guest: it is dropped here, and the VM ends.
    ///
    /// # Errors
    ///
    /// Nobody waits for that decision.
    pub fn resolve_discard(&self) -> Result<(), LifecycleError> {
        let _life = self.lifecycle.lock();
        match self.status.run_state.get() {
            RunState::PostMigrate => self.status.run_state.set(RunState::Shutdown)?,
            state => return Err(LifecycleError::WrongState(state)),
        }
        self.status.end(Ending::Discarded);
        Ok(())
    }

    /// Drives the lines of every device as its state says, after a load.
    pub(super) fn drive_lines(&self) {
        self.board.machine().walk(|object| {
            if let Some(class) = device_class(object) {
                class.drive_lines(object);
            }
        });
    }

    fn machine_part(&self) -> &Machine {
        self.board
            .machine()
            .part::<Machine>()
            .expect("a board's machine is a machine")
    }

    /// Takes the vCPUs out and reads their state; if that fails they run on.
    fn pause_vcpus(&self) -> Result<(), LifecycleError> {
        self.console.close();
        if let Err(error) = self.accelerator.pause() {
            self.run_vcpus(TimePolicy::Continue)?;
            return Err(error.into());
        }
        Ok(())
    }

    fn run_vcpus(&self, policy: TimePolicy) -> Result<(), LifecycleError> {
        self.accelerator.resume(policy)?;
        self.console.open();
        Ok(())
    }

    fn set_paused(&self) -> Result<(), LifecycleError> {
        self.status.run_state.set(RunState::Paused)?;
        self.status.events.publish(&Event::Stop);
        Ok(())
    }

    fn set_running(&self, policy: TimePolicy) -> Result<(), LifecycleError> {
        let (from, to) = (self.status.run_state.get(), RunState::Running);
        if !from.may_become(to) {
            return Err(IllegalTransition { from, to }.into());
        }
        self.run_vcpus(policy)?;
        self.machine_part().set_stopped(false);
        self.status.run_state.set(RunState::Running)?;
        self.status.events.publish(&Event::Resume);
        // What was asked for by who drives a machine without vCPUs while it stood still.
        self.requests.wake();
        Ok(())
    }
}

/// What can go wrong when a guest boots.
#[derive(Debug, Error)]
pub(super) enum LifecycleBootError {
    #[error(transparent)]
    Boot(#[from] BootError),
    #[error(transparent)]
    Accelerator(#[from] AccelError),
}

impl From<LifecycleBootError> for LifecycleError {
    fn from(error: LifecycleBootError) -> Self {
        match error {
            LifecycleBootError::Boot(error) => Self::Boot(error),
            LifecycleBootError::Accelerator(error) => Self::Accelerator(error),
        }
    }
}

impl From<LifecycleBootError> for super::CreateError {
    fn from(error: LifecycleBootError) -> Self {
        match error {
            LifecycleBootError::Boot(error) => Self::Boot(error),
            LifecycleBootError::Accelerator(error) => Self::Accelerator(error),
        }
    }
}
