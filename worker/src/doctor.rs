//! `qlora-worker doctor`: can this machine train, and what is missing.

use std::process::ExitCode;

use serde::Serialize;

use crate::cli::AgentArgs;
use crate::models::Cache;
use crate::platform::{self, Accelerator};

#[derive(Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    /// Training goes on without it.
    optional: bool,
    text: String,
}

/// Prints every check; exit code 1 where one that matters fails.
pub fn run(args: &AgentArgs, json: bool) -> ExitCode {
    let checks = checks(args);
    if json {
        println!("{}", serde_json::json!({ "checks": checks }));
    } else {
        for check in &checks {
            let mark = if check.ok {
                "ok"
            } else if check.optional {
                "--"
            } else {
                "no"
            };
            println!("{mark:<3} {:<16} {}", check.name, check.text);
        }
    }
    if checks.iter().all(|c| c.ok || c.optional) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn checks(args: &AgentArgs) -> Vec<Check> {
    let folder = std::env::temp_dir();
    let mut checks = Vec::new();
    match platform::offers(None, &[], &folder) {
        Ok(all) => {
            let p = all.first().cloned().unwrap_or_default();
            let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64);
            checks.push(Check {
                name: "processor",
                ok: true,
                optional: false,
                text: format!("{}, {} cores", p.cpu_model, p.cpu_cores),
            });
            let enough = p.memory >= 1 << 30;
            checks.push(Check {
                name: "memory",
                ok: enough,
                optional: false,
                text: format!("{}, free {}", gib(p.memory), gib(p.device_memory_free)),
            });
            let space = p.disk_free == 0 || p.disk_free >= 2 << 30;
            checks.push(Check {
                name: "disk",
                ok: space,
                optional: false,
                text: format!("free {} at {}", gib(p.disk_free), folder.display()),
            });
            checks.push(Check {
                name: "offers",
                ok: true,
                optional: false,
                text: all
                    .iter()
                    .map(|p| format!("{} on {}", p.device_class().word(), p.device_name))
                    .collect::<Vec<_>>()
                    .join(", "),
            });
        }
        Err(e) => checks.push(Check { name: "platform", ok: false, optional: false, text: e.to_string() }),
    }
    for (name, found) in platform::accelerators() {
        let ok = found.is_ok();
        let line = |gpu: &Accelerator| format!("{} {} driver {}", gpu.name, gpu.compute_capability, gpu.driver);
        let text = found.map_or_else(|e| e, |gpus| gpus.iter().map(line).collect::<Vec<_>>().join(", "));
        checks.push(Check { name, ok, optional: true, text });
    }
    checks.push(Check {
        name: "products",
        ok: true,
        optional: true,
        text: qlora_trainer::device::processor_products().into(),
    });
    for (name, feature, built) in
        [("built for cuda", "cuda", cfg!(feature = "cuda")), ("built for metal", "metal", cfg!(feature = "metal"))]
    {
        let no = || format!("no; cargo build --release -p qlora-worker --features {feature}");
        let text = if built { "yes".into() } else { no() };
        checks.push(Check { name, ok: built, optional: true, text });
    }
    if let Some(found) = qlora_trainer::device::cudnn() {
        let (ok, text) = (found.is_ok(), found.unwrap_or_else(|e| format!("{e}; attention is our own")));
        checks.push(Check { name: "cuDNN", ok, optional: true, text });
    }
    checks.push(match Cache::open() {
        Ok(cache) => Check { name: "models", ok: true, optional: false, text: cache.folder().display().to_string() },
        Err(e) => Check { name: "models", ok: false, optional: false, text: e.to_string() },
    });
    checks.push(reach(&args.coordinator));
    checks
}

fn reach(address: &str) -> Check {
    use std::net::{TcpStream, ToSocketAddrs};
    use std::time::Duration;

    let bare = address.rsplit("://").next().unwrap_or(address);
    let found = bare.to_socket_addrs().map_err(|e| e.to_string()).and_then(|mut all| {
        let first = all.next().ok_or("the name has no address")?;
        TcpStream::connect_timeout(&first, Duration::from_secs(3)).map_err(|e| e.to_string())
    });
    let ok = found.is_ok();
    let text = found.map_or_else(|e| format!("{address}: {e}"), |_| format!("{address} answers"));
    Check { name: "coordinator", ok, optional: true, text }
}
