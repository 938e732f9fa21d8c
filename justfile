# The commands of a developer's day; CONTRIBUTING.md says when each is wanted and how long it takes. `just` lists them.
# Get `just` by `pip install rust-just` or `cargo install just`.

set shell := ["bash", "-euo", "pipefail", "-c"]

# Changed crates of this workspace are compiled again in part only.
export CARGO_INCREMENTAL := "1"

[private]
default:
    @just --list --unsorted

# Format and lint the workspace, without the cuda feature.
check:
    cargo fmt --all --check
    cargo clippy --release --workspace --all-targets -- -D warnings

# Write the format.
fmt:
    cargo fmt --all

# The first call for a crate takes long: `-p` gives common dependencies this crate's own features, and they are compiled once more.
# Tests of one crate, named without `qlora-`: `just test data`, `just test data --test masks`.
test CRATE *ARGS:
    . tests/env && cargo test --release -p qlora-{{CRATE}} --lib --bins --tests {{ARGS}}

# Integration tests with the real programs, chosen by a part of their names: `just it first_hour`.
it NAME *ARGS:
    . tests/env && cargo build --release --bins --examples && cargo test --release --workspace --test main -- {{NAME}} {{ARGS}}

# Kill the real programs at random times, in so many rounds from the given seed on: `just kills 1000`, `just kills 1 17`.
kills ROUNDS="100" SEED="1":
    cargo build --release --bins && QLORA_TEST_KILLS={{ROUNDS}} QLORA_TEST_KILLS_FROM={{SEED}} cargo test --release --workspace --test main -- kills:: --nocapture

# Simulate coordinator, store, workers and network, from so many seeds from the first on: `just simulate 1 17` shows one.
simulate SEEDS="2000" FIRST="1":
    QLORA_TEST_SIMULATIONS={{SEEDS}} QLORA_TEST_SIMULATIONS_FROM={{FIRST}} cargo test --release --workspace --test seeds -- no_seed --nocapture

# One fuzz target for an hour, or for so many seconds: `just fuzz yaml`, `just fuzz messages 600`.
fuzz TARGET SECONDS="3600":
    #!/usr/bin/env bash
    set -euo pipefail
    file=$(git grep -lw 'fn fuzz_{{TARGET}}' -- '*.rs') || { echo "there is no target {{TARGET}}" >&2; exit 1; }
    folder=$(dirname "$file")
    until [ -e "$folder/Cargo.toml" ]; do folder=$(dirname "$folder"); done
    cd "$folder"
    QLORA_FUZZ_SECONDS={{SECONDS}} cargo test --release --lib --tests fuzz_{{TARGET}}

# Write what tests compare as a whole: the reference of the configuration, the page of options, recorded texts.
bless:
    . tests/env && cargo build --release --bins && UPDATE_EXPECT=1 cargo test --release --workspace --test main -- reference:: options:: snapshots::

# Lint the cuda feature and run its tests on the emulated GPU; no GPU and no driver are needed.
emulated *ARGS:
    #!/usr/bin/env bash
    set -euo pipefail
    . tests/env
    env "${for_cuda[@]}" cargo clippy --release "${with_cuda[@]}" --all-targets -- -D warnings
    worker/kernels/tests/emulated/build.sh target/emulated
    on_emulated {{ARGS}}

# Plant faults in copies of the GPU's code, and see the emulated GPU find each: all, or those with a word in their names.
planted *NAMES:
    . tests/env && tests=$(operations_tests) && worker/kernels/tests/emulated/planted.sh "$tests" {{NAMES}}

# Break each invariant of docs/ARCHITECTURE.md in a copy of the tree, and see its test fail: all, or those of these numbers.
sabotage *NUMBERS:
    tests/sabotage/run {{NUMBERS}}

# Speed of training steps on this machine; `just bench --kernels` times every operation.
bench *ARGS:
    cargo run --release -q --bin qlora-worker -- bench --random-weights {{ARGS}}

# Licenses, sources, banned and doubled dependencies.
deny:
    . tests/env && "$cargo_deny" check bans licenses sources

# Everything that continuous integration runs.
ci:
    CARGO_INCREMENTAL=0 .ci/run
