//! Which of several coordinators a call goes to.
//!
//! Of coordinators that share a database one leads, and the others refuse every call. A call goes to
//! the one that served last. Once that one fails or refuses, the next call asks each for its health
//! first. A call is never repeated here: whether that is safe only its caller knows.

use std::error::Error as _;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tonic::Code;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{Context, InterceptedService, Pin, Poll, Service};
use tonic::transport::{Channel, Error};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::credentials::Credentials;
use crate::link::Link;

/// How long one of several coordinators may take to say that it serves.
const PATIENCE: Duration = Duration::from_secs(2);

/// A channel to one coordinator, which brings the credentials for it.
pub(crate) type Single = InterceptedService<Channel, Credentials>;

/// One coordinator.
pub(crate) struct Place {
    pub address: String,
    pub credentials: Credentials,
    pub service: Single,
    /// How its connections are made.
    pub link: Arc<Link>,
}

/// Sends each call to the coordinator that serves; cheap to clone.
#[derive(Clone)]
pub struct Route(Arc<Places>);

struct Places {
    /// At least one.
    all: Vec<Place>,
    current: Mutex<Current>,
    /// Held by the one who asks for the others too.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Clone, Copy)]
struct Current {
    index: usize,
    /// It served when it was called last.
    serves: bool,
}

impl Route {
    /// # Panics
    /// `all` is empty.
    pub(crate) fn new(all: Vec<Place>) -> Self {
        assert!(!all.is_empty(), "a client has an address");
        let current = Current {
            index: 0,
            // Where there is one only, nothing is to be chosen.
            serves: all.len() == 1,
        };
        Self(Arc::new(Places {
            all,
            current: Mutex::new(current),
            asking: tokio::sync::Mutex::default(),
        }))
    }

    /// The coordinator that calls go to now.
    pub(crate) fn current(&self) -> &Place {
        &self.0.all[self.0.current().index]
    }
}

impl Places {
    fn current(&self) -> Current {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, current: Current) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = current;
    }

    /// The place `index` has failed. A call that was long under way says nothing of the place that
    /// others have found meanwhile.
    fn leave(&self, index: usize) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.index == index {
            current.serves = false;
        }
    }

    /// The place that serves, or else the one that says most of why none does; of several the one
    /// that was called last.
    async fn choose(&self) -> usize {
        if self.current().serves {
            return self.current().index;
        }
        let _alone = self.asking.lock().await;
        let Current { index, serves } = self.current();
        if serves {
            return index;
        }
        let (mut best, mut most) = (index, Said::Nothing);
        for i in (index..self.all.len()).chain(0..index) {
            let said = asked(&self.all[i]).await;
            if said > most {
                (best, most) = (i, said);
            }
            if said == Said::Serves {
                break;
            }
        }
        let serves = most == Said::Serves;
        if serves && best != index {
            tracing::info!(coordinator = %self.all[best].address, "another coordinator leads");
        }
        self.set(Current {
            index: best,
            serves,
        });
        best
    }

    async fn call(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        let index = self.choose().await;
        let mut service = self.all[index].service.clone();
        let ready =
            |context: &mut Context<'_>| Service::<Request<Body>>::poll_ready(&mut service, context);
        let answer = match poll_fn(ready).await {
            Ok(()) => service.call(request).await,
            Err(fault) => Err(fault),
        };
        let failed = answer.as_ref().map_or(true, is_unavailable);
        if failed && self.all.len() > 1 {
            self.leave(index);
        }
        Ok(answer?.map(Body::new))
    }
}

/// Whether the answer is a refusal of who cannot serve, which has no message before its status.
fn is_unavailable<B>(answer: &Response<B>) -> bool {
    let status = answer.headers().get("grpc-status");
    status.is_some_and(|status| Code::from_bytes(status.as_bytes()) == Code::Unavailable)
}

/// What a place says of itself, the most telling last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Said {
    Nothing,
    /// Somebody is there who is not trusted, or who does not know the question.
    Fault,
    /// A coordinator is there, and does not serve.
    Waits,
    Serves,
}

