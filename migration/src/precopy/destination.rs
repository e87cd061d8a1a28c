//! The destination of a live migration.

use std::sync::Arc;
use std::time::{Duration, Instant};

use vmstate::qom::sections::IncomingSection;

use super::deadlines::Deadlines;
use super::failure::Failure;
use super::memory::RamReceiver;
use super::message::{Message, Ready, RoundAck, RoundEnd, Running};
use super::session::Session;
use crate::cancel::CancelToken;
use crate::channel::{Channel, ChannelError};
use crate::fault::{Faults, NoFaults};
use crate::header::Header;
use crate::hello::Hello;
use crate::listener::{BindError, Listener, Reach};
use crate::lobby::Lobby;
use crate::manifest::Manifest;
use crate::phases::{Phase, Side};
use crate::record::RecordKind;
use crate::schemas::SchemaTable;
use crate::stats::{Gauges, ReceiveReport};
use crate::uri::Uri;
use crate::vm::{DestinationFactory, DestinationVm, Finding, Offer, RamSource};

/// The most bytes of device state that are held in memory until they are loaded.
pub(crate) const MAX_STATE: usize = 256 << 20;

/// What the user of a destination can choose.
#[derive(Clone)]
pub struct ReceiveOptions {
    /// How long the source may take.
    pub deadlines: Deadlines,
    /// Where to fail on purpose.
    pub faults: Arc<dyn Faults>,
}

impl Default for ReceiveOptions {
    fn default() -> Self {
        Self {
            deadlines: Deadlines::default(),
            faults: Arc::new(NoFaults),
        }
    }
}

/// A machine that has arrived: it runs here, and nowhere else.
#[derive(Debug)]
pub struct Arrived<V> {
    /// The machine.
    pub vm: V,
    /// What it was offered as.
    pub offer: Offer,
    /// How it went.
    pub report: ReceiveReport,
    /// Why the source could not be told that the guest runs; it then waits for its user to resolve that.
    pub source_not_told: Option<Failure>,
}

/// A machine that did not arrive. Nothing of it is left here.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// Nobody could connect.
    #[error("cannot accept a connection: {0}")]
    Accept(#[source] ChannelError),
    /// The migration failed before *go*: the source has the guest.
    #[error("{0}")]
    Failed(#[source] Failure),
    /// *Go* came, and the guest cannot run here. The source keeps it until its user resolves that.
    #[error(
        "the guest was handed over and cannot run here: {0}; resume it at its source with `vm resolve NAME --resume`"
    )]
    CannotRun(#[source] Failure),
}

/// Listens for a source.
#[derive(Debug)]
pub struct Receiver {
    listener: Listener,
}

impl Receiver {
    /// Listens on `uri`.
    ///
    /// # Errors
    ///
    /// [`BindError`].
    pub fn bind(uri: &Uri, reach: Reach) -> Result<Self, BindError> {
        Ok(Self {
            listener: Listener::bind(uri, reach)?,
        })
    }

    /// What a source connects to: as given, with the port that was picked.
    #[must_use]
    pub fn local_uri(&self) -> &Uri {
        self.listener.local_uri()
    }

    /// Waits for a source and takes its machine. Returns once it runs here.
    ///
    /// Whoever connects without sending a valid hello and header is dropped, and the wait goes on; silent ones keep
    /// nobody waiting. `cancel` ends it until *go*; `gauges` shows how far it is.
    ///
    /// # Errors
    ///
    /// [`ReceiveError`]; nothing is left of the machine, and another source may be waited for.
    pub fn accept<F: DestinationFactory>(
        &self,
        factory: &F,
        options: &ReceiveOptions,
        cancel: &CancelToken,
        gauges: &Gauges,
    ) -> Result<Arrived<F::Vm>, ReceiveError> {
        let mut lobby = Lobby::default();
        let patience = || options.deadlines.patience(Phase::Hello, None);
        loop {
            let next = lobby.next(&self.listener, cancel, options.deadlines.hello, patience);
            let channel = next.map_err(|error| match error {
                ChannelError::Cancelled => ReceiveError::Failed(Failure::Cancelled),
                error => ReceiveError::Accept(error),
            })?;
            match serve(channel, factory, options, gauges) {
                Ok(arrived) => return Ok(arrived),
                Err(Ended::Stranger(Failure::Cancelled)) => return Err(ReceiveError::Failed(Failure::Cancelled)),
                Err(Ended::Stranger(_)) => {}
                Err(Ended::Committed(error)) => return Err(error),
            }
        }
    }
}

