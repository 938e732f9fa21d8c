//! One attempt: started or taken up again, stopped, waited for.

use std::sync::{Arc, Mutex};

use qlora_client::Client;
use qlora_proto::lease::Lease;
use qlora_proto::{Assignment, JobKind, Outcome};
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::child::Child;
use super::delivery::Delivery;
use super::machine::{Left, Machine, Saved};
use super::outbox::{Current, Outbox};
use super::stopping::Urgency;
use crate::witness::Training;

/// A running attempt, seen from the session.
pub struct Attempt {
    pub token: u64,
    stop: watch::Sender<Option<Urgency>>,
    /// Its child has ended.
    over: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

/// How an attempt reaches the coordinator, and how long it may go on without.
pub struct Contact {
    pub machine: Arc<Machine>,
    pub client: Client,
    pub session: Current,
    pub leases: watch::Receiver<Option<Lease>>,
}

impl Attempt {
    pub fn start(contact: Contact, assignment: Assignment) -> Self {
        let (stop, stops) = watch::channel(None);
        let token = assignment.token;
        let outbox: Arc<Outbox> = Arc::default();
        contact.machine.kept().left = Some(Left {
            job: assignment.job,
            token,
            ended: None,
            saved: Vec::new(),
            outbox: outbox.clone(),
        });
        let delivery = delivery(&contact, (assignment.job, token), outbox.clone());
        let (saved, unsaved) = mpsc::unbounded_channel();
        let child = Child {
            machine: contact.machine,
            step: assignment.checkpoint.as_ref().map_or(0, |saved| saved.step),
            steps: steps(&assignment),
            outbox,
            stops,
            leases: contact.leases,
            saved,
        };
        let works = assignment.kind() != JobKind::Noop;
        let (ended, over) = watch::channel(false);
        let machine = child.machine.clone();
        let running = run(delivery, works.then_some(child), unsaved, ended);
        let task = tokio::spawn(async move { machine.awake(running).await });
        Self {
            token,
            stop,
            over,
            task,
        }
    }

    /// Delivers what an attempt left when its machine died.
    pub fn resume(contact: Contact, left: Left) -> Self {
        let token = left.token;
        let delivery = delivery(&contact, (left.job, token), left.outbox);
        let (sender, saved) = mpsc::unbounded_channel();
        for one in left.saved {
            let _ = sender.send(one);
        }
        let ended = left.ended.unwrap_or(Outcome::Lost);
        let stop = watch::channel(None).0;
        let task = tokio::spawn(async move {
            drop(sender);
            let uploads = async { close(&delivery, ended, delivery.upload_all(saved).await).await };
            let machine = delivery.machine.clone();
            machine.awake(reporting(&delivery, uploads)).await;
        });
        Self {
            token,
            stop,
            over: watch::channel(true).1,
            task,
        }
    }

    pub fn stop(&self, urgency: Urgency) {
        self.stop.send_replace(Some(urgency));
    }

    /// Whether it has been asked to stop as urgently as `urgency`.
    pub fn is_stopping(&self, urgency: Urgency) -> bool {
        self.stop.borrow().is_some_and(|asked| asked >= urgency)
    }

    /// Ends the child and everything that speaks for the attempt, and leaves the rest.
    pub async fn leave(mut self) {
        self.stop(Urgency::AtOnce);
        let _ = self.over.wait_for(|over| *over).await.map(drop);
        self.task.abort();
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// The program has a fault.
    pub async fn ended(&mut self) -> Result<(), tokio::task::JoinError> {
        (&mut self.task).await
    }
}

fn delivery(contact: &Contact, (job, token): (u64, u64), outbox: Arc<Outbox>) -> Delivery {
    Delivery {
        machine: contact.machine.clone(),
        client: contact.client.clone(),
        session: contact.session.clone(),
        job,
        token,
        outbox,
        last: Mutex::default(),
    }
}

/// The steps that the configuration asks for.
fn steps(assignment: &Assignment) -> u64 {
    let config: Value = serde_json::from_str(&assignment.config_json).unwrap_or_default();
    config["training"]["max_steps"].as_u64().unwrap_or_default()
}

async fn run(
    delivery: Delivery,
    child: Option<Child>,
    saved: mpsc::UnboundedReceiver<Saved>,
    over: watch::Sender<bool>,
) {
    let work = async {
        let train = async {
            let ended = train(&delivery, child).await;
            over.send_replace(true);
            ended
        };
        let (ended, uploaded) = tokio::join!(train, delivery.upload_all(saved));
        close(&delivery, ended, uploaded).await;
    };
    reporting(&delivery, work).await;
}

async fn train(delivery: &Delivery, child: Option<Child>) -> Outcome {
    let Some(child) = child else {
        return Outcome::Succeeded;
    };
    let machine = &delivery.machine;
    let id = machine.witness.begins(Training {
        machine: &machine.host,
        worker: &machine.worker,
        job: delivery.job,
        token: delivery.token,
        from_step: child.step,
    });
    let (ended, why) = child.train(id).await;
    machine.witness.ends(id, why);
    if let Some(left) = &mut machine.kept().left {
        left.ended = Some(ended);
    }
    ended
}

/// Sends reports while `work` is under way.
async fn reporting(delivery: &Delivery, work: impl Future<Output = ()>) {
    tokio::select! {
        biased;
        () = work => {}
        () = delivery.report_all() => {}
    }
}

/// Tells how the attempt ended. A success whose result could not be delivered is none.
async fn close(delivery: &Delivery, ended: Outcome, uploaded: Result<(), tonic::Status>) {
    let (outcome, message) = match uploaded {
        Err(fault) if ended == Outcome::Succeeded => (Outcome::Failed, fault.message().to_owned()),
        _ => (ended, String::new()),
    };
    delivery.finish(outcome, &message).await;
    delivery
        .machine
        .kept()
        .left
        .take_if(|left| left.token == delivery.token);
}
