#!/usr/bin/env bash
# Makes a worker of a Mac with Apple silicon: builds with Metal, installs, starts at login.
#   deploy/setup_mac.sh https://COORDINATOR:7070 TOKEN_FILE CA_FILE
# CA_FILE is tls/ca.pem of the coordinator's state folder.
# Safe to run again; it changes only ~/.local/bin/qlora-worker and a launch agent of yours.
set -euo pipefail
say() { echo "setup_mac: $*" >&2; }
die() { say "$1"; [ $# -lt 2 ] || echo "  help: $2" >&2; exit 1; }

[ $# -eq 3 ] || die "usage: deploy/setup_mac.sh https://COORDINATOR:PORT TOKEN_FILE CA_FILE"
coordinator=$1 token=$2 ca=$3
[ "$(uname -s)" = Darwin ] || die "this is no Mac" "on a Linux host with an NVIDIA GPU use deploy/setup_h100.sh"
[ "$(uname -m)" = arm64 ] || die "this Mac has no Apple silicon"
macos=$(sw_vers -productVersion)
[ "${macos%%.*}" -ge 15 ] || die "this is macOS $macos, and Metal is used from macOS 15 on" "update macOS"
[ -s "$token" ] || die "the token file $token is empty or missing" "copy it from the coordinator's host"
[ -s "$ca" ] || die "the CA's file $ca is empty or missing" "copy tls/ca.pem from the coordinator's state folder"
cd "$(dirname "$0")/.."
xcode-select -p >/dev/null 2>&1 || die "the command line tools were not found" "xcode-select --install"
command -v cargo >/dev/null || die "cargo was not found" "install Rust 1.95 or newer from https://rustup.rs"

say "building with Metal"
cargo build --release --locked -p qlora-worker --features metal
install -d "$HOME/.local/bin" "$HOME/.config/qlora" "$HOME/Library/LaunchAgents" "$HOME/Library/Logs"
install -m 755 target/release/qlora-worker "$HOME/.local/bin/qlora-worker"
install -m 600 "$token" "$HOME/.config/qlora/token"
install -m 600 "$ca" "$HOME/.config/qlora/ca.pem"
report=$("$HOME/.local/bin/qlora-worker" doctor --coordinator "$coordinator" --ca "$HOME/.config/qlora/ca.pem" --token-file "$HOME/.config/qlora/token") || true
echo "$report" >&2
grep -q '^ok *Apple GPU' <<< "$report" || die "the GPU cannot be used" "the line 'Apple GPU' above says why"
plist=$HOME/Library/LaunchAgents/dev.qlora.worker.plist
sed -e "s|/usr/local/bin/qlora-worker|$HOME/.local/bin/qlora-worker|" -e "s|COORDINATOR|$coordinator|" \
    -e "s|CA_FILE|$HOME/.config/qlora/ca.pem|" -e "s|TOKEN_FILE|$HOME/.config/qlora/token|" -e "s|/usr/local/var/log|$HOME/Library/Logs|" \
    deploy/launchd/dev.qlora.worker.plist > "$plist"
launchctl bootout "gui/$(id -u)" "$plist" 2>/dev/null || true
launchctl bootstrap "gui/$(id -u)" "$plist"
say "running; look with: tail -f ~/Library/Logs/qlora-worker.log. A Mac that sleeps pauses its job; caffeinate keeps it awake"
