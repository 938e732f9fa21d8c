#!/usr/bin/env bash
# Gets CUDA 13.0's compiler and headers out of PyPI's wheels, for machines without a CUDA toolkit: no root, no GPU.
#
#   deploy/cuda/toolchain.sh FOLDER      then build with CUDA_HOME=FOLDER
#
# About 100 MB are downloaded, once: a second run does nothing. The libraries that a program uses (cuBLAS, cuRAND and the
# driver's) are not in it: the worker looks for the machine's own when it needs them. Linkers ask for them all the same,
# and get empty ones.
set -euo pipefail

folder=${1:?usage: deploy/cuda/toolchain.sh FOLDER}
packages=(
  nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88
  nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85
)
stamp=$folder/.packages
made="${packages[*]} and empty libraries"
if [ "$(cat "$stamp" 2>/dev/null)" = "$made" ]; then exit 0; fi

wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
python=${PYTHON:-python3}
"$python" -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: -d "$wheels" "${packages[@]}"
rm -rf "$folder"
mkdir -p "$folder"
# Every wheel holds its part of the toolkit under nvidia/cu13.
"$python" - "$wheels" "$folder" <<'PY'
import pathlib, sys, zipfile

wheels, folder = map(pathlib.Path, sys.argv[1:])
for wheel in sorted(wheels.glob("*.whl")):
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            prefix, _, rest = member.filename.partition("nvidia/cu13/")
            if prefix or not rest or member.is_dir():
                continue
            target = folder / rest
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(member))
            if "bin" in target.parts:
                target.chmod(0o755)
PY
ln -sfn lib "$folder/lib64"
for library in cuda cublas cublasLt cudart curand nvrtc; do
  ${CC:-cc} -shared -nostdlib -o "$folder/lib/lib$library.so" -x c /dev/null
done
"$folder/bin/nvcc" --version | tail -n 2 | head -n 1
echo "$made" > "$stamp"
