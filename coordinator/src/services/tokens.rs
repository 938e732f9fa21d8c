//! `qlora.v1.TokenService`.

use std::time::Duration;

use qlora_access::{Fingerprint, Token};
use qlora_proto::token_service_server::TokenService;
use qlora_proto::*;
use qlora_store::{By, JobStore, JournalEntry, TokenRecord, Write};
use tonic::{Request, Response, Status};

use super::Services;
use crate::clock::now;
use crate::error::CallError;
use crate::tokens::{LINK_LIFE, LOCAL};
use crate::{caller, convert};

/// Letters of a token's name.
const LONGEST_NAME: usize = 100;
/// A token that is to last longer had better be one that does not expire.
const LONGEST_LIFE: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

#[tonic::async_trait]
impl<S: JobStore> TokenService for Services<S> {
    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenResponse>, Status> {
        let by = caller::by(request.extensions(), "token create");
        let request = request.into_inner();
        let role = role(&request.role)?;
        check_name(&request.name)?;
        let life = life(role, request.expires_after_ms)?;
        let (_alone, id) = self.tokens.making().await;
        self.check_free(&request.name)?;
        let token = Token::issue().map_err(|e| CallError::Random(e.to_string()))?;
        let wall = now().wall.0;
        let record = TokenRecord {
            id,
            name: request.name,
            role: role.into(),
            hash: Fingerprint::of(token.secret()).hex(),
            created_unix_ms: wall,
            expires_unix_ms: life.map(|life| wall.saturating_add(life)),
            revoked_unix_ms: None,
            used_day: None,
        };
        let entry = entry(EventKind::Created, &record, by);
        let made = vec![Write::AddToken(Box::new(record.clone()))];
        self.store_token(made, entry).await?;
        self.tokens.add(&record);
        self.driver.has_recorded();
        Ok(Response::new(CreateTokenResponse {
            token: token.secret().to_owned(),
            info: Some(convert::token(record)),
        }))
    }

    async fn list_tokens(
        &self,
        _: Request<ListTokensRequest>,
    ) -> Result<Response<ListTokensResponse>, Status> {
        let all = self.tokens.all();
        let tokens = all.iter().map(|one| convert::token(one.record()));
        Ok(Response::new(ListTokensResponse {
            tokens: tokens.collect(),
        }))
    }

    async fn revoke_token(
        &self,
        request: Request<RevokeTokenRequest>,
    ) -> Result<Response<TokenInfo>, Status> {
        let by = caller::by(request.extensions(), "token revoke");
        let id = request.into_inner().id;
        let token = self
            .tokens
            .get(id)
            .ok_or_else(|| Status::not_found(format!("there is no token {id}")))?;
        let record = token.record();
        if record.revoked_unix_ms.is_none() {
            let unix_ms = now().wall.0;
            let entry = entry(EventKind::Revoked, &record, by);
            let ended = vec![Write::RevokeToken { id, unix_ms }];
            // In a task of its own: a caller who breaks off does not part the two.
            let (services, token) = (self.clone(), token.clone());
            let revoking = tokio::spawn(async move {
                let stored = services.store_token(ended, entry).await;
                // One that may be durable is in force, whichever it is.
                if matches!(stored, Ok(()) | Err(CallError::Unsure(_))) {
                    // Before the journal is read: what it sends is the next message of who was let in.
                    token.revoke(unix_ms);
                }
                services.driver.has_recorded();
                stored
            });
            revoking.await.map_err(|_| CallError::Stopping)??;
        }
        Ok(Response::new(convert::token(token.record())))
    }

    async fn link_page(
        &self,
        request: Request<LinkPageRequest>,
    ) -> Result<Response<LinkPageResponse>, Status> {
        let caller = caller::of(request.extensions());
        let caller = caller.ok_or_else(|| Status::unauthenticated("a link is for a token"))?;
        let made = self.tokens.link(caller.holder().clone());
        let key = made.map_err(|e| CallError::Random(e.to_string()))?;
        Ok(Response::new(LinkPageResponse {
            key,
            expires_after_ms: LINK_LIFE.as_millis() as u64,
        }))
    }
}

fn role(word: &str) -> Result<Role, CallError> {
    Role::parse(word).ok_or_else(|| {
        CallError::Invalid(format!(
            "a token's role is {}, not `{}`",
            Role::words(),
            word.escape_default()
        ))
    })
}

/// The journal calls people by these names: none may look like another's, or like a number.
fn check_name(name: &str) -> Result<(), CallError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if name.len() > LONGEST_NAME || !name.bytes().all(plain) {
        return Err(CallError::Invalid(format!(
            "a token's name is up to {LONGEST_NAME} letters, digits, '-', '_' and '.'"
        )));
    }
    if name == LOCAL {
        return Err(CallError::Invalid(format!(
            "`{LOCAL}` is the name of the first token"
        )));
    }
    Ok(())
}

/// How long a token lasts; none is without end.
fn life(role: Role, asked_ms: u64) -> Result<Option<u64>, CallError> {
    let longest = LONGEST_LIFE.as_millis() as u64;
    match asked_ms {
        0 if role == Role::Worker => Err(CallError::Invalid(
            "a worker's token expires: it lies on a machine that others may run".into(),
        )),
        0 => Ok(None),
        asked if asked > longest => Err(CallError::Invalid(
            "a token expires within ten years or not at all".into(),
        )),
        asked => Ok(Some(asked)),
    }
}

fn entry(kind: EventKind, token: &TokenRecord, by: Option<By>) -> JournalEntry {
    let name = if token.name.is_empty() {
        String::new()
    } else {
        format!(" {}", token.name)
    };
    JournalEntry {
        seq: 0,
        unix_ms: now().wall.0,
        job: None,
        worker: None,
        kind: kind.into(),
        text: format!("token {}{name} of the role {}", token.id, token.role),
        by,
    }
}

impl<S: JobStore> Services<S> {
    /// Who has a name in the journal is one and the same, as long as the token is in force.
    fn check_free(&self, name: &str) -> Result<(), Status> {
        let wall = now().wall.0;
        let all = self.tokens.all();
        let taken = all
            .iter()
            .find(|one| !name.is_empty() && one.name == name && one.check(wall).is_ok());
        taken.map_or(Ok(()), |one| {
            Err(Status::already_exists(format!(
                "token {} has the name {name}; revoke it first, or give another name",
                one.id
            )))
        })
    }

    /// Makes a change of a token durable.
    async fn store_token(
        &self,
        mut writes: Vec<Write>,
        entry: JournalEntry,
    ) -> Result<(), CallError> {
        writes.push(Write::Journal(entry.clone()));
        let stored = self.store.apply(writes).await;
        stored.map_err(|fault| CallError::of_write(&fault))?;
        // Not before: the log tells of what there is.
        tracing::info!(
            who = entry.by.as_ref().map(|by| by.who.as_str()),
            "{} {}",
            entry.text,
            entry.kind
        );
        Ok(())
    }
}
