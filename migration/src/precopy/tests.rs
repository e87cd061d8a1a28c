//! Both sides of a live migration against each other, whole.

mod conditions;
mod faults;
mod hostile;
mod moves;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::fake::{FakeSource, Shape, Witness, Witnessed, WitnessedFactory};
use super::{Arrived, Deadlines, ReceiveError, ReceiveOptions, SendError, SendOptions, receive_over, send_over};
use crate::cancel::CancelToken;
use crate::channel::{Channel, Patience};
use crate::fault::Faults;
use crate::stats::{Gauges, SendReport};

/// Short enough for a test that waits for them to pass, and long enough for a loaded machine where they must not.
const DEADLINES: Deadlines = Deadlines {
    connect: Duration::from_secs(10),
    hello: Duration::from_millis(1500),
    silence: Duration::from_millis(1500),
    heartbeat: Duration::from_millis(100),
    blackout: Duration::from_millis(1500),
    // A receiver waits for *go* half as long.
    running: Duration::from_secs(3),
};

const PATIENCE: Patience = Patience {
    silence: Duration::from_secs(10),
    end: None,
};

type Sent = Result<SendReport, SendError>;
type Received = Result<Arrived<Witnessed>, ReceiveError>;

/// One migration, to be set up and then run.
struct Migration {
    witness: Arc<Witness>,
    source: Arc<FakeSource>,
    factory: WitnessedFactory,
    send: SendOptions,
    receive: ReceiveOptions,
    cancel: [CancelToken; 2],
    gauges: Gauges,
}

impl Migration {
    fn of(shape: Shape) -> Self {
        let witness = Arc::default();
        let token = || CancelToken::new().expect("an eventfd");
        Self {
            source: FakeSource::new(shape, &witness),
            factory: WitnessedFactory {
                witness: Arc::clone(&witness),
                ..WitnessedFactory::default()
            },
            witness,
            send: SendOptions {
                deadlines: DEADLINES,
                ..SendOptions::default()
            },
            receive: ReceiveOptions {
                deadlines: DEADLINES,
                ..ReceiveOptions::default()
            },
            cancel: [token(), token()],
            gauges: Gauges::new(),
        }
    }

    fn with_faults(mut self, faults: &Arc<impl Faults + 'static>) -> Self {
        self.send.faults = Arc::clone(faults) as _;
        self.receive.faults = Arc::clone(faults) as _;
        self
    }

    fn channels(&self) -> (Channel, Channel) {
        Channel::pair(self.cancel.clone(), PATIENCE).expect("a socket pair")
    }

    /// Runs both sides to their ends. A side that panics has no result.
    fn run(&self) -> (Option<Sent>, Option<Received>) {
        let (near, far) = self.channels();
        self.run_over(near, far)
    }

    fn run_over(&self, near: Channel, far: Channel) -> (Option<Sent>, Option<Received>) {
        thread::scope(|scope| {
            let receiving = scope.spawn(|| receive_over(far, &self.factory, &self.receive, &Gauges::new()));
            let sending = scope.spawn(|| send_over(&*self.source, near, "fake:there", &self.send, &self.gauges));
            (sending.join().ok(), receiving.join().ok())
        })
    }
}

/// The failure of a side that did not panic.
fn failed(outcome: (Option<Sent>, Option<Received>)) -> (SendError, ReceiveError) {
    let (sent, received) = outcome;
    (
        sent.expect("no panic").expect_err("it failed"),
        received.expect("no panic").expect_err("it failed"),
    )
}

/// What a migration that nothing stands in the way of gives.
fn arrived(outcome: (Option<Sent>, Option<Received>)) -> (SendReport, Arrived<Witnessed>) {
    let (sent, received) = outcome;
    let sent = sent.expect("no panic").expect("nothing stands in the way");
    (sent, received.expect("no panic").expect("nothing stands in the way"))
}
