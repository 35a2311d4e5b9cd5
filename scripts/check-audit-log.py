#!/usr/bin/env python3
"""Holds the running service's audit log and certificates to a second implementation.

    python3 scripts/check-audit-log.py path/to/forgetd

Starts the demo, lets it forget a person, and checks certificate and log both by `forgetd verify`
and by tests/audit_log.py, which was written from the specifications alone: the two must agree on
what holds, and on what was forged. Python 3.8 or newer, standard library only.
"""

import base64
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SECOND = ROOT / "tests" / "audit_log.py"
PATIENCE_S = 120
ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+")


def ask(address, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address + path, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read().decode()


def eventually(what, question):
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        answer = question()
        if answer:
            return answer
        time.sleep(0.1)
    sys.exit(f"check-audit-log: {what}: not within {PATIENCE_S} s")


def is_ready(address):
    try:
        ask(address, "/v2/models/digits/ready")
        return True
    except urllib.error.URLError:
        return False


def holds(*command):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    return done.returncode == 0, done.stdout + done.stderr


def agree(what, expected, *commands):
    """Both implementations say the same."""
    for command in commands:
        fits, output = holds(*command)
        if fits != expected:
            sys.exit(f"check-audit-log: {what}: {command[0]} says\n{output}")


def forgeries(certificate):
    """Pairs of a name and a changed copy."""

    def changed(what, change):
        copy = json.loads(certificate)
        change(copy)
        return what, json.dumps(copy)

    def flip(hash):
        return ("1" if hash[0] == "0" else "0") + hash[1:]

    def forge_proof(copy):
        proof = copy["leaves"][-1]["proof"]
        proof[0] = flip(proof[0])

    def swap_leaves(copy):
        first, last = copy["leaves"][0], copy["leaves"][-1]
        first["entry"], last["entry"] = last["entry"], first["entry"]

    def change_statement(copy):
        copy["statement"]["request"]["samples"] += 1

    def change_target(copy):
        target = copy["statement"]["request"]["targets"][0]
        target["key"] = flip(target["key"])

    def change_weights(copy):
        version = copy["statement"]["version"]
        version["weights_after"] = flip(version["weights_after"])

    def change_evidence(copy):
        copy["statement"]["batch"]["evidence"]["samples"] += 1

    def move_leaf(copy):
        copy["leaves"][0]["index"] += 1

    def change_root(copy):
        lines = copy["checkpoint"].split("\n")
        lines[2] = base64.b64encode(bytes(32)).decode()
        copy["checkpoint"] = "\n".join(lines)

    for change in (
        forge_proof,
        swap_leaves,
        change_statement,
        change_target,
        change_weights,
        change_evidence,
        move_leaf,
        change_root,
    ):
        yield changed(change.__name__.replace("_", " "), change)


def check(forgetd, address, folder):
    eventually("the demo's model is ready", lambda: is_ready(address))
    key = ask(address, "/audit/public-key").strip()
    older = folder / "older"
    older.write_text(ask(address, "/audit/checkpoint"))
    size = older.read_text().split("\n")[1]

    body = {"model": "digits", "subjects": ["person-000", "person-001"]}
    request = json.loads(ask(address, "/v1/deletion-requests", body))
    path = f"/v1/deletion-requests/{request['id']}"

    def is_completed():
        return json.loads(ask(address, path))["state"] == "completed"

    eventually("the request is completed", is_completed)
    certificate = ask(address, f"{path}/certificate?since={size}")
    file = folder / "certificate.json"
    file.write_text(certificate)
    second = [sys.executable, SECOND]
    agree(
        "the certificate holds",
        True,
        [forgetd, "verify", file, "--key", key, "--checkpoint", older],
        [*second, "certificate", file, key, older],
    )
    for what, forged in forgeries(certificate):
        file.write_text(forged)
        agree(
            what,
            False,
            [forgetd, "verify", file, "--key", key],
            [*second, "certificate", file, key],
        )

    # More than one tile.
    for number in range(300):
        body = {"model": "digits", "subjects": [f"nobody-{number}"]}
        ask(address, "/v1/deletion-requests", body)
    log = f"{address}/audit"
    agree(
        "the log holds",
        True,
        [forgetd, "verify", "--log", log, "--key", key, "--since", older],
        [*second, "log", log, key],
    )


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    forgetd = Path(sys.argv[1]).resolve()
    agree("the known answers", True, [sys.executable, SECOND, "self-test"])
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        command = [forgetd, "demo", "--listen", "127.0.0.1:0", "--data-dir", folder / "data"]
        with open(folder / "log", "w") as log:
            service = subprocess.Popen(
                list(map(str, command)), stdout=subprocess.PIPE, stderr=log, text=True
            )
        try:
            lines = iter(service.stdout.readline, "")
            found = next(filter(None, map(ADDRESS.search, lines)), None)
            if found is None:
                sys.exit((folder / "log").read_text())
            check(forgetd, found[0], folder)
        finally:
            service.terminate()
            service.wait()
    print("check-audit-log: two implementations agree on certificate, forgeries and log")


if __name__ == "__main__":
    os.environ.pop("FORGETD_API_KEY", None)
    main()
