//! What takes long: sending, saving and receiving, one at a time, each on a thread of its own.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use migration::cancel::{CancelToken, TooLate};
use migration::phases::Phase;
use migration::precopy::{self, Failure, ReceiveError, ReceiveOptions, Receiver, SendOptions, SourceState};
use migration::progress::Progress;
use migration::snapshot::{self, SaveOptions};
use migration::stats::{Figures, Gauges, PauseReport, SendReport};
use migration::switchover::Limits;
use migration::uri::Uri;
use parking_lot::{Condvar, Mutex};

use super::{Instance, InstanceOptions};
use crate::control::{AfterSnapshot, ControlError, Ending, Event, JobId, MigrationInfo, MigrationStatus, RamInfo};
use crate::run_state::RunState;
use crate::vm::{Factory, Status, Vm};

/// Bytes of a page, in which QMP counts.
const PAGE: u64 = 4096;

/// How long a process that ends waits for a receiver to stop, which then leaves no socket file behind.
const LAST_DEEDS: Duration = Duration::from_secs(5);

/// The job of an instance: the one that runs, or the last that ran.
#[derive(Default)]
pub(super) struct Jobs {
    current: Mutex<Option<Arc<Job>>>,
    /// How many there have been, those included that never began.
    count: AtomicU64,
    owner: Mutex<Weak<Instance>>,
}

/// What becomes of the guest when the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quit {
    /// What its user expects.
    IsFine,
    /// It has just been handed over, and nobody knows yet whether the receiver runs it.
    LosesTheGuest,
}

/// One transfer and its account.
struct Job {
    id: JobId,
    status: Arc<Status>,
    cancel: CancelToken,
    gauges: Gauges,
    began: Instant,
    /// The address, as the account shows it.
    to: Option<String>,
    listening: Option<String>,
    state: Mutex<State>,
    /// Told when the state has its end.
    over: Condvar,
    /// It is cancelled because the program ends, which is told by who ends it.
    quitting: AtomicBool,
}

#[derive(Default)]
struct State {
    /// What cannot be told from the figures: the end, and what led to it.
    end: Option<End>,
    /// Progress of a save, whose engine has no figures: done and total bytes.
    saved: (u64, u64),
    /// The last status that was told to the subscribers.
    told: MigrationStatus,
}

struct End {
    status: MigrationStatus,
    error: Option<String>,
    took: Duration,
    downtime: Option<Duration>,
    pause: Option<PauseReport>,
}

impl Job {
    fn new(
        id: JobId,
        status: &Arc<Status>,
        to: Option<String>,
        listening: Option<String>,
    ) -> Result<Arc<Self>, ControlError> {
        let cancel = CancelToken::new()
            .map_err(|error| ControlError::Failed(format!("the process has no file descriptor left: {error}")))?;
        Ok(Arc::new(Self {
            id,
            status: Arc::clone(status),
            cancel,
            gauges: Gauges::new(),
            began: Instant::now(),
            to,
            listening,
            state: Mutex::default(),
            over: Condvar::new(),
            quitting: AtomicBool::new(false),
        }))
    }

    fn is_over(&self) -> bool {
        self.state.lock().end.is_some()
    }

    /// Waits until the job is over, but not for ever. A receiver's socket is gone from the file system by then.
    fn wait(&self, patience: Duration) {
        let mut state = self.state.lock();
        let not_over = |state: &mut State| state.end.is_none();
        // Whether it came to its end makes no difference to the process, which ends.
        let _ = self.over.wait_while_for(&mut state, not_over, patience);
    }

    fn tell(&self, status: MigrationStatus) {
        {
            let mut state = self.state.lock();
            if state.told == status {
                return;
            }
            state.told = status;
        }
        let account = MigrationInfo { status, ..self.info() };
        self.status.events.publish(&Event::Migration(Arc::new(account)));
    }

    fn end(&self, status: MigrationStatus, error: Option<String>, downtime: Option<Duration>) {
        self.end_with(End {
            status,
            error,
            took: self.began.elapsed(),
            downtime,
            pause: None,
        });
    }

