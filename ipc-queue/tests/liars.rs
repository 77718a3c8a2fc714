//! The conformance suite catches transports with fewer or more features than they declare.
//!
//! The liar is a wrapper around `local` that declares one feature falsely.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ipc_queue::conformance::{Promise, Subject, promise_of, promises};
use ipc_queue::notifier::Notifier;
use ipc_queue::transport::{
    LeaseInfo, OpenRequest, PortDelivery, PortLoan, ReceivePort, RecvPortError, SendPort,
    SendPortError, Settle, SettleOnce, Transport, Wait,
};
use ipc_queue::{
    Capabilities, ControlCall, ControlError, DeadLetter, DeadLetterId, DrainError, Feature,
    LocalQueue, Name, QueueError, QueueSettings, QueueStats, SendFailure, SendOptions,
    SettleFailure, Support, Unsupported,
};

/// The false declaration of a transport.
#[derive(Clone, Copy, Debug)]
enum Lie {
    /// No false declaration.
    None,
    /// It declares a feature that it lacks.
    Boasts(Feature),
    /// It has a feature that it does not declare.
    Conceals(Feature),
    /// It never ends the last lease of a message: the message is neither delivered nor a dead
    /// letter.
    LosesDead,
}

impl Lie {
    /// Returns whether the feature is refused, whatever was declared.
    fn lacks(self, feature: Feature) -> bool {
        matches!(self, Self::Boasts(lacking) if lacking == feature)
    }

    fn refuse(self, feature: Feature) -> Result<(), Unsupported> {
        match self.lacks(feature) {
            true => Err(Unsupported::by_transport(feature)),
            false => Ok(()),
        }
    }
}

impl Subject for Lie {
    fn open(&self, name: &Name, request: &OpenRequest) -> Result<Arc<dyn Transport>, QueueError> {
        if let Self::Boasts(feature) = *self {
            request.check_capabilities(all_but(feature))?;
        }
        let queue = LocalQueue::open(name, request)?;
        Ok(Arc::new(Liar { queue, lie: *self }))
    }

    fn remove(&self, name: &Name) -> Result<bool, ControlError> {
        Ok(LocalQueue::remove(name))
    }
}

fn all_but(feature: Feature) -> Capabilities {
    let all = Capabilities::none().natively(Feature::ALL);
    all.with(feature, Support::Unsupported)
}

#[derive(Debug)]
struct Liar {
    queue: LocalQueue,
    lie: Lie,
}

impl Transport for Liar {
    fn settings(&self) -> &QueueSettings {
        self.queue.settings()
    }

    fn capabilities(&self) -> Capabilities {
        let true_ones = self.queue.capabilities();
        match self.lie {
            Lie::None | Lie::LosesDead => true_ones,
            Lie::Boasts(feature) => true_ones.natively([feature]),
            Lie::Conceals(feature) => true_ones.with(feature, Support::Unsupported),
        }
    }

    fn id(&self) -> u64 {
        self.queue.id()
    }

    fn sender(&self) -> Box<dyn SendPort> {
        let (port, lie) = (self.queue.sender(), self.lie);
        Box::new(LyingSender { port, lie })
    }

    fn receiver(&self) -> Box<dyn ReceivePort> {
        let (port, lie) = (self.queue.receiver(), self.lie);
        Box::new(LyingReceiver { port, lie })
    }

    fn address(&self) -> String {
        self.queue.address()
    }

    fn close(&self) -> Result<(), ControlError> {
        self.queue.close()
    }

    fn reopen(&self) -> Result<(), ControlError> {
        self.queue.reopen()
    }

    fn pause(&self) -> Result<(), ControlError> {
        self.refuse(ControlCall::Pause, Feature::Pause)?;
        self.queue.pause()
    }

    fn resume(&self) -> Result<(), ControlError> {
        self.refuse(ControlCall::Resume, Feature::Pause)?;
        self.queue.resume()
    }

    fn purge(&self) -> Result<u64, ControlError> {
        self.refuse(ControlCall::Purge, Feature::Purge)?;
        self.queue.purge()
    }

    fn drain(&self, wait: Wait) -> Result<(), DrainError> {
        self.refuse(ControlCall::Drain, Feature::Drain)?;
        self.queue.drain(wait)
    }

    fn stats(&self) -> Result<QueueStats, ControlError> {
        self.queue.stats()
    }

    fn leases(&self) -> Result<Vec<LeaseInfo>, ControlError> {
        self.refuse(ControlCall::Leases, Feature::Leases)?;
        self.queue.leases()
    }

    fn dead_letters(&self) -> Result<Vec<DeadLetter>, ControlError> {
        let mut letters = self.queue.dead_letters()?;
        if matches!(self.lie, Lie::LosesDead) {
            letters.clear();
        }
        if self.lie.lacks(Feature::Reasons) {
            letters.iter_mut().for_each(|letter| letter.error.clear());
        }
        Ok(letters)
    }

