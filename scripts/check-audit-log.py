#!/usr/bin/env python3
"""Holds the running service's audit log and certificates to a second implementation.

    python3 scripts/check-audit-log.py path/to/forgetd

Starts the demo, lets it forget a person and be cosigned by a witness, and checks certificate and log
both by `forgetd verify` and by tests/audit_log.py, which was written from the specifications alone and
has the witness: the two must agree on what holds, and on what was forged. Python 3.8 or newer,
standard library only.
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
sys.path.insert(0, str(SECOND.parent))
sys.dont_write_bytecode = True

import audit_log  # noqa: E402
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


class Copy:
    """A copy of a log, whoever serves it, in which things may be changed."""

    def __init__(self, log):
        self.files = {}
        note, _ = self.keep(log, "checkpoint")
        self.size = int(note.decode().split("\n")[1])
        level, size = 0, self.size
        while size:
            for index, width in audit_log.tiles_of(level, self.size):
                path = audit_log.tile_path(index, width)
                self.keep(log, f"tile/{level}/{path}")
                if level == 0:
                    self.keep(log, f"tile/entries/{path}")
            level, size = level + 1, size // 256
        self.url = audit_log.serve(self.answer)

    def answer(self, path, _):
        content, kind = self.files.get(path[1:], (b"", "text/plain"))
        return 200 if content else 404, kind, content

    def keep(self, log, path):
        self.files[path] = audit_log.fetch(log, path)
        return self.files[path]

    def change(self, path, change):
        body, kind = self.files[path]
        changed = change(body)
        assert changed != body, path
        self.files[path] = changed, kind


def swap(bundle):
    """The first two entries of a bundle change places."""
    first = 2 + int.from_bytes(bundle[:2], "big")
    second = first + 2 + int.from_bytes(bundle[first : first + 2], "big")
    return bundle[first:second] + bundle[:first] + bundle[second:]


def change_word(bundle):
    return bundle.replace(b"deletion.rejected", b"deletion.accepted", 1)


def rewrite(copy):
    """The hashes of a changed bundle are made to fit; the signed root is not."""
    bundle, hashes = copy.files["tile/entries/000"][0], b""
    while bundle:
        length = int.from_bytes(bundle[:2], "big")
        hashes += audit_log.leaf_hash(bundle[2 : 2 + length])
        bundle = bundle[2 + length :]
    copy.change("tile/0/000", lambda _: hashes)


def swap_and_rewrite(copy):
    copy.change("tile/entries/000", swap)
    rewrite(copy)


def change_and_rewrite(copy):
    copy.change("tile/entries/000", change_word)
    rewrite(copy)


def forge_note(line, place):
    """One bit of a line of the checkpoint is another."""

    def forge(note):
        lines = note.decode().split("\n")
        head, _, encoded = lines[line].rpartition(" ")
        data = bytearray(base64.b64decode(encoded))
        data[place] ^= 1
        lines[line] = f"{head} {base64.b64encode(data).decode()}".strip()
        return "\n".join(lines).encode()

    return lambda copy: copy.change("checkpoint", forge)


def cosignature_line(note):
    return next(at for at, line in enumerate(note.split("\n")) if " witness.example " in line)


def forged_logs(log):
    """Pairs of a name and the address of a changed copy."""
    note = ask(log, "/checkpoint")
    forgeries = {
        "two entries change places": lambda copy: copy.change("tile/entries/000", swap),
        "two entries and their hashes change places": swap_and_rewrite,
        "an entry says something else": change_and_rewrite,
        "a hash is another": lambda copy: copy.change("tile/0/000", lambda tile: tile[::-1]),
        "the root is another": forge_note(2, 0),
        "the log's signature is another": forge_note(4, 30),
        "the cosignature is another": forge_note(cosignature_line(note), 30),
        "the time of the cosignature is another": forge_note(cosignature_line(note), 11),
    }
    for what, forge in forgeries.items():
        copy = Copy(log)
        forge(copy)
        yield what, copy.url


def check(forgetd, address, witness, folder):
    eventually("the demo's model is ready", lambda: is_ready(address))
    key = ask(address, "/audit/public-key").strip()
    witness.log = audit_log.parse_key(key)
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
    eventually("it is cosigned", lambda: " witness.example " in ask(log, "/checkpoint"))

    def judged(what, expected, log, witness_key=witness.verifier_key, since=older):
        trust = ["--key", key, "--since", since, "--witness", witness_key]
        agree(
            what,
            expected,
            [forgetd, "verify", "--log", log, *trust],
            [*second, "log", log, key, since, witness_key],
        )

    judged("the log holds", True, log)
    judged("a copy of it holds", True, Copy(log).url)
    for what, forged in forged_logs(log):
        judged(what, False, forged)
    stranger = audit_log.Witness("witness.example", bytes(32))
    judged("a stranger is no witness of it", False, log, stranger.verifier_key)
    # What was there before it was cut, by its own key.
    cut = Copy(log)
    newest = folder / "newest"
    ask(address, "/v1/deletion-requests", {"model": "digits", "subjects": ["nobody-more"]})
    newest.write_text(ask(log, "/checkpoint"))
    judged("entries are missing at its end", False, cut.url, since=newest)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    forgetd = Path(sys.argv[1]).resolve()
    agree("the known answers", True, [sys.executable, SECOND, "self-test"])
    witness = audit_log.Witness("witness.example", bytes(range(32)))
    configured = f'[{{url="{witness.url}",key="{witness.verifier_key}"}}]'
    os.environ["FORGETD_AUDIT__WITNESSES"] = configured
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
            check(forgetd, found[0], witness, folder)
        finally:
            service.terminate()
            service.wait()
    print("check-audit-log: two implementations agree on certificate, log, witness and forgeries")


if __name__ == "__main__":
    os.environ.pop("FORGETD_API_KEY", None)
    main()
