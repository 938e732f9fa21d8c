//! The instructions for products in bf16 that this CPU has, those that it must have, and those that
//! it lacks.

use std::sync::Once;

use qlora_kernels::Instructions;

use qlora_testkit::skip;

/// What some CPUs of this architecture have.
const OF_ARCHITECTURE: &[Instructions] = if cfg!(target_arch = "x86_64") {
    &[
        Instructions::Amx,
        Instructions::Avx512Bf16,
        Instructions::Avx2,
    ]
} else if cfg!(target_arch = "aarch64") {
    &[Instructions::Neon]
} else {
    &[]
};

/// Whether this CPU has the instructions as the standard library sees it, which knows nothing of
/// AMX: whether the system permits that is known only where it is asked for.
fn is_due(instructions: Instructions) -> bool {
    match instructions {
        Instructions::Portable => true,
        Instructions::Neon => cfg!(target_arch = "aarch64"),
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512Bf16 => {
            is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16")
        }
        _ => false,
    }
}

/// All that are found here. What this CPU must have and is not found fails the test; what others
/// have is told as skipped, once a program.
pub fn every() -> Vec<Instructions> {
    static TOLD: Once = Once::new();
    let found: Vec<Instructions> = Instructions::all().collect();
    for due in Instructions::KNOWN.into_iter().filter(|i| is_due(*i)) {
        assert!(found.contains(&due), "{} is not found", due.name());
    }
    TOLD.call_once(|| {
        for missing in OF_ARCHITECTURE.iter().filter(|i| !found.contains(i)) {
            skip(&format!("this CPU has no {}", missing.name()));
        }
    });
    found
}
