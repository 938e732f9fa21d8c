//! Which roles may call what: one row for each method of gRPC and each route of the page.
//!
//! What has no row is refused, also to an admin, who may call everything that has one. A test holds
//! the rows against the descriptors of the protocol.

use axum::http::Method;
use qlora_proto::Role;

use super::form;
use super::refusal::Refusal;

/// Roles that may call something, the one that is enough first. None stands for an admin alone.
type Roles = &'static [Role];

const READ: Roles = &[Role::Viewer, Role::Submitter];
const ACT: Roles = &[Role::Submitter];
const WORK: Roles = &[Role::Worker];
/// Of what people and workers need alike.
const READ_AND_WORK: Roles = &[Role::Viewer, Role::Submitter, Role::Worker];
const ACT_AND_WORK: Roles = &[Role::Submitter, Role::Worker];
const ADMIN: Roles = &[];

/// Methods by their paths. Health is open to everybody and has no row.
pub const METHODS: &[(&str, Roles)] = &[
    ("/qlora.v1.JobService/Submit", ACT),
    ("/qlora.v1.JobService/GetJob", READ),
    ("/qlora.v1.JobService/ListJobs", READ),
    ("/qlora.v1.JobService/Cancel", ACT),
    ("/qlora.v1.JobService/Pause", ACT),
    ("/qlora.v1.JobService/Resume", ACT),
    ("/qlora.v1.JobService/Retry", ACT),
    ("/qlora.v1.JobService/Remove", ACT),
    // It deletes jobs of everybody at once.
    ("/qlora.v1.JobService/Prune", ADMIN),
    ("/qlora.v1.JobService/Explain", READ),
    ("/qlora.v1.JobService/Watch", READ),
    ("/qlora.v1.JobService/GetMetrics", READ),
    ("/qlora.v1.JobService/StreamLogs", READ),
    ("/qlora.v1.ConfigService/PutConfig", ACT),
    ("/qlora.v1.ConfigService/GetConfig", READ),
    ("/qlora.v1.ConfigService/ListConfigs", READ),
    ("/qlora.v1.WorkerService/Register", WORK),
    ("/qlora.v1.WorkerService/Synchronize", WORK),
    ("/qlora.v1.WorkerService/Report", WORK),
    ("/qlora.v1.WorkerService/CommitArtifact", WORK),
    ("/qlora.v1.WorkerService/Finish", WORK),
    ("/qlora.v1.WorkerService/Rendezvous", WORK),
    // `qlora-worker doctor` tries its token with it.
    ("/qlora.v1.WorkerService/ListWorkers", READ_AND_WORK),
    ("/qlora.v1.WorkerService/RemoveWorker", ADMIN),
    ("/qlora.v1.WorkerService/DrainWorker", ADMIN),
    ("/qlora.v1.WorkerService/UndrainWorker", ADMIN),
    ("/qlora.v1.WorkerService/DrainQueue", ADMIN),
    ("/qlora.v1.WorkerService/UndrainQueue", ADMIN),
    ("/qlora.v1.ArtifactService/StatArtifact", READ_AND_WORK),
    // The service itself binds a worker to its attempt.
    ("/qlora.v1.ArtifactService/Upload", ACT_AND_WORK),
    ("/qlora.v1.ArtifactService/Download", READ_AND_WORK),
    ("/qlora.v1.EventService/Subscribe", READ),
    ("/qlora.v1.TokenService/CreateToken", ADMIN),
    ("/qlora.v1.TokenService/ListTokens", ADMIN),
    ("/qlora.v1.TokenService/RevokeToken", ADMIN),
    // Of the caller's own token.
    ("/qlora.v1.TokenService/LinkPage", READ),
    (
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        READ_AND_WORK,
    ),
    (
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        READ_AND_WORK,
    ),
];

/// Routes of the page, and who may send something to each; who reads may look at all of them. A
/// part in braces stands for any text.
pub const PAGES: &[(&str, Roles)] = &[
    ("/", READ),
    ("/metrics", READ),
    ("/j/{id}", READ),
    ("/j/{id}/artifacts/{name}", READ),
    ("/j/{id}/cancel", ACT),
    ("/j/{id}/pause", ACT),
    ("/j/{id}/resume", ACT),
    // Of the caller's own token.
    ("/sessions", READ),
    ("/sessions/{number}/end", READ),
];

/// Whether `role` may make this request.
///
/// # Errors
/// Nothing is there, or it needs another role.
pub fn check(role: Role, method: &Method, path: &str) -> Result<(), Refusal> {
    let needed = needed(method, path).ok_or_else(|| Refusal::Absent(path.to_owned()))?;
    if role == Role::Admin || needed.contains(&role) {
        return Ok(());
    }
    Err(Refusal::Role {
        has: role,
        needs: needed.first().copied().unwrap_or(Role::Admin),
    })
}

/// Whether a method is one that workers alone call.
pub fn is_work(path: &str) -> bool {
    METHODS
        .iter()
        .any(|(name, roles)| *name == path && *roles == WORK)
}

