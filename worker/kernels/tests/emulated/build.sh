#!/usr/bin/env bash
# A GPU that is emulated on the CPU, as the libraries that a CUDA program loads:
#
#   worker/kernels/tests/emulated/build.sh FOLDER [SOURCES]      then run the program with LD_LIBRARY_PATH=FOLDER
#
# SOURCES is the folder of the kernels, `src/backend/cuda` where it is not given. Objects are kept under ~/.cache/qlora, by
# a hash of all that they are made of; those that nobody has asked for within a month go.
set -euo pipefail
folder=${1:?usage: build.sh FOLDER [SOURCES]}
here=$(cd "$(dirname "$0")" && pwd)
sources=$(cd "${2:-$here/../../src/backend/cuda}" && pwd)
mkdir -p "$folder"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The kernels, with variables in shared memory that the emulator knows of.
variable='^( *)__shared__ (.*[^ ]) ([A-Za-z_0-9]+)((\[[^]]*\])*);$'
for source in "$sources"/*.cu "$sources"/*.cuh; do
  name=$(basename "$source")
  { echo "#line 1 \"$name\""; sed -E "s/$variable/\1auto\& \3 = emulator::shared_variable<\2\4>([] {});/" "$source"; } >"$work/$name"
  if grep -Eq '^ *__shared__' "$work/$name"; then
    echo "$source: one variable a line behind __shared__, or the emulated GPU does not see it" >&2
    exit 1
  fi
done

# Jumps between fibers are not what fortified longjmp expects.
flags=(-std=c++20 -O2 -Wall -Werror -Wno-unknown-pragmas -U_FORTIFY_SOURCE -fno-strict-aliasing -ftls-model=initial-exec
  -fPIC -pthread)
# nvcc makes a fused operation of a product and a sum unless a kernel says otherwise, and so does this, where the CPU can.
contract=(-ffp-contract=off)
if grep -qw fma /proc/cpuinfo; then contract=(-mfma -ffp-contract=fast); fi
# The library of the sanitizer stays out: what it calls is in `kernels.cpp`.
alignment=(-fsanitize=alignment -fno-sanitize-recover=alignment)

# place FLAGS FILE...: where the object is kept that the compiler makes of FILES with FLAGS.
place() {
  local flags=$1 file
  shift
  {
    c++ --version
    echo "$flags"
    for file; do
      basename "$file"
      cat "$file"
    done
  } | sha256sum | cut -c -32 | sed "s|.*|$cache/&.o|"
}

# An object appears under its name when it is complete: several programs may make it at one time.
keep() { cp "$1" "$2.$$" && mv "$2.$$" "$2"; }

cache=${XDG_CACHE_HOME:-$HOME/.cache}/qlora/emulated
mkdir -p "$cache"
others=("$here"/{cudnn,driver,libraries,nccl,nvml,streams}.cpp)
kernels=$(place "${flags[*]} ${contract[*]} ${alignment[*]}" "$here"/*.h "$here/kernels.cpp" "$work"/*.cu "$work"/*.cuh)
libraries=$(place "${flags[*]}" "$here"/*.h "${others[@]}")
made=''
if [ ! -e "$kernels" ]; then
  (
    c++ "${flags[@]}" "${contract[@]}" "${alignment[@]}" -I "$here" -I "$work" -c -o "$work/kernels.o" "$here/kernels.cpp"
    keep "$work/kernels.o" "$kernels"
  ) &
  made=$!
fi
if [ ! -e "$libraries" ]; then
  c++ "${flags[@]}" -ffp-contract=off -r -o "$work/libraries.o" "${others[@]}"
  keep "$work/libraries.o" "$libraries"
fi
if [ -n "$made" ]; then wait "$made"; fi
touch "$kernels" "$libraries"
find "$cache" -type f -mtime +30 -delete
c++ -shared -pthread -Wl,-z,defs -o "$folder/libemulated.so" "$kernels" "$libraries"
for library in libcuda.so.1 libcudnn.so.9 libcublas.so.13 libcublasLt.so.13 libcurand.so.10 libnccl.so.2 libnvidia-ml.so.1; do
  ln -sf libemulated.so "$folder/$library"
done