    fn end_with(&self, end: End) {
        let status = end.status;
        self.state.lock().end = Some(end);
        self.over.notify_all();
        self.tell(status);
    }

    fn info(&self) -> MigrationInfo {
        let mut figures = self.gauges.read();
        if figures.bytes_per_second == 0 {
            figures.bytes_per_second = figures.average_bytes_per_second();
        }
        let state = self.state.lock();
        let status = match &state.end {
            Some(end) => end.status,
            None if self.cancel.is_cancelled() => MigrationStatus::Cancelling,
            None if state.saved.1 > 0 => MigrationStatus::Device,
            None => status_of(figures.phase),
        };
        MigrationInfo {
            job: Some(self.id),
            status,
            ram: ram_info(&figures, state.saved),
            total_time: Some(state.end.as_ref().map_or_else(|| self.began.elapsed(), |end| end.took)),
            setup_time: figures.setup,
            downtime: state.end.as_ref().and_then(|end| end.downtime).or(figures.downtime),
            pause: state.end.as_ref().and_then(|end| end.pause),
            pauses_taken_back: figures.pauses_taken_back,
            expected_downtime: figures.expected_downtime,
            to: self.to.clone(),
            listening: self.listening.clone(),
            error: state.end.as_ref().and_then(|end| end.error.clone()),
        }
    }
}

impl Progress for Job {
    fn advanced(&self, done: u64, total: u64) {
        self.state.lock().saved = (done, total);
    }

    fn cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }
}

fn status_of(phase: Option<Phase>) -> MigrationStatus {
    match phase {
        None
        | Some(Phase::Hello | Phase::HelloBack | Phase::Header | Phase::Schemas | Phase::Manifest | Phase::Preflight) => {
            MigrationStatus::Setup
        }
        Some(Phase::Rounds) => MigrationStatus::Active,
        Some(_) => MigrationStatus::Device,
    }
}

fn ram_info(figures: &Figures, saved: (u64, u64)) -> Option<RamInfo> {
    if saved.1 > 0 {
        return Some(RamInfo {
            transferred_bytes: saved.0,
            remaining_bytes: saved.1.saturating_sub(saved.0),
            total_bytes: saved.1,
            ..RamInfo::default()
        });
    }
    (figures.total_bytes > 0).then(|| RamInfo {
        transferred_bytes: figures.transferred_bytes,
        remaining_bytes: figures.remaining_bytes,
        total_bytes: figures.total_bytes,
        zero_pages: figures.zero_pages,
        normal_pages: figures.raw_pages,
        page_bytes: PAGE,
        dirty_pages_per_second: figures.dirty_bytes_per_second / PAGE,
        rounds: u64::from(figures.rounds),
        bytes_per_second: figures.bytes_per_second,
    })
}

/// The URI, whose path, if it has one, does not depend on where this process stands.
fn parse(text: &str) -> Result<Uri, ControlError> {
    let uri = text.parse()?;
    match &uri {
        Uri::Unix(path) | Uri::File(path) if !path.is_absolute() => {
            Err(ControlError::RelativePath { uri: text.to_owned() })
        }
        _ => Ok(uri),
    }
}

fn spawn(name: &str, job: Arc<Job>, work: impl FnOnce(&Arc<Job>) + Send + 'static) -> Result<JobId, ControlError> {
    let id = job.id;
    // Made here, so that it also ends the account of a job whose thread never begins.
    let account = EndWithThread(job);
    let started = thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || work(&account.0));
    started
        .map(|_| id)
        .map_err(|error| ControlError::Failed(format!("the host gives no thread: {error}")))
}

impl Jobs {
    /// The instance that these jobs are of, for a receiver, which has to hand its VM over to it.
    pub(super) fn set_owner(&self, owner: &Arc<Instance>) {
        *self.owner.lock() = Arc::downgrade(owner);
    }

    pub(super) fn owner(&self) -> Option<Arc<Instance>> {
        self.owner.lock().upgrade()
    }

