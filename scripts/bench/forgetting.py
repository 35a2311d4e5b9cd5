"""Forgetting: from POST to completed with the new version answering, by the ledger's size."""

import contextlib
import json
import math
import sqlite3
import statistics
import subprocess
import time
import uuid

import psycopg

import data
import postgres
from predictions import finished
from servers import HERE, Forgetd

TITLE = "Forgetting"

UNSETTLED = {"settlement": {"after_requests": None, "after_age_s": None,
                            "after_accuracy_drop": None}}
MODELS = (("mlp", {"preset": "mlp", "hidden": [256]}, [784]),
          ("lenet5", {"preset": "lenet5"}, [1, 28, 28]))
SAMPLES_EACH = 5
# A p99 of fewer would be the slowest one.
REQUESTS = 120
PAUSE_S = 1.5
FLOOD_S = 10


def trained(bench, name, network, shape, count, policy=None, recipe=None, database_url=None):
    """Seconds that the training took, too; by a recipe that makes it short where none is named."""
    service = Forgetd(bench.forgetd, bench.folder / f"forgetting-{name}", database_url)
    with service.serve() as server:
        server.wait("/v2/health/live")
        server.json("POST", "/v1/models", {
            "name": name, "network": network, "policy": {**UNSETTLED, **(policy or {})},
            "schema": {"tensor": {"shape": shape, "scale": 255}},
            "recipe": {"epochs": 1, "folds": 2} if recipe is None else recipe})
    for split, rows in (("train", count), ("holdout", 5_000)):
        file = bench.folder / f"{name}-{split}.ndjson"
        data.write(file, rows, math.prod(shape), SAMPLES_EACH, split, seed=len(split))
        service.run("ingest", "--model", name, "--file", file)
        file.unlink()
    return service, service.run("train", "--model", name)


def latencies(server, name, requests, first=0):
    """Seconds from POST to `completed`, by when the new version answers here."""
    seconds = []
    for person in range(first, first + requests):
        time.sleep(PAUSE_S)
        started = time.monotonic()
        accepted = server.json("POST", "/v1/deletion-requests",
                               {"model": name, "subjects": [f"train-{person}"]})
        done = finished(server, accepted["id"])
        seconds.append(time.monotonic() - started)
        if done["state"] != "completed":
            raise SystemExit(f"a request ended as {done}")
    return seconds


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, math.ceil(share * len(values)) - 1)]


def speed(bench):
    rows = ["| model | n | p50 | p99 | training again | times p50 | reference step, p50 | times p50 |",
            "|---|---|---|---|---|---|---|---|"]
    for name, network, shape in MODELS:
        count = bench.samples
        service, _ = trained(bench, name, network, shape, count)
        with service.serve() as server:
            server.wait(f"/v2/models/{name}/ready")
            latencies(server, name, 3)
            measured = latencies(server, name, REQUESTS, 3)
        service, _ = trained(bench, f"{name}-reference", network, shape, count,
                             {"method": "iau-reference"})
        with service.serve() as server:
            server.wait(f"/v2/models/{name}-reference/ready")
            reference = statistics.median(latencies(server, f"{name}-reference", 3))
        _, training = trained(bench, f"{name}-again", network, shape, count, recipe={})
        p50 = statistics.median(measured)
        rows.append(
            f"| {name} | {count:,} | {p50 * 1e3:.0f} ms | {percentile(measured, .99) * 1e3:.0f} ms "
            f"| {training:.1f} s | {training / p50:.0f} | {reference:.2f} s | {reference / p50:.1f} |")
    rows += ["", "Training again is by the default recipe, 15 epochs and five folds; the versions "
             "that forget were trained for one epoch with two."]
    return rows


