#!/usr/bin/env bash
# Whether the emulated GPU finds faults: each of these is planted in a copy of the kernels or of the driver, and the test
# named with it, which passes without the fault, has to fail.
#
#   worker/kernels/tests/emulated/planted.sh TESTS
#
# TESTS is the program of the kernels' `device` tests, which
# `cargo test --release -p qlora-kernels --features cudnn --test device --no-run` builds. Faults of the program's own calls,
# a wait for an event or a request for shared memory that is not made, are planted where the driver takes the call.
set -euo pipefail
tests=$(realpath "${1:?usage: planted.sh TESTS}")
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
missed=0

copy() {
  rm -rf "$work/src" "$work/tests" "$work/built"
  mkdir -p "$work/src/backend" "$work/tests"
  cp -r "$here/../../src/backend/cuda" "$work/src/backend/cuda"
  cp -r "$here" "$work/tests/emulated"
}

# The status of TEST, what it says in a file. A shell of its own keeps to itself that a program was aborted.
run() {
  (
    QLORA_EMULATED_GPU=1 LD_LIBRARY_PATH=$work/built timeout 300 "$tests" --exact "$1"
    exit $?
  ) >"$work/said" 2>&1
}

# plant NAME FILE SCRIPT TEST: sed's SCRIPT on FILE, below the crate, makes TEST fail. Attention runs the kernels of Hopper,
# or of another chip where QLORA_EMULATED_CAPABILITY says so.
plant() {
  local name=$1 file=$work/$2 script=$3 test=$4 said
  copy
  cp "$file" "$work/sound"
  sed -i -E "$script" "$file"
  if cmp -s "$file" "$work/sound"; then
    echo "$name: there is nothing to plant it in" >&2
    exit 1
  fi
  "$work/tests/emulated/build.sh" "$work/built"
  if run "$test"; then
    echo "$name: NOT FOUND by $test"
    missed=1
  else
    # What was seen by the emulated GPU, else by the test.
    said=$(grep -m 1 '^emulated GPU:' "$work/said" || grep -m 1 -A 1 'panicked at' "$work/said" | tr '\n' ' ')
    echo "$name: $test: $said"
  fi
}

norms=elements::norms_agree
tables=nf4::nf4_is_dequantized_to_the_bit
long=attention::attention_over_long_sequences_agrees
heads=attention::attention_agrees_for_every_size_of_head
ahead=nf4::a_matrix_that_was_begun_ahead_is_the_same
away=transfers::tensors_come_back_from_host_memory_as_they_were

copy
"$work/tests/emulated/build.sh" "$work/built"
python3 "$here/refusals.py" "$work/built" 2>/dev/null
for test in "$norms" "$tables" "$long" "$heads" "$ahead" "$away"; do
  if ! run "$test"; then
    echo "$test fails without any fault" >&2
    exit 1
  fi
done

plant "no barrier before a block's sums are read" src/backend/cuda/block.cuh '0,/__syncthreads\(\);/s///' "$norms"
plant "no barrier behind a table" src/backend/cuda/nf4.cu '0,/__syncthreads\(\);/s///' "$tables"
hopper=src/backend/cuda/attention_forward_hopper.cu
plant "no barrier before a tile is written over" $hopper '/i \+ 1 < steps; /,/__syncthreads/s/__syncthreads\(\);//' "$long"
plant "a group of copies too few is waited for" $hopper 's/wait_for_copies<1>/wait_for_copies<2>/' "$long"
plant "the last copies are not waited for" $hopper 's/wait_for_copies<0>/wait_for_copies<1>/' "$long"
plant "16 bytes at an odd place" src/backend/cuda/eight.cuh 's/% 16 == 0/% 2 == 0/' "$norms"
QLORA_EMULATED_CAPABILITY=80 plant "rows of a tile at odd places" src/backend/cuda/attention.cuh 's/STRIDE = E \+ 8/STRIDE = E + 4/' "$long"
plant "shared memory that was not asked for" tests/emulated/driver.cpp \
  's/(static_cast<Function\*>\(function\)->shared) = /(void)\1; (void)/' "$heads"
# Streams are counted as the program makes them: the first is the one that all work goes to.
waits='s/return emulator::wait\(\*of/if (of(stream)->number STREAM) return SUCCESS;\n    &/'
plant "a matrix is taken before it is there" tests/emulated/driver.cpp "${waits/STREAM/== 1}" "$ahead"
plant "a matrix is written before its place is free" tests/emulated/driver.cpp "${waits/STREAM/!= 1}" "$ahead"
plant "a tensor is let go before it is copied" tests/emulated/driver.cpp "${waits/STREAM/== 1}" "$away"
plant "a tensor is copied before it is there" tests/emulated/driver.cpp "${waits/STREAM/!= 1}" "$away"
exit "$missed"