async fn asked(place: &Place) -> Said {
    let mut health = HealthClient::new(place.service.clone());
    // The empty name stands for the whole server.
    let asked = health.check(HealthCheckRequest {
        service: String::new(),
    });
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(answer)) if answer.get_ref().status() == ServingStatus::Serving => Said::Serves,
        Ok(Ok(_)) => Said::Waits,
        Ok(Err(fault)) => {
            tracing::debug!(coordinator = %place.address, %fault, "does not say that it serves");
            // What the transport itself says has a cause.
            let is_told = place.link.fault().is_some() || fault.source().is_none();
            if is_told { Said::Fault } else { Said::Nothing }
        }
        Err(_) => Said::Nothing,
    }
}

impl Service<Request<Body>> for Route {
    type Response = Response<Body>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Error>> + Send>>;

    /// Which place has to be ready is known in the call only.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let places = self.0.clone();
        Box::pin(async move { places.call(request).await })
    }
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Runtime;
    use tonic::transport::Server;
    use tonic::transport::server::TcpIncoming;
    use tonic_health::ServingStatus::{NotServing, Serving};
    use tonic_health::server::{HealthReporter, health_reporter};

    use super::*;
    use crate::Client;

    /// A server that has nothing but its health and the name of a service of its own. Its
    /// connections end with its runtime.
    struct Coordinator {
        address: String,
        health: HealthReporter,
        runtime: Option<Runtime>,
    }

    impl Coordinator {
        async fn start(own: &str, status: tonic_health::ServingStatus) -> Self {
            let (health, service) = health_reporter();
            health.set_service_status("", status).await;
            health.set_service_status(own, Serving).await;
            let runtime = Runtime::new().expect("a runtime");
            let incoming = {
                let _within = runtime.enter();
                TcpIncoming::bind(([127, 0, 0, 1], 0).into()).expect("a port")
            };
            let address = incoming.local_addr().expect("an address").to_string();
            let server = Server::builder().add_service(service);
            runtime.spawn(server.serve_with_incoming(incoming));
            Self {
                address,
                health,
                runtime: Some(runtime),
            }
        }
    }

    impl Drop for Coordinator {
        fn drop(&mut self) {
            if let Some(runtime) = self.runtime.take() {
                runtime.shutdown_background();
            }
        }
    }

    /// Whether a call gets to the server that has the service `own`.
    async fn gets_to(client: &Client, own: &str) -> bool {
        let mut health = HealthClient::new(client.route());
        let service = own.to_owned();
        health.check(HealthCheckRequest { service }).await.is_ok()
    }

    #[tokio::test]
    async fn calls_go_to_the_one_that_serves_and_after_its_end_to_the_next() {
        let standby = Coordinator::start("one", NotServing).await;
        let leader = Coordinator::start("two", Serving).await;
        let addresses = format!("{},{}", standby.address, leader.address);
        let client = Client::new(&addresses, None).expect("a client");
        assert!(gets_to(&client, "two").await, "the leader was not found");
        assert_eq!(client.current_address(), leader.address);
        // An answer that is no refusal of the leader changes nothing.
        assert!(!gets_to(&client, "one").await);
        assert_eq!(client.current_address(), leader.address);
        drop(leader);
        standby.health.set_service_status("", Serving).await;
        // Calls fail while the connection ends, and none is repeated for its caller.
        let found = async { while !gets_to(&client, "one").await {} };
        let limit = Duration::from_secs(60);
        let found = tokio::time::timeout(limit, found).await;
        found.expect("a call that gets to the next leader");
        assert_eq!(client.current_address(), standby.address);
    }

    #[tokio::test]
    async fn where_none_serves_the_one_that_says_so_is_called_whatever_their_order() {
        let standby = Coordinator::start("one", NotServing).await;
        // A port where nobody listens any more.
        let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let dead = closed.local_addr().expect("an address").to_string();
        drop(closed);
        for addresses in [
            format!("{dead},{}", standby.address),
            format!("{},{dead}", standby.address),
        ] {
            let client = Client::new(&addresses, None).expect("a client");
            assert!(gets_to(&client, "one").await, "{addresses}");
            assert_eq!(client.current_address(), standby.address);
        }
    }

    #[tokio::test]
    async fn one_address_is_called_without_a_question() {
        let standby = Coordinator::start("one", NotServing).await;
        let client = Client::new(&standby.address, None).expect("a client");
        assert!(gets_to(&client, "one").await);
    }
}
