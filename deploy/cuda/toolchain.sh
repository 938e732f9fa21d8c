#!/usr/bin/env bash
# Gets CUDA 13.0's compiler and headers out of PyPI's wheels, for machines without a CUDA toolkit: no root, no GPU.
#
#   deploy/cuda/toolchain.sh FOLDER      then build with CUDA_HOME=FOLDER
#
# About 110 MB are downloaded, once: a second run does nothing. The libraries that a program uses (cuBLAS, cuRAND, cuDNN
# and the driver's) are not in it: the worker looks for the machine's own when it needs them. Linkers ask for them all the
# same, and get empty ones. cuDNN's headers, and NVRTC's that they ask for, are read out of wheels of hundreds of
# megabytes without the rest, where the index allows that.
set -euo pipefail

folder=${1:?usage: deploy/cuda/toolchain.sh FOLDER}
packages=(
  nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88
  nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85 nvidia-cudnn-frontend==1.32.0
)
headers_only=(nvidia-cudnn-cu13==9.19.0.56 nvidia-cuda-nvrtc==13.0.88)
stamp=$folder/.packages
made="${packages[*]}, headers of ${headers_only[*]}, and empty libraries"
if [ "$(cat "$stamp" 2>/dev/null)" = "$made" ]; then exit 0; fi

wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
python=${PYTHON:-python3}
"$python" -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: -d "$wheels" "${packages[@]}"
rm -rf "$folder"
mkdir -p "$folder"
"$python" "$(dirname "$0")/unpack.py" "$wheels" "$folder" "${headers_only[@]}"
ln -sfn lib "$folder/lib64"
for library in cuda cublas cublasLt cudart curand nvrtc; do
  ${CC:-cc} -shared -nostdlib -o "$folder/lib/lib$library.so" -x c /dev/null
done
"$folder/bin/nvcc" --version | tail -n 2 | head -n 1
echo "$made" > "$stamp"