def growth(bench):
    """All sizes at once and in turn: the machine's own pace changes within minutes."""
    with contextlib.ExitStack() as stack:
        servers = {}
        for count in bench.sizes:
            name = f"rows-{count}"
            service, _ = trained(bench, name, {"preset": "mlp", "hidden": [64]}, [64], count)
            servers[count] = server = stack.enter_context(service.serve())
            server.wait(f"/v2/models/{name}/ready")
            latencies(server, name, 3)
        measured = {count: [] for count in servers}
        for person in range(3, 3 + REQUESTS // 4):
            for count, server in servers.items():
                measured[count] += latencies(server, f"rows-{count}", 1, person)
        rows = ["| n | p50 | of the smallest's | memory of the service |", "|---|---|---|---|"]
        medians = {count: statistics.median(seconds) for count, seconds in measured.items()}
        for count, server in servers.items():
            rows.append(f"| {count:,} | {medians[count] * 1e3:.0f} ms | "
                        f"{medians[count] / medians[min(medians)]:.2f} | "
                        f"{server.memory_mb():.0f} MB |")
    return rows


def inserted_alone(execute, seconds=3):
    """Durable inserts a second, one transaction each, as fast as one client makes them."""
    started, count = time.monotonic(), 0
    while time.monotonic() - started < seconds:
        execute(uuid.uuid4().bytes, "x" * 200)
        count += 1
    return count / (time.monotonic() - started)


def raw_sqlite(bench):
    file = bench.folder / "raw.sqlite"
    file.unlink(missing_ok=True)
    database = sqlite3.connect(file, isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("CREATE TABLE raw_requests (id BLOB PRIMARY KEY, body TEXT)")
    insert = "INSERT INTO raw_requests VALUES (?, ?)"
    return inserted_alone(lambda *row: database.execute(insert, row))


def raw_postgres(url):
    with psycopg.connect(url, autocommit=True) as database:
        database.execute("CREATE TABLE raw_requests (id bytea PRIMARY KEY, body text)")
        insert = "INSERT INTO raw_requests VALUES (%s, %s)"
        rate = inserted_alone(lambda *row: database.execute(insert, row, prepare=True))
        database.execute("DROP TABLE raw_requests")
    return rate


def flooded(bench, raw, database_url=None):
    """Requests of 32 clients that post as fast as they can, each for another person."""
    service, _ = trained(bench, "flood", {"preset": "mlp", "hidden": [64]}, [64], bench.flooded,
                         database_url=database_url)
    with service.serve() as server:
        server.wait("/v2/models/flood/ready")
        started = time.monotonic()
        command = ["wrk", "-t1", "-c32", f"-d{FLOOD_S}s", "-s", HERE / "flood.lua",
                   f"http://127.0.0.1:{server.port}/v1/deletion-requests"]
        done = subprocess.run([str(part) for part in command], check=True, capture_output=True,
                              text=True)
        measured = json.loads(done.stdout.splitlines()[-1])
        for state in ("queued", "unlearning"):
            path = f"/v1/deletion-requests?state={state}&limit=1"
            while server.json("GET", path)["items"]:
                time.sleep(0.05)
        completed = time.monotonic() - started
        if server.json("GET", "/v1/deletion-requests?state=failed&limit=1")["items"]:
            raise SystemExit("a request of the flood failed")
    rate = measured["accepted"] / measured["seconds"]
    return (f"{measured['accepted']:,} | {rate:,.0f} | {raw:,.0f} | {rate / raw:.0%} | "
            f"{measured['p99_us'] / 1e3:.0f} ms | {completed:.1f} s |")


def flood(bench):
    rows = ["| database | accepted | accepted/s | raw durable inserts/s | share | p99 | all "
            "completed after |", "|---|---|---|---|---|---|---|",
            f"| SQLite | {flooded(bench, raw_sqlite(bench))}"]
    with postgres.server() as url:
        rows.append(f"| PostgreSQL | {flooded(bench, raw_postgres(url), url)}")
    return [*rows, "", f"32 clients for {FLOOD_S} s, each request for another person."]


def measure(bench):
    parts = {}
    for part in (flood, growth, speed):
        parts[part] = part(bench)
        print(*parts[part], sep="\n", flush=True)
    return [f"From POST to `completed`: one person with {SAMPLES_EACH} samples, {REQUESTS} requests "
            f"on an idle service, {PAUSE_S} s after one another, SQLite, durable writes included.",
            "",
            *parts[speed], "", "### By the size of the ledger", "",
            f"Rows of 64 features, {REQUESTS // 4} requests each, the sizes in turn.", "", *parts[growth], "",
            "### A flood", "", *parts[flood], ""]
