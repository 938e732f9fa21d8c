//! The list of sessions of a token, how one ends, and the check of every form.

use std::sync::Arc;

use axum::extract::{FromRequest, Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Extension, Form};
use maud::{Markup, html};
use qlora_proto::words::duration;
use serde::Deserialize;

use super::layout;
use super::refusals::{not_found, refused};
use crate::caller::Caller;
use crate::clock::now;
use crate::sessions::{Session, Sessions};

/// Whoever asks for a change, once the form has shown that a page of this very session sends it. A
/// program that brings a token in its header needs no form.
pub struct Act(pub Caller);

#[derive(Deserialize)]
struct Shown {
    #[serde(default)]
    csrf: String,
}

impl<S: Send + Sync> FromRequest<S> for Act {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let Some(caller) = request.extensions().get::<Caller>().cloned() else {
            return Err(refused(StatusCode::UNAUTHORIZED, "nobody asks for this"));
        };
        let Some(session) = caller.session().cloned() else {
            return Ok(Self(caller));
        };
        let form = Form::<Shown>::from_request(request, state).await;
        let Form(shown) = form.map_err(|fault| refused(fault.status(), fault.body_text()))?;
        if !session.is_own_form(&shown.csrf) {
            return Err(refused(
                StatusCode::FORBIDDEN,
                "this form is not of your session; load the page again and send it from there",
            ));
        }
        Ok(Self(caller))
    }
}

/// What a form brings to be taken.
pub fn form_key(key: &str) -> Markup {
    html! { input type="hidden" name="csrf" value=(key); }
}

/// The sessions of the caller's token.
pub async fn list(
    State(sessions): State<Arc<Sessions>>,
    Extension(caller): Extension<Caller>,
) -> Markup {
    let wall = now().wall.0;
    let own = caller.session().map(|session| session.number);
    let all = sessions.of(caller.holder(), wall);
    layout::page(
        "sessions",
        &html! {
            section {
                h1 { "Sessions of " (caller.holder().who()) }
                @if all.is_empty() { p .dim { "No browser has logged in with this token." } }
                @else { (table(&all, own, caller.form_key(), wall)) }
            }
        },
    )
}

fn table(all: &[Arc<Session>], own: Option<u64>, key: &str, wall: u64) -> Markup {
    let seconds = |ms: u64| duration((ms / 1000) as f64);
    html! {
        div .scroll {
            table {
                thead { tr { th { "Address" } th { "Logged in" } th { "Ends" } th {} } }
                tbody {
                    @for one in all {
                        tr {
                            td { (one.from) @if own == Some(one.number) { span .dim { " this one" } } }
                            td { (seconds(wall.saturating_sub(one.begun))) " ago" }
                            td { "in " (seconds(one.ends.saturating_sub(wall))) }
                            td {
                                form method="post" action={ "/sessions/" (one.number) "/end" } {
                                    (form_key(key))
                                    button type="submit" { "Sign out" }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Ends a session of the caller's token.
pub async fn end(
    State(sessions): State<Arc<Sessions>>,
    Path(number): Path<String>,
    Act(caller): Act,
) -> Response {
    let ended = number
        .parse()
        .is_ok_and(|number| sessions.end(number, caller.holder()));
    if ended {
        Redirect::to("/sessions").into_response()
    } else {
        not_found(format!("your token has no session {number}"))
    }
}
