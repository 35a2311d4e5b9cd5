#!/usr/bin/env bash
# Checks that the steps at which tests hold the process (src/fail_point.rs) are in no release:
#
#     ./scripts/check-fail-points.sh
#
# Builds forgetd as a release is built where it matters, without debug assertions, but on the
# dependencies that the tests have built already, and looks for what turns a step on.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

needle=FORGETD_FAIL_POINTS
grep -q "$needle" src/fail_point.rs || {
    echo "check-fail-points.sh: src/fail_point.rs does not name $needle any more" >&2
    exit 1
}
cargo build --locked --bin forgetd --example ceiling --config profile.dev.package.forgetd.debug-assertions=false
built=${CARGO_TARGET_DIR:-target}/debug/forgetd
[[ -f $built ]] || {
    echo "check-fail-points.sh: there is no $built; where cargo builds to another folder, set" \
        "CARGO_TARGET_DIR to it" >&2
    exit 1
}
if grep -q --text "$needle" "$built"; then
    echo "check-fail-points.sh: a build without debug assertions has fail points" >&2
    exit 1
fi
if grep -Eq '^debug-assertions *= *true' Cargo.toml; then
    echo "check-fail-points.sh: Cargo.toml turns debug assertions on in a profile" >&2
    exit 1
fi
echo "check-fail-points.sh: no fail points without debug assertions"