    fn requeue(&self, id: DeadLetterId) -> Result<bool, ControlError> {
        self.queue.requeue(id)
    }

    fn discard(&self, id: DeadLetterId) -> Result<bool, ControlError> {
        self.queue.discard(id)
    }
}

impl Liar {
    fn refuse(&self, call: ControlCall, feature: Feature) -> Result<(), ControlError> {
        match self.lie.lacks(feature) {
            true => Err(self.unsupported(call, feature)),
            false => Ok(()),
        }
    }
}

#[derive(Debug)]
struct LyingSender {
    port: Box<dyn SendPort>,
    lie: Lie,
}

impl SendPort for LyingSender {
    fn loan_with(
        &self,
        len: usize,
        options: &SendOptions,
        wait: Wait,
    ) -> Result<PortLoan, SendPortError> {
        if let Some(feature) = options.first_feature() {
            self.lie.refuse(feature).map_err(SendFailure::from)?;
        }
        self.port.loan_with(len, options, wait)
    }

    fn notifier(&self) -> Notifier {
        self.port.notifier()
    }
}

#[derive(Debug)]
struct LyingReceiver {
    port: Box<dyn ReceivePort>,
    lie: Lie,
}

impl ReceivePort for LyingReceiver {
    fn recv(&self, wait: Wait) -> Result<PortDelivery, RecvPortError> {
        let delivery = self.port.recv(wait)?;
        if !self.lie.lacks(Feature::Snooze) {
            return Ok(delivery);
        }
        let (queue, metadata) = (delivery.token().queue, delivery.metadata());
        let payload = delivery.payload().to_vec();
        let held = Mutex::new(Some(delivery));
        Ok(PortDelivery::new(queue, metadata, payload, Sleepless(held)))
    }

    fn recv_batch(
        &self,
        most: usize,
        wait: Wait,
        into: &mut Vec<PortDelivery>,
    ) -> Result<(), RecvPortError> {
        let most = match self.lie.lacks(Feature::Batches) {
            true => 1,
            false => most,
        };
        self.port.recv_batch(most, wait, into)
    }

    fn notifier(&self) -> Notifier {
        self.port.notifier()
    }
}

/// A delivery that cannot be snoozed.
struct Sleepless(Mutex<Option<PortDelivery>>);

impl SettleOnce for Sleepless {
    fn settle(&self, how: Settle<'_>) -> Result<(), SettleFailure> {
        let held = self.0.lock().unwrap().take().unwrap();
        if let Settle::Snooze { .. } = how {
            return Err(Unsupported::by_transport(Feature::Snooze).into());
        }
        held.settle(how).map_err(|error| error.failure)
    }

    fn extend(&self, by: Duration) -> Result<(), SettleFailure> {
        let held = self.0.lock().unwrap();
        let extended = held.as_ref().unwrap().extend(by);
        extended.map_err(|error| error.failure)
    }

    fn queue(&self) -> String {
        "lying".to_owned()
    }
}

fn holds(lie: Lie, feature: Feature) -> bool {
    let tests = promises();
    let of_semantic = |(name, _): &&(&str, Promise)| *name == promise_of(feature);
    let (_, promise) = tests.iter().find(of_semantic).unwrap();
    catch_unwind(AssertUnwindSafe(|| promise(&lie))).is_ok()
}

/// A transport that has these features without declaring them passes, because no call requests
/// them.
const CAN_NOT_BE_ASKED_FOR: [Feature; 4] = [
    Feature::ZeroCopy,
    Feature::DeathNoticed,
    Feature::Reasons,
    // This one is requested through the queue's address.
    Feature::Snapshot,
];

#[test]
fn a_truthful_transport_passes() {
    for feature in Feature::ALL {
        assert!(holds(Lie::None, feature), "{feature}");
    }
}

#[test]
fn a_declared_but_missing_capability_fails() {
    for feature in Feature::ALL {
        assert!(!holds(Lie::Boasts(feature), feature), "{feature}");
    }
}

#[test]
fn an_existing_but_undeclared_capability_fails() {
    for feature in Feature::ALL {
        let passes = holds(Lie::Conceals(feature), feature);
        let expected = CAN_NOT_BE_ASKED_FOR.contains(&feature);
        assert_eq!(passes, expected, "{feature}");
    }
}

#[test]
fn waiting_for_a_dead_letter_has_a_limit() {
    let name = "expired_leases_have_a_separate_limit";
    let mut all = promises().into_iter();
    let (_, promise) = all.find(|(promise, _)| *promise == name).unwrap();
    let kept = catch_unwind(AssertUnwindSafe(|| promise(&Lie::LosesDead)));
    assert!(kept.is_err());
}
