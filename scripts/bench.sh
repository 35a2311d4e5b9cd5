#!/usr/bin/env bash
# Measures how fast forgetd is, and what a user would pick instead, and writes
# docs/results/performance.md:
#
#     ./scripts/bench.sh [section...]      # predictions forgetting training ledger start
#
# Everything runs on loopback and in a folder of its own. Only this script, never the build or the
# tests, installs the load generator (wrk, from the distribution) and the Python peers (pinned in
# scripts/bench/requirements.txt; PyTorch takes a few gigabytes).
#
# Environment:
#   FORGETD_BENCH_DIR    where peers and data lie. Default: ~/.cache/forgetd/bench
#   FORGETD_BENCH_ROUNDS alternating runs, of which the median counts. Default: 5
#   PYTHON               a Python that the peers' wheels are made for. Default: python3

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
    echo "bench.sh: $*" >&2
    exit 1
}

folder=${FORGETD_BENCH_DIR:-$HOME/.cache/forgetd/bench}
python=${PYTHON:-python3}
mkdir -p "$folder"

command -v wrk >/dev/null || {
    command -v apt-get >/dev/null || fail "please install wrk, the load generator"
    as_root=()
    ((EUID == 0)) || as_root=(sudo)
    "${as_root[@]}" apt-get update -q </dev/null
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y wrk </dev/null
}

requirements=scripts/bench/requirements.txt
if ! cmp -s "$requirements" "$folder/requirements.txt"; then
    rm -rf "$folder/peers"
    "$python" -m venv "$folder/peers"
    "$folder/peers/bin/pip" install -q -r "$requirements"
    cp "$requirements" "$folder/requirements.txt"
fi

cargo build --release --locked --bin forgetd --example ceiling --example queue --example training
target=${CARGO_TARGET_DIR:-target}
exec "$folder/peers/bin/python" scripts/bench/run.py \
    --forgetd "$target/release/forgetd" --examples "$target/release/examples" \
    --folder "$folder" --rounds "${FORGETD_BENCH_ROUNDS:-5}" \
    --output docs/results/performance.md "$@"