    fn next_id(&self) -> JobId {
        JobId(self.count.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Does `change`, while no job begins.
    ///
    /// # Errors
    ///
    /// A job is under way.
    pub(super) fn between<R>(&self, change: impl FnOnce() -> R) -> Result<R, ControlError> {
        let current = self.current.lock();
        if current.as_ref().is_some_and(|job| !job.is_over()) {
            return Err(ControlError::MigrationUnderWay);
        }
        Ok(change())
    }

    fn begin(&self, job: &Arc<Job>) -> Result<(), ControlError> {
        let mut current = self.current.lock();
        if current.as_ref().is_some_and(|job| !job.is_over()) {
            return Err(ControlError::MigrationUnderWay);
        }
        *current = Some(Arc::clone(job));
        drop(current);
        let weak = Arc::downgrade(job);
        job.gauges.on_phase(Box::new(move |phase| {
            if let Some(job) = weak.upgrade() {
                job.tell(status_of(Some(phase)));
            }
        }));
        let (id, status) = (job.id, Arc::clone(&job.status));
        job.gauges.on_round(Box::new(move |pass| {
            status.events.publish(&Event::MigrationPass { job: id, pass });
        }));
        job.tell(MigrationStatus::Setup);
        Ok(())
    }

    pub(super) fn send(
        &self,
        vm: &Arc<Vm>,
        uri: &str,
        limits: Limits,
        options: &InstanceOptions,
    ) -> Result<JobId, ControlError> {
        let to = parse(uri)?;
        if let Uri::File(path) = &to {
            return self.save(vm, path, AfterSnapshot::Stop, options);
        }
        let job = Job::new(self.next_id(), vm.status(), Some(uri.to_owned()), None)?;
        self.begin(&job)?;
        let vm = Arc::clone(vm);
        let options = SendOptions {
            limits,
            deadlines: options.deadlines,
            faults: Arc::clone(&options.faults),
        };
        spawn("migration", job, move |job| {
            let _whole = vm.keep_whole();
            let sent = precopy::send(&*vm, &to, &options, &job.cancel, &job.gauges);
            sent_to_the_end(job, sent);
        })
    }

    pub(super) fn save(
        &self,
        vm: &Arc<Vm>,
        path: &Path,
        then: AfterSnapshot,
        options: &InstanceOptions,
    ) -> Result<JobId, ControlError> {
        let job = Job::new(
            self.next_id(),
            vm.status(),
            Some(format!("file:{}", path.display())),
            None,
        )?;
        self.begin(&job)?;
        let (vm, path) = (Arc::clone(vm), path.to_owned());
        let options = SaveOptions {
            stop: then == AfterSnapshot::Stop,
            faults: Some(Arc::clone(&options.faults)),
            ..SaveOptions::default()
        };
        spawn("snapshot", job, move |job| {
            let whole = vm.keep_whole();
            let saved = snapshot::save(&*vm, &path, &options, &**job);
            drop(whole);
            match saved {
                Ok(report) => {
                    if options.stop {
                        vm.release_stopped();
                    }
                    job.end(MigrationStatus::Completed, None, Some(report.paused));
                }
                Err(snapshot::SaveError::Cancelled) => job.end(MigrationStatus::Cancelled, None, None),
                Err(error) => job.end(MigrationStatus::Failed, Some(error.to_string()), None),
            }
        })
    }

    pub(super) fn receive(
        &self,
        factory: Factory,
        status: &Arc<Status>,
        uri: &str,
        options: &InstanceOptions,
    ) -> Result<JobId, ControlError> {
        let receiver =
            Receiver::bind(&parse(uri)?, options.reach).map_err(|error| ControlError::Failed(error.to_string()))?;
        let job = Job::new(self.next_id(), status, None, Some(receiver.local_uri().to_string()))?;
        // Only now that there is an address: an instance whose user mistyped one can be asked again.
        status.run_state.set(RunState::InMigrate)?;
        self.begin(&job)?;
        let options = ReceiveOptions {
            deadlines: options.deadlines,
            faults: Arc::clone(&options.faults),
        };
        spawn("migration", job, move |job| {
            // Its socket is gone from the file system before anybody hears of the end and the process goes.
            let accept = |receiver: Receiver| receiver.accept(&factory, &options, &job.cancel, &job.gauges);
            match accept(receiver) {
                Ok(arrived) => {
                    // The guest is here for good; it is the source's user who has to be told.
                    let untold = arrived.source_not_told.map(|why| {
                        format!(
                            "the source was not told that the guest runs here now ({why}); it keeps its copy paused until \
                             \"vm resolve NAME --discard\" there"
                        )
                    });
                    job.end(MigrationStatus::Completed, untold, None);
                }
                Err(ReceiveError::Failed(Failure::Cancelled)) => {
                    job.end(MigrationStatus::Cancelled, None, None);
                    if !job.quitting.load(Ordering::Acquire) {
                        let why = "the migration was cancelled; no guest has arrived";
                        job.status.end(Ending::Failed(why.to_owned()));
                    }
                }
                Err(error) => {
                    job.end(MigrationStatus::Failed, Some(error.to_string()), None);
                    job.status.end(Ending::Failed(format!("no guest has arrived: {error}")));
                }
            }
        })
    }

    pub(super) fn cancel(&self) -> Result<(), ControlError> {
        match &*self.current.lock() {
            Some(job) if !job.is_over() => job.cancel.cancel().map_err(|_| ControlError::HandedOver),
            _ => Ok(()),
        }
    }

    /// The program is about to end: a transfer that can still be stopped is.
    pub(super) fn cancel_for_quit(&self) -> Quit {
        // The lock is not held while the job is waited for: who is told of its end may ask for its account.
        let Some(job) = self.current.lock().clone().filter(|job| !job.is_over()) else {
            return Quit::IsFine;
        };
        // A receiver can end also when it has said that it is ready: the source has the guest whole.
        let receives = job.to.is_none();
        job.quitting.store(receives, Ordering::Release);
        match job.cancel.cancel() {
            Err(TooLate) if !receives => Quit::LosesTheGuest,
            Ok(()) => {
                if receives {
                    job.wait(LAST_DEEDS);
                }
                Quit::IsFine
            }
            // Not waited for: the source, which has the guest whole, would hand it over in the meantime.
            Err(TooLate) => Quit::IsFine,
        }
    }

    pub(super) fn info(&self) -> MigrationInfo {
        self.current.lock().as_ref().map(|job| job.info()).unwrap_or_default()
    }
}

fn sent_to_the_end(job: &Arc<Job>, sent: Result<SendReport, precopy::SendError>) {
    match sent {
        Ok(report) => {
            job.end_with(End {
                status: MigrationStatus::Completed,
                error: None,
                took: job.began.elapsed(),
                downtime: Some(report.pause.total()),
                pause: Some(report.pause),
            });
            // After the account is complete, which clients are told on the way out.
            let to = job.to.clone().unwrap_or_default();
            job.status.end(Ending::HandedOver { to });
        }
        Err(error) => {
            let status = match (&error.source_state, &error.failure) {
                (SourceState::Undecided, _) => MigrationStatus::Undecided,
                (SourceState::Resumed, Failure::Cancelled) => MigrationStatus::Cancelled,
                _ => MigrationStatus::Failed,
            };
            // What to do about an undecided one is said by whoever knows what its user calls the VM.
            let why = match status {
                MigrationStatus::Undecided => error.failure.to_string(),
                _ => error.to_string(),
            };
            job.end(status, Some(why), None);
        }
    }
}

/// Ends the account of a job with its thread, also if that dies, so that nobody waits for it for ever.
struct EndWithThread(Arc<Job>);

impl Drop for EndWithThread {
    fn drop(&mut self) {
        if self.0.is_over() {
            return;
        }
        let why = "the thread of the transfer has died; this is a defect of Tern";
        // What the engine held is given back by now, and the run state says what has become of the guest.
        let run_state = self.0.status.run_state.get();
        let status = match run_state {
            RunState::PostMigrate => MigrationStatus::Undecided,
            _ => MigrationStatus::Failed,
        };
        self.0.end(status, Some(why.to_owned()), None);
        if run_state == RunState::InMigrate {
            self.0
                .status
                .end(Ending::Failed(format!("no guest has arrived: {why}")));
        }
    }
}
