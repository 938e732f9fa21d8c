//! The gRPC services: each turns calls into events and reads, and answers into messages.

mod artifacts;
mod configs;
mod events;
mod explain;
mod gone;
mod jobs;
mod prune;
mod tokens;
mod workers;

use std::pin::Pin;
use std::sync::Arc;

use qlora_store::{ArtifactStore, JobStore};
use tokio_stream::Stream;
use tonic::{Response, Status};

pub use self::explain::{explain, summary};
pub use self::gone::take_off_the_gone;
use crate::driver::Handle;
use crate::instruments::Instruments;
use crate::tokens::Tokens;

/// What every service needs.
pub struct Services<S> {
    pub driver: Handle,
    pub store: Arc<S>,
    pub artifacts: ArtifactStore,
    pub instruments: Instruments,
    pub tokens: Arc<Tokens>,
    /// It listens on loopback addresses only.
    pub loopback_only: bool,
}

impl<S> Clone for Services<S> {
    fn clone(&self) -> Self {
        Self {
            driver: self.driver.clone(),
            store: self.store.clone(),
            artifacts: self.artifacts.clone(),
            instruments: self.instruments.clone(),
            tokens: self.tokens.clone(),
            loopback_only: self.loopback_only,
        }
    }
}

/// A reason that was given, or that of a person who gave none.
fn or_by_user(reason: String) -> String {
    if reason.is_empty() {
        "by user".to_owned()
    } else {
        reason
    }
}

/// A stream of answers.
type Streaming<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Answers that a task sends into a channel.
fn streaming<T: Send + 'static>(
    receiver: tokio::sync::mpsc::Receiver<Result<T, Status>>,
) -> Response<Streaming<T>> {
    Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(
        receiver,
    )))
}

/// The gRPC routes of all services, with health and reflection.
pub async fn routes<S: JobStore>(
    services: Services<S>,
) -> Result<tonic::service::Routes, tonic_reflection::server::Error> {
    use qlora_proto::artifact_service_server::ArtifactServiceServer;
    use qlora_proto::config_service_server::ConfigServiceServer;
    use qlora_proto::event_service_server::EventServiceServer;
    use qlora_proto::job_service_server::JobServiceServer;
    use qlora_proto::token_service_server::TokenServiceServer;
    use qlora_proto::worker_service_server::WorkerServiceServer;

    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<JobServiceServer<Services<S>>>().await;
    health
        .set_serving::<WorkerServiceServer<Services<S>>>()
        .await;
    let descriptors = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(qlora_proto::FILE_DESCRIPTOR_SET)
    };
    Ok(tonic::service::Routes::new(health_service)
        .add_service(descriptors().build_v1()?)
        // Python's client and older releases of grpcurl still ask in the words of before version 1.
        .add_service(descriptors().build_v1alpha()?)
        .add_service(JobServiceServer::new(services.clone()))
        .add_service(ConfigServiceServer::new(services.clone()))
        .add_service(WorkerServiceServer::new(services.clone()))
        .add_service(ArtifactServiceServer::new(services.clone()))
        .add_service(TokenServiceServer::new(services.clone()))
        .add_service(EventServiceServer::new(services)))
}
