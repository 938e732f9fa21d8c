//! What is refused before any work begins.

use qlora_kernels::backend;
use qlora_testkit::skip;

use crate::fixture::{ignored, refusal};

#[test]
#[ignore = "run by the tests below"]
fn a_gpu_opens() {
    if let Err(e) = backend::open_cuda(0) {
        panic!("{e}")
    }
}

#[test]
fn a_folder_without_kernels_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = ignored("open::a_gpu_opens");
    command.env("QLORA_KERNELS", folder.path());
    let said = refusal(command);
    assert!(
        said.contains("QLORA_KERNELS is") && said.contains("holds no NAME.fatbin or NAME.cubin"),
        "{said}"
    );
}

#[test]
fn a_program_built_for_tests_refuses_a_real_gpu() {
    if candle_core::cuda_backend::kernels::CAST
        .ptx()
        .lines()
        .count()
        > 1
    {
        return skip("this program has candle's kernels");
    }
    let mut command = ignored("open::a_gpu_opens");
    command.env_remove("QLORA_EMULATED_GPU");
    let said = refusal(command);
    assert!(
        said.contains("without candle's kernels") && said.contains("cargo clean"),
        "{said}"
    );
}
