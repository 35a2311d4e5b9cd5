#!/usr/bin/env bash
# Holds the running service to openapi.yaml: schemathesis sends what the description allows and
# what it forbids, and complains about undocumented answers, wrong bodies and 5xx.
#
#     scripts/schemathesis.sh path/to/forgetd
#
# Installs schemathesis from PyPI into a virtual environment of its own, outside the checkout.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VERSION=4.32.5
forgetd=${1:?the path of a forgetd binary}
environment=${XDG_CACHE_HOME:-$HOME/.cache}/forgetd/schemathesis-$VERSION

if [[ ! -x $environment/bin/schemathesis ]]; then
    python3 -m venv "$environment"
    "$environment/bin/pip" install --quiet "schemathesis==$VERSION"
fi

folder=$(mktemp -d)
key=$("$forgetd" keys add --name schemathesis --scope admin --data-dir "$folder/data" 2>/dev/null |
    tail -1)
# So that the façades of OpenDSR and of the Data Rights Protocol answer.
FORGETD_OPENDSR__URL=https://forgetd.test
FORGETD_OPENDSR__CERTIFICATE=$PWD/tests/fixtures/opendsr/processor.crt
FORGETD_OPENDSR__KEY=$PWD/tests/fixtures/opendsr/processor.key
FORGETD_DRP__BUSINESS_ID=FORGETD
FORGETD_DRP__AGENTS='[{id="AGENT",verify_key="PUAXw+hDiVqStwqnTRt+vJyYLM8uxJaMwM1V8Sr0Zgw="}]'
export FORGETD_OPENDSR__URL FORGETD_OPENDSR__CERTIFICATE FORGETD_OPENDSR__KEY
export FORGETD_DRP__BUSINESS_ID FORGETD_DRP__AGENTS
"$forgetd" demo --listen 127.0.0.1:0 --data-dir "$folder/data" \
    >"$folder/out" 2>"$folder/log" &
service=$!
end() {
    kill "$service" 2>/dev/null || true
    wait "$service" 2>/dev/null || true
    rm -rf "$folder"
}
trap end EXIT

address=
for _ in $(seq 600); do
    address=$(grep -oEm1 'http://127\.0\.0\.1:[0-9]+' "$folder/out" | head -1) && break
    kill -0 "$service" 2>/dev/null || { cat "$folder/log" >&2; exit 1; }
    sleep 0.2
done
[[ $address ]] || { echo "schemathesis.sh: the service did not start" >&2; exit 1; }

status=0
"$environment/bin/schemathesis" --config-file scripts/schemathesis.toml run openapi.yaml --url "$address" \
    --header "Authorization: Bearer $key" \
    --phases examples,coverage,fuzzing --max-examples 25 --seed 1 --checks all \
    --suppress-health-check all --generation-database none || status=$?
if grep -q panicked "$folder/log"; then
    grep panicked "$folder/log" >&2
    status=1
fi
exit $status
