//! CUDA's libraries, found when they are needed and not when the program starts.
//!
//! candle links against them, so that a program would not even start on a machine where one is
//! missing. So this program has a jump under the name of every library function that it uses: the
//! linker takes the jump and leaves the library out, and [`load`] fills in the targets.

use std::error::Error;
use std::ffi::c_void;
use std::path::PathBuf;
use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

/// A library that is not there, or that lacks a function.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MissingLibrary {
    #[error(
        "{library} of CUDA 13 is not found ({fault}); install {package}, or put the folder that holds it into \
         LD_LIBRARY_PATH"
    )]
    Library {
        library: &'static str,
        package: &'static str,
        fault: String,
    },
    #[error("{library} has no {function}: it is not the one of CUDA 13")]
    Function {
        library: &'static str,
        function: &'static str,
    },
}

/// The instructions of a jump to where `$function`'s place says.
#[cfg(target_arch = "x86_64")]
macro_rules! instructions {
    ($function:literal) => {
        concat!("jmp qword ptr [rip + ", $function, "_at]")
    };
}
#[cfg(target_arch = "aarch64")]
macro_rules! instructions {
    ($function:literal) => {
        concat!(
            "adrp x16, ",
            $function,
            "_at\nldr x16, [x16, :lo12:",
            $function,
            "_at]\nbr x16"
        )
    };
}

/// A jump `$function`, and the place that says where it leads.
macro_rules! jump {
    ($function:literal) => {
        std::arch::global_asm!(
            concat!(".section .data.", $function, "_at,\"aw\",@progbits"),
            ".p2align 3",
            concat!(".hidden ", $function, "_at"),
            concat!(".globl ", $function, "_at"),
            concat!($function, "_at: .quad qlora_cuda_not_loaded"),
            concat!(".section .text.", $function, ",\"ax\",@progbits"),
            concat!(".hidden ", $function),
            concat!(".globl ", $function),
            concat!(".type ", $function, ", @function"),
            concat!($function, ":"),
            instructions!($function),
            ".text"
        );
    };
}

