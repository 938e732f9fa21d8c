//! The rendezvous of the workers of one attempt, through the coordinator. The coordinator only
//! tells where the first one is found: the training processes connect by themselves.

use std::time::Duration;

use qlora_client::Client;
use qlora_client::retry::until_answered;
use qlora_proto::{RendezvousOffer, RendezvousRequest, RendezvousResponse};
use tokio::sync::mpsc;
use tonic::Response;

use super::current::Current;
use crate::process_group::Rendezvous;

/// How long the coordinator may hold an answer.
const HOLD: Duration = Duration::from_secs(20);

/// How a worker of an attempt exchanges with the others where the first one is found.
pub(super) struct Exchange {
    pub client: Client,
    pub session: Current,
    pub token: u64,
}

impl Exchange {
    /// Says where the first worker is found, until the coordinator knows.
    pub async fn offer(self, own: Rendezvous) {
        let offer = RendezvousOffer {
            addresses: own.addresses,
            secret: own.secret.to_vec(),
        };
        drop(self.answer(Some(offer)).await);
    }

    /// Asks where the first worker is found until that is known, and tells `found`.
    pub async fn find(self, found: mpsc::Sender<Rendezvous>) {
        while !found.is_closed() {
            let Some(response) = self.answer(None).await else {
                return;
            };
            if let Some(known) = response.offer.and_then(known) {
                drop(found.send(known).await);
                return;
            }
        }
    }

    /// Asks until the coordinator answers; none where the attempt is not current any more, which
    /// the session hears too.
    async fn answer(&self, offer: Option<RendezvousOffer>) -> Option<RendezvousResponse> {
        let answer = until_answered(|| {
            let mut workers = self.client.workers.clone();
            let request = RendezvousRequest {
                session: self.session.get(),
                token: self.token,
                offer: offer.clone(),
                wait_ms: HOLD.as_millis() as u32,
            };
            async move { workers.rendezvous(request).await }
        });
        answer.await.ok().map(Response::into_inner)
    }
}

fn known(offer: RendezvousOffer) -> Option<Rendezvous> {
    Some(Rendezvous {
        addresses: offer.addresses,
        secret: offer.secret.try_into().ok()?,
    })
}
