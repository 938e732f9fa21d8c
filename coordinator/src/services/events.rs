//! `qlora.v1.EventService`.

use qlora_proto::event_service_server::EventService;
use qlora_proto::*;
use qlora_store::JobStore;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

use super::{Services, Streaming, streaming};
use crate::convert;
use crate::error::CallError;

/// Entries that are read at one time.
const PAGE: u32 = 500;

#[tonic::async_trait]
impl<S: JobStore> EventService for Services<S> {
    type SubscribeStream = Streaming<Event>;

    async fn subscribe(
        &self,
        request: Request<SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let SubscribeRequest {
            mut after,
            until_now,
            audit,
        } = request.into_inner();
        let mut news = self.driver.watch_events();
        let (sender, receiver) = mpsc::channel(64);
        let store = self.store.clone();
        tokio::spawn(async move {
            loop {
                // The store is the truth; the broadcast only says that there is something new.
                let entries = match store.journal(after, PAGE).await {
                    Ok(entries) => entries,
                    // An end without a word would look as if there were no more.
                    Err(e) => return drop(sender.send(Err(CallError::from(e).into())).await),
                };
                let full = entries.len() == PAGE as usize;
                for entry in entries {
                    after = entry.seq;
                    if audit && entry.by.is_none() {
                        continue;
                    }
                    if sender.send(Ok(convert::event(entry))).await.is_err() {
                        return;
                    }
                }
                if full {
                    continue;
                }
                if until_now || matches!(news.recv().await, Err(RecvError::Closed)) {
                    return;
                }
            }
        });
        Ok(streaming(receiver))
    }
}
