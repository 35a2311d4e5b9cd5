#!/usr/bin/env bash
# Runs every test. The one command, here and in CI:
#
#     ./scripts/test.sh [arguments for cargo test]
#
# The tests start and stop a throw-away PostgreSQL of their own; this script installs its programs
# where there are none (Debian and its kin; sudo is used where needed), and nothing else.
#
# Environment:
#   FORGETD_TARGET_DIR   where build outputs are kept between runs, outside the checkout; used
#                        if CI=true or if it exists. Default: ~/.cache/forgetd/target

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
    echo "test.sh: $*" >&2
    exit 1
}

# PostgreSQL's programs, in PATH or where Debian keeps them.
has_postgres() {
    local folder
    for folder in /usr/lib/postgresql/*/bin; do
        if [[ -x $folder/initdb && -x $folder/pg_ctl && -x $folder/postgres ]]; then
            return 0
        fi
    done
    command -v initdb && command -v pg_ctl && command -v postgres
} >/dev/null

install_postgres() {
    command -v apt-get >/dev/null || fail "PostgreSQL's initdb, pg_ctl and postgres are missing," \
        "and this is no Debian where the script could install them: please install the" \
        "PostgreSQL server (e.g. 'dnf install postgresql-server', 'brew install postgresql')"
    local as_root=()
    if ((EUID != 0)); then
        command -v sudo >/dev/null || fail "PostgreSQL is missing; install it as root:" \
            "apt-get install postgresql"
        as_root=(sudo)
    fi
    echo "test.sh: installing PostgreSQL from the distribution's package"
    install() {
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get install -q -y --no-install-recommends "$@" </dev/null
    }
    "${as_root[@]}" apt-get update -q </dev/null
    # No cluster of the package's own: it would start a server that nobody asked for.
    install postgresql-common
    "${as_root[@]}" sed -i -E 's/^#? ?create_main_cluster .*/create_main_cluster = false/' \
        /etc/postgresql-common/createcluster.conf
    install postgresql
    has_postgres || fail "the package postgresql was installed, but its programs are not there"
}

has_postgres || install_postgres

persistent=${FORGETD_TARGET_DIR:-$HOME/.cache/forgetd/target}
if [[ -z ${CARGO_TARGET_DIR:-} ]] && [[ ${CI:-} == true || -d $persistent ]]; then
    mkdir -p "$persistent"
    export CARGO_TARGET_DIR=$persistent
fi

cargo test --locked "$@"

if python3 -c '' 2>/dev/null; then
    python3 scripts/check-audit-log.py "${CARGO_TARGET_DIR:-target}/debug/forgetd"
fi
if python3 -c '' 2>/dev/null && command -v valgrind >/dev/null; then
    python3 scripts/check-hot-paths.py "${CARGO_TARGET_DIR:-target}/debug/examples/hot_paths"
elif [[ ${CI:-} == true ]]; then
    fail "valgrind is missing; CI counts the instructions of the hottest paths with it"
else
    echo "test.sh: NOT CHECKED: the instructions of the hottest paths; that needs valgrind" >&2
fi

if python3 -c 'import ensurepip, venv' 2>/dev/null; then
    python3 scripts/check-deploy.py
    python3 scripts/check-object-stores.py
    ./scripts/schemathesis.sh "${CARGO_TARGET_DIR:-target}/debug/forgetd"
elif [[ ${CI:-} == true ]]; then
    fail "python3 with venv is missing (Debian: python3-venv); CI checks deploy/, buckets and the API with it"
else
    echo "test.sh: NOT CHECKED: Dockerfile, deploy/, weights in buckets and the API against openapi.yaml (and, without any python3, the audit log against a second implementation); that needs python3 with venv" >&2
fi
