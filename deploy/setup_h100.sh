#!/usr/bin/env bash
# Makes a worker of a host with an NVIDIA H100 (or another Hopper GPU): checks driver and toolkit, builds the worker
# for this GPU, installs it with its service. Run in the repository, as root:
#   deploy/setup_h100.sh https://COORDINATOR:7070 TOKEN_FILE CA_FILE
# CA_FILE is tls/ca.pem of the coordinator's state folder; leave it away where the system knows the certificate, or with http://.
# Safe to run again; it changes only /usr/local/bin/qlora-worker, /etc/qlora and the service.
set -euo pipefail
say() { echo "setup_h100: $*" >&2; }
die() { say "$1"; [ $# -lt 2 ] || echo "  help: $2" >&2; exit 1; }

[ $# -eq 2 ] || [ $# -eq 3 ] || die "usage: deploy/setup_h100.sh https://COORDINATOR:PORT TOKEN_FILE [CA_FILE]"
coordinator=$1 token=$2 ca=${3:-}
[ "$(id -u)" = 0 ] || die "this installs a service" "run it as root"
[ -s "$token" ] || die "the token file $token is empty or missing" "copy it from the coordinator's host"
[ -z "$ca" ] || [ -s "$ca" ] || die "the CA's file $ca is empty or missing" "copy tls/ca.pem from the coordinator's state folder"
cd "$(dirname "$0")/.."
command -v cargo >/dev/null || die "cargo was not found" "install Rust 1.95 or newer from https://rustup.rs"
command -v nvidia-smi >/dev/null || die "no NVIDIA driver was found" "install driver 580 or newer"
driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -n 1)
[ "${driver%%.*}" -ge 580 ] || die "the NVIDIA driver is $driver" "CUDA 13.0 needs 580 or newer"
command -v nvcc >/dev/null || PATH=$PATH:/usr/local/cuda/bin
if ! command -v nvcc >/dev/null; then
  say "no nvcc: getting CUDA 13.0's compiler from PyPI into /opt/qlora-cuda (needs python3 with pip)"
  deploy/cuda/toolchain.sh /opt/qlora-cuda || die "there is no CUDA compiler" "install the CUDA 13.0 toolkit, or put its bin folder into PATH"
  export CUDA_HOME=/opt/qlora-cuda CUDA_PATH=/opt/qlora-cuda PATH=$PATH:/opt/qlora-cuda/bin
fi
home=${CUDA_HOME:-$(dirname "$(dirname "$(readlink -f "$(command -v nvcc)")")")}
feature=cuda
if [ -e "$home/include/cudnn_frontend.h" ]; then feature=cudnn; else
  say "$home has no cudnn_frontend.h: building without cuDNN's attention (deploy/cuda/toolchain.sh gets a toolkit that has it)"
fi
capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)

say "building for compute capability $capability; candle's kernels take about 20 minutes the first time"
CUDA_HOME=$home CUDA_COMPUTE_CAP=$capability cargo build --release --locked -p qlora-worker --features "$feature"
install -m 755 target/release/qlora-worker /usr/local/bin/qlora-worker
id qlora >/dev/null 2>&1 || useradd --system --home-dir /var/lib/qlora --shell /usr/sbin/nologin qlora
install -d -m 750 -o root -g qlora /etc/qlora
install -m 640 -o root -g qlora "$token" /etc/qlora/token
[ -e /etc/qlora/worker.env ] || install -m 640 -o root -g qlora /dev/null /etc/qlora/worker.env
sed -i '/^COORDINATOR=/d; /^QLORA_CA=/d' /etc/qlora/worker.env
echo "COORDINATOR=$coordinator" >> /etc/qlora/worker.env
if [ -n "$ca" ]; then
  install -m 640 -o root -g qlora "$ca" /etc/qlora/ca.pem
  echo "QLORA_CA=/etc/qlora/ca.pem" >> /etc/qlora/worker.env
  export QLORA_CA=/etc/qlora/ca.pem
fi
/usr/local/bin/qlora-worker doctor --coordinator "$coordinator" --token-file /etc/qlora/token
install -m 644 deploy/systemd/qlora-worker.service /etc/systemd/system/qlora-worker.service
systemctl daemon-reload
systemctl enable --now qlora-worker
say "running; look with: journalctl -u qlora-worker -f. For Llama 3.1 add HF_TOKEN=... to /etc/qlora/worker.env"
