#!/usr/bin/env python3
"""A second implementation of forgetd's audit log checks, written from the specifications alone.

    python3 tests/audit_log.py certificate FILE VERIFIER_KEY [OLDER_CHECKPOINT]
    python3 tests/audit_log.py log PREFIX VERIFIER_KEY [OLDER_CHECKPOINT [WITNESS_KEY]]
    python3 tests/audit_log.py self-test

- RFC 6962 hashing, inclusion and consistency proofs (recursively, as section 2.1 defines them);
- RFC 8032 Ed25519 in plain integers, as slow as it is short;
- C2SP signed-note, tlog-checkpoint, tlog-tiles, tlog-proof, tlog-cosignature and tlog-witness.

It shares no code with forgetd, so that a mistake would have to be made twice. Python 3.8 or newer,
standard library only.
"""

import base64
import hashlib
import json
import os
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# --- Ed25519, RFC 8032 section 5.1 ------------------------------------------------------------

P = 2**255 - 19
Q = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ROOT_OF_MINUS_ONE = pow(2, (P - 1) // 4, P)


def recover_x(y, sign):
    if y >= P:
        return None
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * ROOT_OF_MINUS_ONE % P
    if (x * x - square) % P or (x == 0 and sign):
        return None
    return P - x if x & 1 != sign else x


def add(a, b):
    """Points in extended homogeneous coordinates."""
    e = (a[1] - a[0]) * (b[1] - b[0]) % P
    f = (a[1] + a[0]) * (b[1] + b[0]) % P
    g = 2 * a[3] * b[3] * D % P
    h = 2 * a[2] * b[2] % P
    e, f, g, h = f - e, h - g, h + g, f + e
    return (e * f % P, g * h % P, f * g % P, e * h % P)


def multiply(factor, point):
    product = (0, 1, 1, 0)
    while factor:
        if factor & 1:
            product = add(product, point)
        point = add(point, point)
        factor >>= 1
    return product


BASE_Y = 4 * pow(5, P - 2, P) % P
BASE_X = recover_x(BASE_Y, 0)
BASE = (BASE_X, BASE_Y, 1, BASE_X * BASE_Y % P)


def decompress(encoded):
    y = int.from_bytes(encoded, "little")
    sign, y = y >> 255, y & (2**255 - 1)
    x = recover_x(y, sign)
    return None if x is None else (x, y, 1, x * y % P)


def ed25519_verifies(public, message, signature):
    if len(public) != 32 or len(signature) != 64:
        return False
    a, r = decompress(public), decompress(signature[:32])
    s = int.from_bytes(signature[32:], "little")
    if a is None or r is None or s >= Q:
        return False
    digest = hashlib.sha512(signature[:32] + public + message).digest()
    left = multiply(s, BASE)
    right = add(r, multiply(int.from_bytes(digest, "little") % Q, a))
    return (left[0] * right[2] - right[0] * left[2]) % P == 0 and (
        left[1] * right[2] - right[1] * left[2]
    ) % P == 0


def compress(point):
    inverse = pow(point[2], P - 2, P)
    x, y = point[0] * inverse % P, point[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def ed25519_key(seed):
    """The secret scalar, the prefix of its nonces, and the public key."""
    digest = hashlib.sha512(seed).digest()
    scalar = int.from_bytes(digest[:32], "little") & (1 << 254) - 8 | 1 << 254
    return scalar, digest[32:], compress(multiply(scalar, BASE))


def ed25519_sign(key, message):
    scalar, prefix, public = key
    nonce = int.from_bytes(hashlib.sha512(prefix + message).digest(), "little") % Q
    point = compress(multiply(nonce, BASE))
    challenge = hashlib.sha512(point + public + message).digest()
    answer = (nonce + int.from_bytes(challenge, "little") * scalar) % Q
    return point + answer.to_bytes(32, "little")


# --- RFC 6962, section 2.1 --------------------------------------------------------------------


def leaf_hash(entry):
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left, right):
    return hashlib.sha256(b"\x01" + left + right).digest()


def split(size):
    """The largest power of two smaller than `size`."""
    return 1 << (size - 1).bit_length() - 1


def root_of(leaves):
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    k = split(len(leaves))
    return node_hash(root_of(leaves[:k]), root_of(leaves[k:]))


def root_by_path(leaf, index, size, path):
    """The root that an audit path leads to; the last hash is the root's child."""
    if index >= size:
        raise ValueError("the leaf lies beyond the tree")
    if size == 1:
        if path:
            raise ValueError("the path is too long")
        return leaf
    if not path:
        raise ValueError("the path is too short")
    k = split(size)
    if index < k:
        return node_hash(root_by_path(leaf, index, k, path[:-1]), path[-1])
    return node_hash(path[-1], root_by_path(leaf, index - k, size - k, path[:-1]))


def roots_by_proof(old, new, proof, old_root, known=True):
    """The older and the newer root that SUBPROOF(old, D[new], known) leads to."""
    if old == new:
        if known:
            if proof:
                raise ValueError("the proof is too long")
            return old_root, old_root
        if len(proof) != 1:
            raise ValueError("the proof has another length")
        return proof[0], proof[0]
    if not proof:
        raise ValueError("the proof is too short")
    k = split(new)
    if old <= k:
        before, after = roots_by_proof(old, k, proof[:-1], old_root, known)
        return before, node_hash(after, proof[-1])
    before, after = roots_by_proof(old - k, new - k, proof[:-1], old_root, False)
    return node_hash(proof[-1], before), node_hash(proof[-1], after)


# --- C2SP signed-note and tlog-checkpoint -----------------------------------------------------


LOG, WITNESS = 1, 4


def key_id_of(name, material):
    return hashlib.sha256(name.encode() + b"\n" + material).digest()[:4]


def parse_key(text, kind=LOG):
    name, key_id, encoded = text.strip().split("+", 2)
    material = base64.b64decode(encoded, validate=True)
    expected = key_id_of(name, material)
    if bytes.fromhex(key_id) != expected or material[0] != kind or len(material) != 33:
        raise ValueError("this is no such verifier key")
    return name, expected, material[1:]


def signatures(note, key):
    """The note's text, and what stands in its lines by this key."""
    name, key_id, _ = key
    cut = note.rindex("\n\n")
    text, lines = note[: cut + 1], note[cut + 2 :]
    if not lines.endswith("\n"):
        raise ValueError("the note does not end in a newline")
    found = []
    for line in lines[:-1].split("\n"):
        dash, signer, encoded = line.split(" ")
        if dash != "\u2014":
            raise ValueError("a signature line does not begin with a dash")
        signature = base64.b64decode(encoded, validate=True)
        if signer == name and signature[:4] == key_id:
            found.append(signature[4:])
    return text, found


def open_checkpoint(note, key):
    """Size and root of a checkpoint that the key has signed."""
    text, signed = signatures(note, key)
    if not signed:
        raise ValueError("the log has not signed the checkpoint")
    if not all(ed25519_verifies(key[2], text.encode(), signature) for signature in signed):
        raise ValueError("the log's signature does not fit the checkpoint")
    origin, size, root = text.split("\n")[:3]
    if origin != key[0] or str(int(size)) != size:
        raise ValueError("the checkpoint is not the log's")
    root = base64.b64decode(root, validate=True)
    if len(root) != 32:
        raise ValueError("the root is no SHA-256 hash")
    return int(size), root


# --- C2SP tlog-cosignature and tlog-witness ---------------------------------------------------


def cosigned_message(text, timestamp):
    return f"cosignature/v1\ntime {timestamp}\n{text}".encode()


def check_cosignature(note, witness):
    text, found = signatures(note, witness)
    if not found:
        raise ValueError("the witness has not cosigned the checkpoint")
    for cosignature in found:
        message = cosigned_message(text, int.from_bytes(cosignature[:8], "big"))
        if not ed25519_verifies(witness[2], message, cosignature[8:]):
            raise ValueError("the cosignature does not fit the checkpoint")


def serve(answer):
    """Answers on a free port of loopback by `answer(path, body)`, which gives status, content type and
    bytes; returns the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            status, kind, content = answer(self.path, body)
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}/"


class Witness:
    """Cosigns the checkpoints of one log that only grows, at `url`."""

    def __init__(self, name, seed):
        self.name, self.key = name, ed25519_key(seed)
        material = bytes([WITNESS]) + self.key[2]
        self.key_id = key_id_of(name, material)
        encoded = base64.b64encode(material).decode()
        self.verifier_key = f"{name}+{self.key_id.hex()}+{encoded}"
        # The log's key, once it is known, and what was cosigned last.
        self.log, self.size, self.root = None, 0, None
        self.lock = threading.Lock()
        self.url = serve(self.answer)

    def answer(self, path, body):
        with self.lock:
            status, kind, text = self.add_checkpoint(path, body.decode())
        return status, kind, text.encode()

    def add_checkpoint(self, path, body):
        """Status, content type and text of the answer."""
        plain = "text/plain; charset=utf-8"
        if path != "/add-checkpoint" or self.log is None:
            return 404, plain, "no such log\n"
        head, note = body.split("\n\n", 1)
        old, *proof = head.split("\n")
        old = int(old[len("old ") :])
        try:
            size, root = open_checkpoint(note, self.log)
        except ValueError as error:
            return 403, plain, f"{error}\n"
        if old > size:
            return 400, plain, "it is smaller than what it grew from\n"
        if old != self.size:
            return 409, "text/x.tlog.size", f"{self.size}\n"
        proof = [base64.b64decode(hash, validate=True) for hash in proof]
        if old > 0:
            try:
                consistent = roots_by_proof(old, size, proof, self.root) == (self.root, root)
            except ValueError:
                consistent = False
            if not consistent:
                return 422, plain, "it did not grow from what was cosigned\n"
        self.size, self.root = size, root
        text = note[: note.rindex("\n\n") + 1]
        now = int(time.time())
        signature = ed25519_sign(self.key, cosigned_message(text, now))
        line = base64.b64encode(self.key_id + now.to_bytes(8, "big") + signature).decode()
        return 200, plain, f"\u2014 {self.name} {line}\n"


# --- Canonical JSON, RFC 8785 -----------------------------------------------------------------


def canonical_number(number):
    if isinstance(number, int):
        return str(number)
    if number == 0:
        return "0"
    digits = repr(abs(number))
    mantissa, _, exponent = digits.partition("e")
    whole, _, fraction = mantissa.partition(".")
    power = int(exponent or 0) + len(whole)
    figures = (whole + fraction).lstrip("0")
    power -= len(whole + fraction) - len(figures)
    figures = figures.rstrip("0")
    if -6 < power <= 0:
        text = "0." + "0" * -power + figures
    elif 0 < power <= 21:
        figures = figures.ljust(power, "0")
        text = figures[:power] + ("." + figures[power:] if figures[power:] else "")
    else:
        text = figures[0] + ("." + figures[1:] if figures[1:] else "")
        text += "e" + ("+" if power > 0 else "-") + str(abs(power - 1))
    return ("-" if number < 0 else "") + text


def canonical(value):
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: key.encode("utf-16-be"))
        fields = (json.dumps(key, ensure_ascii=False) + ":" + canonical(value[key]) for key in keys)
        return "{" + ",".join(fields) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return canonical_number(value)
    return json.dumps(value, ensure_ascii=False)


# --- Certificates -----------------------------------------------------------------------------


def only(leaves, kind, about):
    found = [leaf for leaf in leaves if leaf["kind"] == kind and leaf["about"] == about]
    if len(found) != 1:
        raise ValueError(f"{len(found)} leaves {kind} about {about}")
    return found[0]


def same(what, stated, logged):
    if stated != logged:
        raise ValueError(f"{what}: {stated!r} is stated, but the log has {logged!r}")


def check_version(facts, leaf):
    details = leaf["details"]
    for stated, logged in [
        ("epoch", "epoch"),
        ("cause", "cause"),
        ("parent_epoch", "parent_epoch"),
        ("weights_before", "parent_weights"),
        ("weights_after", "weights"),
        ("method", "method"),
        ("metrics", "metrics"),
        ("forgetd", "forgetd"),
    ]:
        same(f"version.{stated}", facts[stated], details[logged])
    same("version.published_at", facts["published_at"], leaf["occurred_at"])


def deadline(leaves, request):
    """The last deadline that the leaves name, each extension checked against the one before."""
    due_by, extensions = None, iter(request["extensions"])
    for leaf in leaves:
        details = leaf["details"]
        if leaf["kind"] in ("deletion.suspended", "deletion.received"):
            same("due_by", details["due_by"], due_by or details["due_by"])
            due_by = details["due_by"]
        elif leaf["kind"] == "deletion.deadline_extended":
            stated = next(extensions, {})
            same("previous_due_by", details["previous_due_by"], due_by)
            due_by = details["due_by"]
            for field in ("previous_due_by", "due_by", "reason"):
                same(f"request.extensions.{field}", stated.get(field), details[field])
            at = stated.get("extended_at")
            same("request.extensions.extended_at", at, leaf["occurred_at"])
    same("request.extensions", next(extensions, None), None)
    return due_by


def check_certificate(text, key, older=None):
    certificate = json.loads(text)
    same("format", certificate["format"], "forgetd-certificate/1")
    size, root = open_checkpoint(certificate["checkpoint"], key)
    leaves = []
    for item in certificate["leaves"]:
        entry = item["entry"]
        path = [bytes.fromhex(hash) for hash in item["proof"]]
        reached = root_by_path(leaf_hash(entry.encode()), item["index"], size, path)
        same(f"inclusion of leaf {item['index']}", reached, root)
        leaf = json.loads(entry)
        same(f"canonical form of leaf {item['index']}", entry, canonical(leaf))
        leaves.append(leaf)
    if older is not None:
        old_size, old_root = open_checkpoint(older, key)
        consistency = certificate["consistency"]
        same("consistency.from", consistency["from"], old_size)
        proof = [bytes.fromhex(hash) for hash in consistency["proof"]]
        reached = roots_by_proof(old_size, size, proof, old_root)
        same("consistency", reached, (old_root, root))

    statement = certificate["statement"]
    request, batch = statement["request"], statement["batch"]
    completion, version = statement["completion"], statement["version"]
    received = only(leaves, "deletion.received", request["id"])
    completed = only(leaves, "deletion.completed", request["id"])
    published = only(leaves, "batch.published", batch["id"])
    targets = hashlib.sha256(canonical(request["targets"]).encode()).hexdigest()
    same("request.targets", targets, received["details"]["targets_digest"])
    same("request.samples", request["samples"], received["details"]["samples"])
    same("request.received_at", request["received_at"], received["details"]["received_at"])
    same("request.due_by", request["due_by"], deadline(leaves, request))
    created = only(leaves, "model.created", request["model_id"])
    same("request.model", request["model"], created["details"]["name"])
    same("batch.id", batch["id"], completed["details"]["batch"])
    same("batch.samples_erased", batch["samples_erased"], published["details"]["erased"])
    same("batch.evidence", batch["evidence"], published["details"]["evidence"])
    same("completion.completed_at", completion["completed_at"], completed["occurred_at"])
    same("completion.guarantee", completion["guarantee"], completed["details"]["guarantee"])
    excluded = completed["details"]["excluded_from_epoch"]
    same("completion.excluded_from_epoch", completion["excluded_from_epoch"], excluded)
    same("version", version is not None, published["details"]["epoch"] is not None)
    if version is not None:
        check_version(version, only(leaves, "version.published", batch["id"]))
    settlement = statement["settlement"]
    guarantee = completion["guarantee"]
    if settlement is not None:
        settled = only(leaves, "deletion.settled", request["id"])
        same("settlement.settled_at", settlement["settled_at"], settled["occurred_at"])
        made = only(leaves, "version.published", settled["details"]["job"])
        check_version(settlement["version"], made)
        guarantee = "exact"
    same("guarantee", statement["guarantee"], guarantee)
    return size, len(leaves)


def check_tlog_proof(text, key):
    lines, checkpoint = text.split("\n\n", 1)
    header, extra, index, *path = lines.split("\n")
    same("tlog-proof's header", header, "c2sp.org/tlog-proof@v1")
    entry = base64.b64decode(extra[len("extra ") :], validate=True)
    index = int(index[len("index ") :])
    size, root = open_checkpoint(checkpoint, key)
    path = [base64.b64decode(hash, validate=True) for hash in path]
    same("tlog-proof", root_by_path(leaf_hash(entry), index, size, path), root)


# --- Logs, C2SP tlog-tiles --------------------------------------------------------------------


def tile_path(index, width):
    groups = [f"{index % 1000:03}"]
    while index >= 1000:
        index //= 1000
        groups.insert(0, f"x{index % 1000:03}")
    return "/".join(groups) + ("" if width == 256 else f".p/{width}")


def fetch(prefix, path):
    request = urllib.request.Request(f"{prefix.rstrip('/')}/{path}")
    secret = os.environ.get("FORGETD_API_KEY")
    if secret:
        request.add_header("Authorization", f"Bearer {secret}")
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read(), answer.headers.get("content-type")


def tiles_of(level, size):
    hashes = size >> 8 * level
    for index in range((hashes + 255) // 256):
        yield index, min(256, hashes - 256 * index)


def check_log(prefix, key, older=None, witness=None):
    note, content_type = fetch(prefix, "checkpoint")
    same("the checkpoint's content type", content_type, "text/plain; charset=utf-8")
    size, root = open_checkpoint(note.decode(), key)
    if witness is not None:
        check_cosignature(note.decode(), witness)
    leaves = []
    for index, width in tiles_of(0, size):
        bundle, content_type = fetch(prefix, f"tile/entries/{tile_path(index, width)}")
        same("a bundle's content type", content_type, "application/octet-stream")
        entries = 0
        while bundle:
            length = int.from_bytes(bundle[:2], "big")
            entry, bundle = bundle[2 : 2 + length], bundle[2 + length :]
            same("an entry's length", len(entry), length)
            same("an entry's canonical form", entry.decode(), canonical(json.loads(entry)))
            leaves.append(leaf_hash(entry))
            entries += 1
        same("a bundle's entries", entries, width)
    same("the root", root_of(leaves), root)
    if older is not None:
        old_size, old_root = open_checkpoint(older, key)
        same("the log from before", root_of(leaves[:old_size]), old_root)
    level, hashes, tiles = 0, leaves, 0
    while hashes:
        for index, width in tiles_of(level, size):
            tile, content_type = fetch(prefix, f"tile/{level}/{tile_path(index, width)}")
            same("a tile's content type", content_type, "application/octet-stream")
            same(f"tile {level}/{index}", tile, b"".join(hashes[256 * index :][:width]))
            tiles += 1
        full = len(hashes) // 256
        hashes = [root_of(hashes[256 * i : 256 * (i + 1)]) for i in range(full)]
        level += 1
    return size, tiles


# --- Known answers ----------------------------------------------------------------------------


def self_test():
    # RFC 8032, section 7.1, tests 1 and 3.
    public = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    signature = bytes.fromhex(
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bac"
        "c61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    )
    assert ed25519_verifies(public, b"", signature)
    assert not ed25519_verifies(public, b"x", signature)
    public = bytes.fromhex("fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025")
    signature = bytes.fromhex(
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290"
        "ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
    )
    assert ed25519_verifies(public, bytes.fromhex("af82"), signature)
    # The same section, test 3, the other way round.
    seed = bytes.fromhex("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7")
    assert ed25519_key(seed)[2] == public
    assert ed25519_sign(ed25519_key(seed), bytes.fromhex("af82")) == signature
    # The example of C2SP signed-note, whose text is no checkpoint.
    key = parse_key("example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k")
    line = "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM="
    assert ed25519_verifies(key[2], b"This is an example message.\n", base64.b64decode(line)[4:])
    # Certificate Transparency's reference tree.
    leaves = [
        leaf_hash(bytes.fromhex(leaf))
        for leaf in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657")
    ]
    root = "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c"
    assert root_of(leaves).hex() == root
    proof = [
        bytes.fromhex(hash)
        for hash in (
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "b08693ec2e721597130641e8211e7eedccb4c26413963eee6c1e2ed16ffb1a5f",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        )
    ]
    six = root_of(leaves[:6])
    assert roots_by_proof(6, 7, proof, six) == (six, bytes.fromhex(root))
    # RFC 8785, appendix B.
    for number, text in [
        (5e-324, "5e-324"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
        (9.999999999999997e22, "9.999999999999997e+22"),
        (1e21, "1e+21"),
        (999999999999999900000.0, "999999999999999900000"),
        (1e-6, "0.000001"),
        (9.999999999999997e-7, "9.999999999999997e-7"),
        (333333333.33333329, "333333333.3333333"),
        (-0.0000033333333333333333, "-0.0000033333333333333333"),
        (0.0, "0"),
        (4.5, "4.5"),
    ]:
        assert canonical_number(number) == text, (number, canonical_number(number))
    assert tile_path(1234067, 256) == "x001/x234/067" and tile_path(0, 7) == "000.p/7"


def main(arguments):
    try:
        if arguments[:1] == ["self-test"]:
            self_test()
            print("the known answers come out")
        elif arguments[:1] == ["certificate"] and len(arguments) in (3, 4):
            text = open(arguments[1], encoding="utf-8").read()
            older = open(arguments[3], encoding="utf-8").read() if arguments[3:] else None
            key = parse_key(arguments[2])
            size, leaves = check_certificate(text, key, older)
            check_tlog_proof(json.loads(text)["tlog_proof"], key)
            print(f"the certificate holds: {leaves} leaves of a log of {size}")
        elif arguments[:1] == ["log"] and len(arguments) in (3, 4, 5):
            older = open(arguments[3], encoding="utf-8").read() if arguments[3:] else None
            witness = parse_key(arguments[4], WITNESS) if arguments[4:] else None
            size, tiles = check_log(arguments[1], parse_key(arguments[2]), older, witness)
            print(f"the log holds: {size} entries, {tiles} tiles")
        else:
            sys.exit(__doc__)
    except (ValueError, KeyError, TypeError, IndexError, OSError) as error:
        sys.exit(f"audit_log.py: FAILED: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
