use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use qlora_client::console;
use qlora_proto::{
    CreateTokenRequest, CreateTokenResponse, ListTokensRequest, RevokeTokenRequest, Role, TokenInfo,
};
use tonic::{Code, Status};

use crate::context::Context;
use crate::error::{CtlError, Exit};
use crate::output::{human, json, print, print_json};
use qlora_proto::numbers::{span, whole};

/// How long a worker's token lasts where nothing is said.
const WORKER: Duration = Duration::from_secs(30 * 24 * 3600);

/// Make, list and end tokens, each for one role.
///
/// The token that the coordinator made at its first start may do everything. A submitter submits
/// jobs and acts on them, a viewer looks, a worker takes jobs; an admin may do everything too.
#[derive(Debug, Subcommand)]
pub enum Token {
    /// Make a token and print it. It is not shown again.
    Create {
        /// What it is for: admin, submitter, viewer or worker.
        #[arg(long, value_parser = role)]
        role: Role,
        /// Whose it is, as `audit` tells; letters, digits, '-', '_' and '.'.
        #[arg(long, default_value = "", hide_default_value = true)]
        name: String,
        /// When it ends, such as 30d, 12h or 90m from now; for a worker 30d where nothing is given,
        /// else never.
        #[arg(long, value_name = "TIME", allow_negative_numbers = true, value_parser = span)]
        expires: Option<Duration>,
    },
    /// List tokens, those included that are over.
    List,
    /// End a token at once, and what it has open.
    Revoke {
        /// Its number, as `token list` shows it.
        #[arg(allow_negative_numbers = true, value_parser = whole::<u64>("the number of a token, which `token list` shows", 0..))]
        id: u64,
    },
}

impl Token {
    pub async fn run(&self, context: &Context) -> Result<ExitCode, CtlError> {
        match self {
            Self::Create {
                role,
                name,
                expires,
            } => create(context, *role, name, *expires).await?,
            Self::List => list(context).await?,
            Self::Revoke { id } => revoke(context, *id).await?,
        }
        Ok(Exit::Done.into())
    }
}

fn role(word: &str) -> Result<Role, String> {
    Role::parse(word).ok_or_else(|| format!("a role is {}", Role::words()))
}

async fn create(
    context: &Context,
    role: Role,
    name: &str,
    expires: Option<Duration>,
) -> Result<(), CtlError> {
    let expires = expires.or((role == Role::Worker).then_some(WORKER));
    let request = CreateTokenRequest {
        role: role.into(),
        name: name.to_owned(),
        expires_after_ms: expires.map_or(0, |life| life.as_millis() as u64),
    };
    let mut client = context.client().await?;
    let answer = client.tokens.create_token(request).await;
    let CreateTokenResponse { token, info } = answer.map_err(context.fault())?.into_inner();
    let info = info.unwrap_or_default();
    if context.global.json {
        let mut made = json::token(&info);
        made["token"] = token.into();
        return print_json(&made);
    }
    let end = match info.expires_unix_ms {
        0 => "does not expire".to_owned(),
        at => format!("expires on {}", human::day(at)),
    };
    context.say(format!(
        "token {} of the role {role} {end}; it is not shown again: keep it in a file of mode 0600 and give --token-file FILE",
        info.id
    ));
    print(token)
}

async fn list(context: &Context) -> Result<(), CtlError> {
    let mut client = context.client().await?;
    let answer = client.tokens.list_tokens(ListTokensRequest {}).await;
    let all = answer.map_err(context.fault())?.into_inner().tokens;
    if context.global.json {
        return all.iter().try_for_each(|one| print_json(&json::token(one)));
    }
    if all.is_empty() {
        context.say(
            "no tokens beside the first one; make one with: qlora-ctl token create --role ROLE",
        );
        return Ok(());
    }
    let now = jiff::Timestamp::now().as_millisecond();
    let rows: Vec<_> = all.iter().map(|one| row(one, now)).collect();
    let columns = [
        human::number("ID", 0),
        human::text("NAME", 0),
        human::word("ROLE", 0),
        human::word("STATE", 0),
        human::word("CREATED", 2),
        human::word("EXPIRES", 1),
        human::word("LAST USED", 3),
    ];
    print(human::table(&columns, &rows))
}

fn row(token: &TokenInfo, now: i64) -> Vec<String> {
    let state = if token.revoked_unix_ms > 0 {
        "revoked"
    } else if token.expires_unix_ms > 0 && token.expires_unix_ms <= now {
        "expired"
    } else {
        "in force"
    };
    let or = |day: String, word: &str| if day.is_empty() { word.into() } else { day };
    vec![
        token.id.to_string(),
        token.name.clone(),
        token.role.clone(),
        state.into(),
        human::day(token.created_unix_ms),
        or(human::day(token.expires_unix_ms), "never"),
        or(human::day(token.last_used_unix_ms), "never"),
    ]
}

/// The error of a call for one token.
fn unknown(context: &Context, status: Status) -> CtlError {
    match status.code() {
        Code::NotFound => CtlError::Refused {
            message: status.message().to_owned(),
            help: "qlora-ctl token list shows them",
            exit: Exit::Refused,
        },
        _ => context.fault()(status),
    }
}

async fn revoke(context: &Context, id: u64) -> Result<(), CtlError> {
    let mut client = context.client().await?;
    let answer = client.tokens.revoke_token(RevokeTokenRequest { id }).await;
    let ended = answer
        .map_err(|status| unknown(context, status))?
        .into_inner();
    if context.global.json {
        return print_json(&json::token(&ended));
    }
    context.say(format!(
        "token {id} {}is revoked",
        if ended.name.is_empty() {
            String::new()
        } else {
            format!("{} ", console::line(&ended.name))
        }
    ));
    Ok(())
}