/// Jumps for the functions of libraries, and a table of them.
macro_rules! libraries {
    ($($table:ident: $library:literal of $package:literal [$($function:literal)*])*) => {
        $(
            $(jump!($function);)*
            fn $table() -> Vec<(&'static str, *mut *mut c_void)> {
                vec![$({
                    unsafe extern "C" {
                        #[link_name = concat!($function, "_at")]
                        static mut AT: *mut c_void;
                    }
                    ($function, &raw mut AT)
                }),*]
            }
        )*

        const LIBRARIES: &[(&str, &str, fn() -> Vec<(&'static str, *mut *mut c_void)>)] =
            &[$(($library, $package, $table)),*];
    };
}

libraries! {
    driver: "libcuda.so.1" of "NVIDIA's driver 580 or newer" [
        "cuCtxDestroy_v2" "cuCtxGetCurrent" "cuCtxSetCurrent" "cuCtxSynchronize" "cuDeviceGet" "cuDeviceGetAttribute" "cuDeviceGetCount"
        "cuDeviceGetDefaultMemPool" "cuDevicePrimaryCtxRelease_v2" "cuDevicePrimaryCtxRetain"
        "cuDriverGetVersion" "cuEventCreate" "cuEventDestroy_v2" "cuEventRecord"
        "cuFuncSetAttribute" "cuGetErrorString" "cuInit" "cuLaunchKernel"
        "cuMemAllocAsync" "cuMemAlloc_v2" "cuMemFreeAsync" "cuMemFreeHost" "cuMemFree_v2" "cuMemGetInfo_v2" "cuMemHostAlloc"
        "cuMemPoolGetAttribute" "cuMemPoolSetAttribute" "cuMemcpyDtoDAsync_v2"
        "cuMemcpyDtoHAsync_v2" "cuMemcpyHtoDAsync_v2" "cuMemcpyPeerAsync" "cuMemsetD8Async" "cuModuleGetFunction"
        "cuModuleLoad" "cuModuleLoadData" "cuModuleUnload" "cuStreamCreate" "cuStreamDestroy_v2"
        "cuStreamIsCapturing" "cuStreamSynchronize" "cuStreamWaitEvent"
    ]
    blas_lt: "libcublasLt.so.13" of "libcublas-13-0" [
        "cublasLtCreate" "cublasLtDestroy" "cublasLtMatmul" "cublasLtMatmulAlgoGetHeuristic" "cublasLtMatmulDescCreate"
        "cublasLtMatmulDescDestroy" "cublasLtMatmulDescSetAttribute" "cublasLtMatmulPreferenceCreate"
        "cublasLtMatmulPreferenceDestroy" "cublasLtMatmulPreferenceSetAttribute" "cublasLtMatrixLayoutCreate"
        "cublasLtMatrixLayoutDestroy"
    ]
    blas: "libcublas.so.13" of "libcublas-13-0" [
        "cublasCreate_v2" "cublasDestroy_v2" "cublasDgemmStridedBatched" "cublasGemmStridedBatchedEx" "cublasSetStream_v2"
    ]
    random: "libcurand.so.10" of "libcurand-13-0" [
        "curandCreateGenerator" "curandDestroyGenerator" "curandGenerateUniform" "curandGenerateUniformDouble" "curandSetPseudoRandomGeneratorSeed" "curandSetStream"
    ]
}

/// Jumps that lead nowhere.
macro_rules! unused {
    ($($function:literal)*) => { $(jump!($function);)* };
}

// candle's own products with GGUF blocks, which the trainer never makes: it dequantizes and
// multiplies. Without them here the linker would take their kernels, and with those a library,
// `libcudart`, that has to be there when a program starts.
unused! {
    "launch_mmq_gguf_q2_k" "launch_mmq_gguf_q3_k" "launch_mmq_gguf_q4_0" "launch_mmq_gguf_q4_1"
    "launch_mmq_gguf_q4_k" "launch_mmq_gguf_q5_0" "launch_mmq_gguf_q5_1" "launch_mmq_gguf_q5_k"
    "launch_mmq_gguf_q6_k" "launch_mmq_gguf_q8_0" "launch_mmq_quantize_q8_1_D2S6"
    "launch_mmq_quantize_q8_1_D4" "launch_mmq_quantize_q8_1_DS4" "launch_mmvq_gguf_q2_k_bf16_plain"
    "launch_mmvq_gguf_q2_k_f16_plain" "launch_mmvq_gguf_q2_k_f32_plain" "launch_mmvq_gguf_q3_k_bf16_plain"
    "launch_mmvq_gguf_q3_k_f16_plain" "launch_mmvq_gguf_q3_k_f32_plain" "launch_mmvq_gguf_q4_0_bf16_plain"
    "launch_mmvq_gguf_q4_0_f16_plain" "launch_mmvq_gguf_q4_0_f32_plain" "launch_mmvq_gguf_q4_1_bf16_plain"
    "launch_mmvq_gguf_q4_1_f16_plain" "launch_mmvq_gguf_q4_1_f32_plain" "launch_mmvq_gguf_q4_k_bf16_plain"
    "launch_mmvq_gguf_q4_k_f16_plain" "launch_mmvq_gguf_q4_k_f32_plain" "launch_mmvq_gguf_q5_0_bf16_plain"
    "launch_mmvq_gguf_q5_0_f16_plain" "launch_mmvq_gguf_q5_0_f32_plain" "launch_mmvq_gguf_q5_1_bf16_plain"
    "launch_mmvq_gguf_q5_1_f16_plain" "launch_mmvq_gguf_q5_1_f32_plain" "launch_mmvq_gguf_q5_k_bf16_plain"
    "launch_mmvq_gguf_q5_k_f16_plain" "launch_mmvq_gguf_q5_k_f32_plain" "launch_mmvq_gguf_q6_k_bf16_plain"
    "launch_mmvq_gguf_q6_k_f16_plain" "launch_mmvq_gguf_q6_k_f32_plain" "launch_mmvq_gguf_q8_0_bf16_plain"
    "launch_mmvq_gguf_q8_0_f16_plain" "launch_mmvq_gguf_q8_0_f32_plain" "launch_mmvq_gguf_quantize_q8_1_bf16"
    "launch_mmvq_gguf_quantize_q8_1_f16" "launch_mmvq_gguf_quantize_q8_1_f32"
}

/// Where a jump leads before [`load`], and for good where no library has its function.
#[unsafe(no_mangle)]
extern "C" fn qlora_cuda_not_loaded() -> ! {
    eprintln!("a function of CUDA was called that was not loaded; please report this");
    std::process::abort()
}

/// Loads the libraries, once for the whole program.
///
/// # Errors
/// One is missing: which, and what to install. A later call says the same.
pub fn load() -> Result<(), MissingLibrary> {
    static LOADED: OnceLock<Result<(), MissingLibrary>> = OnceLock::new();
    LOADED
        .get_or_init(|| {
            LIBRARIES
                .iter()
                .try_for_each(|&(library, package, table)| fill(library, package, table()))
        })
        .clone()
}

fn fill(
    library: &'static str,
    package: &'static str,
    table: Vec<(&'static str, *mut *mut c_void)>,
) -> Result<(), MissingLibrary> {
    let opened = open(library).map_err(|fault| MissingLibrary::Library {
        library,
        package,
        fault,
    })?;
    for (function, at) in table {
        // SAFETY: the symbol is only looked for; `at` is this program's own and is written before
        // anything jumps there.
        unsafe {
            let found = opened.get::<*mut c_void>(function.as_bytes());
            *at = found
                .map_err(|_| MissingLibrary::Function { library, function })?
                .into_raw();
        }
    }
    // It stays for as long as the program runs.
    std::mem::forget(opened);
    Ok(())
}

/// Opens a library for as long as the program runs, so that others find it by its name.
#[cfg(feature = "cudnn")]
pub(super) fn keep_open(library: &str) -> Result<(), String> {
    open(library).map(std::mem::forget)
}

/// The library from where the system looks, or from where toolkits lie.
pub(super) fn open(library: &str) -> Result<Library, String> {
    let homes = ["CUDA_HOME", "CUDA_PATH"]
        .into_iter()
        .filter_map(std::env::var_os)
        .map(PathBuf::from);
    let homes = homes.chain(["/usr/local/cuda-13".into(), "/usr/local/cuda".into()]);
    let places = homes.flat_map(|home| ["lib64", "lib"].map(|lib| home.join(lib).join(library)));
    let mut first = None;
    for place in [PathBuf::from(library)].into_iter().chain(places) {
        // SAFETY: these are NVIDIA's libraries; loading one runs its own preparation.
        match unsafe { Library::open(Some(&place), RTLD_NOW | RTLD_GLOBAL) } {
            Ok(opened) => return Ok(opened),
            Err(fault) => {
                // What the system says stands behind what the loader was doing.
                let said = fault
                    .source()
                    .map_or_else(|| fault.to_string(), ToString::to_string);
                first = first.or(Some(said));
            }
        }
    }
    Err(first.unwrap_or_default())
}
