#!/usr/bin/env bash
# A GPU that is emulated on the processor, as the libraries that a CUDA program loads:
#
#   worker/kernels/tests/emulated/build.sh FOLDER      then run the program with LD_LIBRARY_PATH=FOLDER
set -euo pipefail
folder=${1:?usage: build.sh FOLDER}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$folder"
# Jumps between fibers are not what fortified longjmp expects.
c++ -std=c++20 -O2 -Wall -Werror -Wno-unknown-pragmas -U_FORTIFY_SOURCE -fno-strict-aliasing -ftls-model=initial-exec -ffp-contract=off -shared -fPIC -pthread \
  -I "$here" -I "$here/../../src/cuda" -o "$folder/libemulated.so" "$here"/{cudnn,driver,kernels,libraries,nccl,nvml}.cpp
for library in libcuda.so.1 libcudnn.so.9 libcublas.so.13 libcublasLt.so.13 libcurand.so.10 libnccl.so.2 libnvidia-ml.so.1; do
  ln -sf libemulated.so "$folder/$library"
done