fn needed(method: &Method, path: &str) -> Option<Roles> {
    if form::is_grpc_path(path) {
        return METHODS
            .iter()
            .find_map(|(name, roles)| (*name == path).then_some(*roles));
    }
    let (_, acts) = PAGES.iter().find(|(pattern, _)| fits(pattern, path))?;
    Some(if *method == Method::POST { *acts } else { READ })
}

fn fits(pattern: &str, path: &str) -> bool {
    let (mut wanted, mut given) = (pattern.split('/'), path.split('/'));
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return true,
            (Some(part), Some(text)) if part.starts_with('{') && !text.is_empty() => {}
            (Some(part), Some(text)) if part == text => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each role may do, apart from the table above: a slip there shows here.
    fn may(role: Role, method: &str) -> bool {
        let (service, name) = method
            .trim_start_matches("/qlora.v1.")
            .split_once('/')
            .expect("a method");
        let reads = matches!(service, "JobService" | "ConfigService" | "EventService")
            && ["Get", "List", "Explain", "Watch", "Stream", "Subscribe"]
                .iter()
                .any(|start| name.starts_with(start));
        let looks = matches!(name, "ListWorkers" | "StatArtifact" | "Download");
        let acts = matches!(
            name,
            "Submit" | "Cancel" | "Pause" | "Resume" | "Retry" | "Remove" | "PutConfig" | "Upload"
        );
        let operates = matches!(
            name,
            "RemoveWorker" | "DrainWorker" | "UndrainWorker" | "DrainQueue" | "UndrainQueue"
        );
        let works = service == "WorkerService" && !operates;
        match role {
            Role::Admin => true,
            Role::Submitter => reads || looks || acts || name == "LinkPage",
            Role::Viewer => reads || looks || name == "LinkPage",
            Role::Worker => looks || works || name == "Upload",
        }
    }

    #[test]
    fn every_method_of_the_protocol_has_one_row_and_every_role_what_it_is_for() {
        assert!(qlora_proto::METHODS.len() > 25, "methods are missing");
        for method in qlora_proto::METHODS {
            let rows = METHODS.iter().filter(|(path, _)| path == method).count();
            assert_eq!(rows, 1, "{method} needs one row in METHODS");
            for role in Role::ALL {
                let answer = check(*role, &Method::POST, method);
                assert_eq!(answer.is_ok(), may(*role, method), "{role} {method}");
                if let Err(refusal) = answer {
                    assert!(matches!(refusal, Refusal::Role { .. }), "{refusal}");
                }
            }
        }
        let own = METHODS
            .iter()
            .filter(|(path, _)| path.starts_with("/qlora."));
        for (path, _) in own {
            assert!(qlora_proto::METHODS.contains(path), "{path} is no method");
        }
    }

    #[test]
    fn what_has_no_row_is_refused_to_everybody() {
        for path in [
            "/qlora.v1.JobService/Erase",
            "//qlora.v1.JobService/Submit",
            "/qlora.v1.JobService/Submit/",
            "/some.other/Method",
            "/j",
            "/j/",
            "/j/1/",
            "/j/1/erase",
            "/j/1/artifacts/",
            "/jobs",
            "",
        ] {
            for role in Role::ALL {
                let refused = check(*role, &Method::POST, path);
                assert_eq!(refused, Err(Refusal::Absent(path.into())), "{role}");
            }
        }
    }

    #[test]
    fn a_viewer_looks_at_the_page_and_changes_nothing_and_a_worker_sees_none_of_it() {
        let own = ["/", "/metrics", "/j/1", "/j/1/artifacts/a.tar"];
        for path in own
            .iter()
            .chain(&["/j/1/cancel", "/j/x/pause", "/j/1/resume"])
        {
            let acts = !own.contains(path);
            for (role, looks, changes) in [
                (Role::Admin, true, true),
                (Role::Submitter, true, true),
                (Role::Viewer, true, !acts),
                (Role::Worker, false, false),
            ] {
                for (method, wanted) in [
                    (Method::GET, looks),
                    (Method::HEAD, looks),
                    (Method::POST, changes),
                ] {
                    let answer = check(role, &method, path);
                    assert_eq!(answer.is_ok(), wanted, "{role} {method} {path}");
                }
            }
        }
    }

    #[test]
    fn a_refusal_names_the_role_that_is_enough() {
        for (method, wanted) in [
            ("/qlora.v1.JobService/Submit", "submitter"),
            ("/qlora.v1.TokenService/ListTokens", "admin"),
            ("/qlora.v1.WorkerService/Register", "worker"),
        ] {
            let refused = check(Role::Viewer, &Method::POST, method).expect_err("a refusal");
            let said = refused.to_string();
            assert!(
                said.contains("has the role viewer") && said.contains(&format!("needs {wanted}")),
                "{said}"
            );
            assert_eq!(refused.code(), tonic::Code::PermissionDenied);
        }
        let refused = check(Role::Worker, &Method::GET, "/").expect_err("a refusal");
        assert!(refused.to_string().contains("needs viewer"), "{refused}");
    }
}
