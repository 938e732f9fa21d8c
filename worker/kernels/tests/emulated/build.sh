#!/usr/bin/env bash
# A GPU that is emulated on the CPU, as the libraries that a CUDA program loads:
#
#   worker/kernels/tests/emulated/build.sh FOLDER [SOURCES]      then run the program with LD_LIBRARY_PATH=FOLDER
#
# SOURCES is the folder of the kernels, `src/cuda` where it is not given.
set -euo pipefail
folder=${1:?usage: build.sh FOLDER [SOURCES]}
here=$(cd "$(dirname "$0")" && pwd)
sources=$(cd "${2:-$here/../../src/cuda}" && pwd)
mkdir -p "$folder"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The kernels, with a call behind every variable in shared memory that tells the emulator of it.
variable='^( *__shared__ .*[ *])([A-Za-z_0-9]+)((\[[^]]*\])*);$'
for source in "$sources"/*.cu "$sources"/*.cuh; do
  name=$(basename "$source")
  { echo "#line 1 \"$name\""; sed -E "s/$variable/\1\2\3; emulator::in_shared(\&\2, sizeof \2);/" "$source"; } >"$work/$name"
  if grep -E '^ *__shared__' "$work/$name" | grep -vq in_shared; then
    echo "$source: one variable a line behind __shared__, or the emulated GPU does not see it" >&2
    exit 1
  fi
done

# Jumps between fibers are not what fortified longjmp expects.
flags=(-std=c++20 -O2 -Wall -Werror -Wno-unknown-pragmas -U_FORTIFY_SOURCE -fno-strict-aliasing -ftls-model=initial-exec
  -ffp-contract=off -fPIC -pthread)
# The library of the sanitizer stays out: what it calls is in `kernels.cpp`.
c++ "${flags[@]}" -fsanitize=alignment -fno-sanitize-recover=alignment -I "$here" -I "$work" -c -o "$work/kernels.o" \
  "$here/kernels.cpp" &
kernels=$!
c++ "${flags[@]}" -r -o "$work/libraries.o" "$here"/{cudnn,driver,libraries,nccl,nvml,streams}.cpp
wait "$kernels"
c++ -shared -pthread -Wl,-z,defs -o "$folder/libemulated.so" "$work"/{kernels,libraries}.o
for library in libcuda.so.1 libcudnn.so.9 libcublas.so.13 libcublasLt.so.13 libcurand.so.10 libnccl.so.2 libnvidia-ml.so.1; do
  ln -sf libemulated.so "$folder/$library"
done
