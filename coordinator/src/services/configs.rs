//! `qlora.v1.ConfigService`.

use qlora_config::Layers;
use qlora_proto::config_service_server::ConfigService;
use qlora_proto::*;
use qlora_store::JobStore;
use sha2::{Digest, Sha256};
use tonic::{Request, Response, Status};

use super::Services;
use crate::clock::now;
use crate::error::CallError;
use crate::runnable::quantizable;
use crate::{caller, convert};

#[tonic::async_trait]
impl<S: JobStore> ConfigService for Services<S> {
    async fn put_config(
        &self,
        request: Request<PutConfigRequest>,
    ) -> Result<Response<ConfigRevision>, Status> {
        let by = caller::by(request.extensions(), "config put");
        let PutConfigRequest { name, yaml } = request.into_inner();
        let valid = !name.is_empty()
            && name.len() <= 100
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if !valid {
            return Err(Status::invalid_argument(
                "a configuration's name is 1 to 100 letters, digits, '-', '_' and '.'",
            ));
        }
        let layers = Layers {
            file: Some((format!("{name}.yaml"), yaml.clone())),
            ..Layers::default()
        };
        let resolved = layers
            .resolve()
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        quantizable(resolved.config()).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let hash = hex::encode(Sha256::digest(yaml.as_bytes()));
        let made = self
            .store
            .put_config(&name, &yaml, &hash, now().wall.0, by)
            .await
            .map_err(|fault| CallError::of_write(&fault))?;
        self.driver.has_recorded();
        Ok(Response::new(convert::config(made)))
    }

    async fn get_config(
        &self,
        request: Request<GetConfigRequest>,
    ) -> Result<Response<ConfigRevision>, Status> {
        let GetConfigRequest { name, revision } = request.into_inner();
        let found = self
            .store
            .config(&name, revision)
            .await
            .map_err(CallError::from)?;
        Ok(Response::new(convert::config(found)))
    }

    async fn list_configs(
        &self,
        request: Request<ListConfigsRequest>,
    ) -> Result<Response<ListConfigsResponse>, Status> {
        let name = request.into_inner().name;
        let name = Some(name.as_str()).filter(|n| !n.is_empty());
        let configs = self.store.configs(name).await.map_err(CallError::from)?;
        Ok(Response::new(ListConfigsResponse {
            configs: configs.into_iter().map(convert::config).collect(),
        }))
    }
}
