#!/usr/bin/env bash
# Fuzzes what strangers' bytes go through, one target after the other:
#
#     ./scripts/fuzz.sh [seconds for each target, default 3600] [target ...]
#
# Needs a nightly compiler (rustup toolchain install nightly); installs cargo-fuzz beside its build
# outputs. What it finds lies in fuzz/artifacts/<target>, what it has learnt in fuzz/corpus/<target>.
# No address sanitizer by default: the crate forbids unsafe code, so that a defect is a panic, a hang
# or a hunger for memory, which libFuzzer sees by itself, at several times the speed.
#
# Environment:
#   FORGETD_FUZZ_TARGET_DIR   where build outputs are kept. Default: fuzz/target
#   FORGETD_FUZZ_SANITIZER    none (default), address, ...

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

CARGO_FUZZ_VERSION=0.13.2

seconds=${1:-3600}
shift || true
target_dir=${FORGETD_FUZZ_TARGET_DIR:-$PWD/fuzz/target}
sanitizer=${FORGETD_FUZZ_SANITIZER:-none}
unset CARGO_TARGET_DIR

cargo +nightly --version >/dev/null 2>&1 || {
    echo "fuzz.sh: there is no nightly compiler: rustup toolchain install nightly" >&2
    exit 1
}
tools=$target_dir/tools
if [[ $("$tools/bin/cargo-fuzz" --version 2>/dev/null) != "cargo-fuzz $CARGO_FUZZ_VERSION" ]]; then
    cargo install --quiet --locked --root "$tools" "cargo-fuzz@$CARGO_FUZZ_VERSION"
fi
fuzz() {
    "$tools/bin/cargo-fuzz" fuzz "$@"
}
export RUSTUP_TOOLCHAIN=nightly

if (($# == 0)); then
    mapfile -t targets < <(ls fuzz/targets | sed 's/\.rs$//')
    set -- "${targets[@]}"
fi
fuzz build --target-dir "$target_dir" --sanitizer "$sanitizer"
found=()
for target in "$@"; do
    printf '\n== %s, %s s\n' "$target" "$seconds"
    mkdir -p "fuzz/corpus/$target"
    fuzz run --target-dir "$target_dir" --sanitizer "$sanitizer" "$target" \
        "fuzz/corpus/$target" "fuzz/seeds/$target" -- -max_total_time="$seconds" -timeout=10 \
        -rss_limit_mb=2048 -max_len=65536 -print_final_stats=1 || found+=("$target")
done
if ((${#found[@]} > 0)); then
    echo "fuzz.sh: see fuzz/artifacts; something was found in: ${found[*]}" >&2
    exit 1
fi
