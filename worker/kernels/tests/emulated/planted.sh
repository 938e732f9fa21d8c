#!/usr/bin/env bash
# Whether the emulated GPU finds faults: each of these is planted in a copy of the kernels or of the driver, and the test
# named with it, which passes without the fault, has to fail.
#
#   worker/kernels/tests/emulated/planted.sh TESTS [NAME...]
#
# TESTS is the program of the kernels' `operations` tests; `just planted` builds it. A NAME is a part of a fault's name, and
# without any every fault is planted. Those of the driver are the cheapest: the kernels stay as they were compiled. Faults
# of the program's own calls, a wait for an event or a request for shared memory that is not made, are planted where the
# driver takes the call.
set -euo pipefail
tests=$(realpath "${1:?usage: planted.sh TESTS [NAME...]}")
shift
wanted=("$@")
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

copy() {
  rm -rf "$work/src" "$work/tests" "$work/built"
  mkdir -p "$work/src/backend" "$work/tests"
  cp -r "$here/../../src/backend/cuda" "$work/src/backend/cuda"
  cp -r "$here" "$work/tests/emulated"
}

# The status of TEST on a chip of CAPABILITY, what it says in a file. A shell of its own keeps to itself that a program was
# aborted. A test that is not there passes, so that one which was renamed is not taken for one that finds the fault.
run() {
  (
    QLORA_EMULATED_GPU=1 QLORA_EMULATED_CAPABILITY=$2 LD_LIBRARY_PATH=$work/built timeout 300 "$tests" --exact "$1"
    exit $?
  ) >"$work/said" 2>&1
}

names=() files=() scripts=() found_by=() chips=()

# fault NAME FILE SCRIPT TEST [CAPABILITY]: sed's SCRIPT on FILE, below the crate, makes TEST fail. Attention runs the
# kernels of Hopper, or of another chip where CAPABILITY says so.
fault() {
  local part
  for part in "${wanted[@]-}"; do
    case $1 in *"$part"*)
      names+=("$1") files+=("$2") scripts+=("$3") found_by+=("$4") chips+=("${5:-90}")
      return ;;
    esac
  done
}

norms=norms::rms_norm
tables=nf4::nf4_is_dequantized_bit_identically
long=attention::over_long_sequences
heads=attention::of_heads_of_every_size
ahead=nf4::a_prefetched_matrix_is_the_same
away=moves::tensors_come_back_from_host_memory_as_they_were

fault "no barrier before a block's sums are read" src/backend/cuda/block.cuh '0,/__syncthreads\(\);/s///' "$norms"
fault "no barrier behind a table" src/backend/cuda/nf4.cu '0,/__syncthreads\(\);/s///' "$tables"
hopper=src/backend/cuda/attention_forward_hopper.cu
fault "no barrier before a tile is written over" $hopper '/i \+ 1 < steps; /,/__syncthreads/s/__syncthreads\(\);//' "$long"
fault "a group of copies too few is waited for" $hopper 's/wait_for_copies<1>/wait_for_copies<2>/' "$long"
fault "the last copies are not waited for" $hopper 's/wait_for_copies<0>/wait_for_copies<1>/' "$long"
fault "16 bytes at an odd place" src/backend/cuda/eight.cuh 's/% 16 == 0/% 2 == 0/' "$norms"
fault "rows of a tile at odd places" src/backend/cuda/attention.cuh 's/STRIDE = E \+ 8/STRIDE = E + 4/' "$long" 80
fault "shared memory that was not asked for" tests/emulated/driver.cpp \
  's/(static_cast<Function\*>\(function\)->shared) = /(void)\1; (void)/' "$heads"
# Streams are counted as the program makes them: the first is the one that all work goes to.
waits='s/return emulator::wait\(\*of/if (of(stream)->number STREAM) return SUCCESS;\n    &/'
fault "a matrix is taken before it is there" tests/emulated/driver.cpp "${waits/STREAM/== 1}" "$ahead"
fault "a matrix is written before its place is free" tests/emulated/driver.cpp "${waits/STREAM/!= 1}" "$ahead"
fault "a tensor is let go before it is copied" tests/emulated/driver.cpp "${waits/STREAM/== 1}" "$away"
fault "a tensor is copied before it is there" tests/emulated/driver.cpp "${waits/STREAM/!= 1}" "$away"
if [ ${#names[@]} = 0 ]; then
  echo "no fault has ${wanted[*]} in its name; see the calls of fault in $0" >&2
  exit 2
fi

# Without a fault every test passes, and the driver refuses what an H100's refuses.
copy
"$work/tests/emulated/build.sh" "$work/built"
if ! python3 "$here/refusals.py" "$work/built" 2>"$work/said"; then
  tail -n 3 "$work/said" >&2
  exit 1
fi
passed=' '
for i in "${!names[@]}"; do
  test=${found_by[i]} chip=${chips[i]}
  case $passed in *" $test/$chip "*) continue ;; esac
  if ! run "$test" "$chip" || ! grep -q '^test result: ok. 1 passed' "$work/said"; then
    echo "$test fails without any fault, or is not there:" >&2
    tail -n 5 "$work/said" >&2
    exit 1
  fi
  passed+="$test/$chip "
done

missed=0
for i in "${!names[@]}"; do
  name=${names[i]} file=$work/${files[i]} test=${found_by[i]}
  copy
  cp "$file" "$work/sound"
  sed -i -E "${scripts[i]}" "$file"
  if cmp -s "$file" "$work/sound"; then
    echo "$name: there is nothing to plant it in" >&2
    exit 1
  fi
  "$work/tests/emulated/build.sh" "$work/built"
  if run "$test" "${chips[i]}"; then
    echo "$name: NOT FOUND by $test"
    missed=1
  else
    # What was seen by the emulated GPU, else by the test.
    said=$(grep -m 1 '^emulated GPU:' "$work/said" || grep -m 1 -A 1 'panicked at' "$work/said" | tr '\n' ' ' || tail -n 1 "$work/said")
    echo "$name: $test: $said"
  fi
done
exit "$missed"