/// Takes a machine from a connection that stands; the channel's token cancels.
///
/// # Errors
///
/// [`ReceiveError`]; nothing is left of the machine.
pub fn receive_over<F: DestinationFactory>(
    channel: Channel,
    factory: &F,
    options: &ReceiveOptions,
    gauges: &Gauges,
) -> Result<Arrived<F::Vm>, ReceiveError> {
    serve(channel, factory, options, gauges).map_err(|ended| match ended {
        Ended::Stranger(failure) => ReceiveError::Failed(failure),
        Ended::Committed(error) => error,
    })
}

enum Ended {
    /// Before a valid header: it may have been anybody.
    Stranger(Failure),
    /// After it: it was a source.
    Committed(ReceiveError),
}

fn serve<F: DestinationFactory>(
    channel: Channel,
    factory: &F,
    options: &ReceiveOptions,
    gauges: &Gauges,
) -> Result<Arrived<F::Vm>, Ended> {
    let began = Instant::now();
    let session = Session::open(channel, Side::Destination, options.deadlines, &*options.faults);
    let mut destination = Destination {
        session,
        gauges,
        report: ReceiveReport::default(),
    };
    let header = match destination.meet() {
        Ok(header) => header,
        Err(failure) => {
            destination.session.give_up(&failure);
            return Err(Ended::Stranger(failure));
        }
    };
    gauges.update(|figures| figures.began = Some(began));
    let Given { mut vm, offer, go } = match destination.fill(header, factory) {
        Ok(given) => given,
        Err(failure) => {
            let failure = destination.session.ask_why(failure);
            destination.session.give_up(&failure);
            return Err(Ended::Committed(ReceiveError::Failed(failure)));
        }
    };

    match destination.run(&mut vm, go) {
        Ok(told) => {
            let mut report = destination.report;
            report.total = began.elapsed();
            report.received_bytes = destination.session.received();
            report.phases = destination.session.phases_since(began);
            Ok(Arrived {
                vm,
                offer,
                report,
                source_not_told: told.err(),
            })
        }
        Err(failure) => {
            destination.session.give_up(&failure);
            Err(Ended::Committed(ReceiveError::CannotRun(failure)))
        }
    }
}

/// A machine that this side owns from now on.
struct Given<V> {
    vm: V,
    offer: Offer,
    /// What happened once *go* was there; it takes nothing back.
    go: Result<(), Failure>,
}

struct Destination<'a> {
    session: Session<'a>,
    gauges: &'a Gauges,
    report: ReceiveReport,
}

