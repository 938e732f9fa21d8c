//! cuDNN's attention: what it computes once it is chosen, and where our kernels do in its place.

use std::process::Command;

use qlora_kernels::types::options::{AttentionOptions, Options, WantedAttention};
use qlora_kernels::{AttentionShape, Result, Span};
use qlora_testkit::skip;

use super::case::{Case, Layout};
use super::pairs;
use crate::fixture::{Subject, is_emulated};

/// A GPU, opened to try cuDNN on sequences of up to 64 tokens.
fn wanting(wanted: WantedAttention, shape: AttentionShape) -> Result<Subject> {
    Subject::gpu(&Options {
        attention: Some(AttentionOptions {
            shape,
            wanted,
            length: 64,
        }),
        ..Options::default()
    })
}

/// Which attention `gpu` says that it chose.
fn chosen(gpu: &Subject) -> String {
    gpu.backend.attention().unwrap_or_default()
}

/// Whose kernels computed, once what they gave has been checked.
fn used(gpu: &Subject, shape: AttentionShape, spans: &[Span]) -> Result<Layout> {
    Case::new(shape, spans).agrees_on(gpu)
}

const CUDNN: Layout = Layout::ByToken;
const OWN: Layout = Layout::ByHead;

fn packed() -> Vec<Span> {
    Span::packed(&[1, 67, 30])
}

#[test]
fn agrees_once_it_is_chosen() -> Result<()> {
    for head_dim in [32, 64, 128] {
        let shape = pairs(head_dim, None);
        let gpu = wanting(WantedAttention::Cudnn, shape)?;
        let said = chosen(&gpu);
        assert!(
            said.starts_with("cuDNN") && !said.contains("time"),
            "{said}"
        );
        assert_eq!(used(&gpu, shape, &packed())?, CUDNN);
        // A longest sequence of a power of two, and of one token more.
        assert_eq!(used(&gpu, shape, &Span::packed(&[64]))?, CUDNN);
        assert_eq!(used(&gpu, shape, &Span::packed(&[65, 3]))?, CUDNN);
        // Keys from before are no whole sequences.
        assert_eq!(used(&gpu, shape, &[Span { q: 0..5, k: 0..90 }])?, OWN);
        // What another backend chose does not matter.
        let own = wanting(WantedAttention::Repeatable, shape)?;
        assert!(chosen(&own).starts_with("own kernels"));
        assert_eq!(used(&own, shape, &packed())?, OWN);
        assert_eq!(used(&gpu, shape, &packed())?, CUDNN);
    }
    Ok(())
}

#[test]
fn is_the_fastest_only_if_it_says_so() -> Result<()> {
    let gpu = wanting(WantedAttention::Fastest, pairs(32, None))?;
    let said = chosen(&gpu);
    assert_eq!(
        said.contains("of our kernels' time"),
        used(&gpu, pairs(32, None), &packed())? == CUDNN,
        "{said}"
    );
    Ok(())
}

#[test]
fn takes_scales_and_windows() -> Result<()> {
    let scaled = AttentionShape {
        scale: 0.5,
        ..pairs(32, None)
    };
    // Windows that are left at once (with one of 1 all gradients of scores are zero), and of all
    // but a few tokens.
    let windows = [2, 9, 64].map(|window| pairs(32, Some(window)));
    for shape in [scaled].into_iter().chain(windows) {
        let gpu = wanting(WantedAttention::Cudnn, shape)?;
        assert_eq!(used(&gpu, shape, &packed())?, CUDNN, "{shape:?}");
    }
    Ok(())
}

/// cuDNN computes the layers that it was tried for: those with a window only where the backend was
/// opened with one.
#[test]
fn takes_the_window_of_each_layer() -> Result<()> {
    let gpu = wanting(WantedAttention::Cudnn, pairs(32, Some(9)))?;
    for window in [None, Some(9), Some(20), Some(400)] {
        let found = used(&gpu, pairs(32, window), &packed())?;
        assert_eq!(found, CUDNN, "{window:?}");
    }
    let gpu = wanting(WantedAttention::Cudnn, pairs(32, None))?;
    for (window, due) in [(None, CUDNN), (Some(9), OWN), (Some(400), CUDNN)] {
        let found = used(&gpu, pairs(32, window), &packed())?;
        assert_eq!(found, due, "{window:?}");
    }
    Ok(())
}

/// An emulated cuDNN that has no plans for heads of 128 and ignores windows, as its variables say.
#[test]
#[ignore = "run by the test below"]
fn one_that_fails() -> Result<()> {
    wanting(WantedAttention::Cudnn, pairs(32, None))?;
    assert!(wanting(WantedAttention::Cudnn, pairs(128, None)).is_err());
    let gpu = wanting(WantedAttention::Fastest, pairs(128, None))?;
    assert!(chosen(&gpu).starts_with("own kernels"));
    assert_eq!(used(&gpu, pairs(128, None), &packed())?, OWN);
    // What differs is not taken.
    let gpu = wanting(WantedAttention::Fastest, pairs(32, Some(9)))?;
    let said = chosen(&gpu);
    assert!(said.starts_with("own kernels (cuDNN's o is"), "{said}");
    assert!(wanting(WantedAttention::Cudnn, pairs(32, Some(9))).is_err());
    used(&gpu, pairs(32, Some(9)), &packed()).map(drop)
}

#[test]
fn is_not_taken_where_it_fails() {
    if !is_emulated() {
        return skip("it takes the emulated cuDNN");
    }
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["--ignored", "--exact", "--nocapture"])
        .arg("attention::cudnn::one_that_fails")
        .env("QLORA_EMULATED_CUDNN_REFUSES", "128")
        .env("QLORA_EMULATED_CUDNN_IGNORES", "windows")
        .output()
        .expect("this program");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}"
    );
}