impl Destination<'_> {
    /// Finds out whether this is a source, and which machine it has.
    fn meet(&mut self) -> Result<Header, Failure> {
        self.session.begin()?;
        self.session.receive_prefix()?;
        let hello = self.session.expect_with(RecordKind::Hello, Hello::from_cbor)?;
        if hello.role != Side::Source || hello.channels != 1 {
            return Err(Failure::Protocol(
                "its hello is not that of a source with one channel".into(),
            ));
        }
        self.session.send_prefix()?;
        let answer = Hello::new(Side::Destination, hello.migration);
        self.session.send(RecordKind::Hello, &[&answer.to_cbor()])?;
        self.session.expect_with(RecordKind::Header, Header::from_cbor)
    }

    /// Everything until *go* has come: builds the machine, fills it and loads it.
    fn fill<F: DestinationFactory>(&mut self, header: Header, factory: &F) -> Result<Given<F::Vm>, Failure> {
        self.note_phase();
        let table = self.session.expect_with(RecordKind::Schemas, SchemaTable::from_cbor)?;
        let manifest = self.session.expect_with(RecordKind::Manifest, Manifest::from_cbor)?;
        let parent = header.identity.parent;
        let offer = Offer {
            header,
            recipe: manifest.recipe,
            inventory: manifest.inventory,
            schemas: table.to_sections(),
            parent,
        };
        let (mut vm, mut ram) = self.preflight(factory, &offer)?;
        self.rounds(&mut ram, &offer)?;
        let sections = self.pause(&mut ram, &table, offer.schemas.len())?;

        let loading = Instant::now();
        vm.load(sections)?;
        self.report.load = loading.elapsed();
        self.report.raw_pages = ram.raw_pages();
        drop(ram);
        // A promise: from here on only the source ends this, or its silence.
        self.session.channel().cancel_token().commit()?;
        self.session.limit_go();
        self.session.say(
            RecordKind::Ready,
            &Ready {
                load_us: microseconds(self.report.load),
            },
        )?;
        self.note_phase();

        let go = self.session.expect_with(RecordKind::Go, |_| Ok(()));
        if self.session.phase() == Phase::Running {
            Ok(Given { vm, offer, go })
        } else {
            Err(go.err().unwrap_or(Failure::Cancelled))
        }
    }

    /// Compares and builds, and gives the verdict.
    fn preflight<F: DestinationFactory>(
        &mut self,
        factory: &F,
        offer: &Offer,
    ) -> Result<(F::Vm, RamReceiver), Failure> {
        self.note_phase();
        let (mut verdict, built) = self.session.alive_while(|| {
            let verdict = factory.preflight(offer);
            let built = verdict.accepts().then(|| factory.build(offer, RamSource::Fresh));
            (verdict, built)
        })?;
        let vm = match built {
            Some(Ok(vm)) => Some(vm),
            Some(Err(error)) => {
                verdict.refusals.push(Finding {
                    subject: "the machine cannot be built there".into(),
                    because: error.to_string(),
                });
                None
            }
            None => None,
        };
        let Some(vm) = vm else {
            self.session.say(RecordKind::Preflight, &verdict)?;
            return Err(Failure::Refused(verdict));
        };
        let ram = RamReceiver::new(vm.ram(), &offer.recipe)?;
        self.gauges.update(|figures| figures.total_bytes = ram.total_bytes());
        self.session.say(RecordKind::Preflight, &verdict)?;
        Ok((vm, ram))
    }

    /// RAM with the guest running, until the source pauses it.
    fn rounds(&mut self, ram: &mut RamReceiver, offer: &Offer) -> Result<(), Failure> {
        self.note_phase();
        loop {
            match self.session.receive()? {
                (RecordKind::Ram, payload) => {
                    ram.apply(payload)?;
                    let received = self.session.received();
                    self.gauges.update(|figures| figures.transferred_bytes = received);
                }
                (RecordKind::RoundEnd, payload) => {
                    let round = end_round(ram, payload)?;
                    if round == 1 {
                        // These never change again, so that checking them costs the guest no time.
                        self.session.alive_while(|| ram.finish_boot_payload(&offer.recipe))??;
                    }
                    self.session.say(RecordKind::RoundAck, &RoundAck { round })?;
                    self.report.rounds = round;
                    self.gauges.update(|figures| {
                        figures.rounds = round;
                        figures.raw_pages = ram.raw_pages();
                    });
                    self.note_phase();
                }
                (RecordKind::Pause, _) => return Ok(()),
                (other, _) => return Err(Failure::Protocol(format!("a {other} record came between rounds"))),
            }
        }
    }

    /// What is left of RAM, and the sections.
    fn pause(
        &mut self,
        ram: &mut RamReceiver,
        table: &SchemaTable,
        announced: usize,
    ) -> Result<Vec<IncomingSection>, Failure> {
        self.note_phase();
        let (mut sections, mut length) = (Vec::new(), 0);
        loop {
            match self.session.receive()? {
                (RecordKind::Ram, payload) => ram.apply(payload)?,
                (RecordKind::RoundEnd, payload) => _ = end_round(ram, payload)?,
                (RecordKind::Section, payload) => {
                    length += payload.len();
                    if sections.len() == announced || length > MAX_STATE {
                        return Err(Failure::Protocol(format!(
                            "more state came than the {announced} sections that were announced can have"
                        )));
                    }
                    sections.push(crate::section::decode(table, payload)?.0);
                }
                (RecordKind::SectionsEnd, _) => return Ok(sections),
                (other, _) => return Err(Failure::Protocol(format!("a {other} record came among the state"))),
            }
        }
    }

    /// *Go* has come in time: runs the machine whatever has become of the connection since, and tells the source.
    fn run(&mut self, vm: &mut impl DestinationVm, go: Result<(), Failure>) -> Result<Result<(), Failure>, Failure> {
        if let Err(injected @ Failure::Injected { .. }) = go {
            return Err(injected);
        }
        let resuming = Instant::now();
        vm.run()?;
        self.report.resume = resuming.elapsed();
        let told = self.session.say(
            RecordKind::Running,
            &Running {
                resume_us: microseconds(self.report.resume),
            },
        );
        self.note_phase();
        Ok(told)
    }

    fn note_phase(&self) {
        let (phase, received) = (self.session.phase(), self.session.received());
        self.gauges.update(|figures| {
            figures.phase = Some(phase);
            figures.transferred_bytes = received;
        });
        self.gauges.entered(phase);
    }
}

fn end_round(ram: &mut RamReceiver, payload: &[u8]) -> Result<u32, Failure> {
    let end = RoundEnd::from_payload(payload).map_err(|source| Failure::Contents {
        kind: RecordKind::RoundEnd,
        source,
    })?;
    ram.end_round(end.round, end.records)?;
    Ok(end.round)
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
