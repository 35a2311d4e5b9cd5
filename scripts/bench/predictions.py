"""Predictions: against the ceiling, the peers and no queue, under overload, beside work, across a
swap."""

import contextlib
import json
import math
import statistics
import threading
import time

import data
from servers import Forgetd, announced, load, peer

TITLE = "Predictions"

SHAPES = {"mlp": [784], "lenet5": [3, 32, 32]}
NETWORKS = {"mlp": {"preset": "mlp", "hidden": [256]}, "lenet5": {"preset": "lenet5"}}
SECONDS = 3


def prepare(bench):
    """A ledger with both models, trained just enough to answer."""
    service = Forgetd(bench.forgetd, bench.folder / "predictions")
    settled = {"settlement": {"after_requests": None, "after_age_s": None,
                              "after_accuracy_drop": None}}
    with service.serve() as server:
        server.wait("/v2/health/live")
        for name, shape in SHAPES.items():
            server.json("POST", "/v1/models", {
                "name": name, "network": NETWORKS[name], "policy": settled,
                "schema": {"tensor": {"shape": shape, "scale": 255}},
                "recipe": {"epochs": 1, "folds": 2}})
    for name, shape in SHAPES.items():
        width = math.prod(shape)
        for split, count in (("train", 2_000), ("holdout", 400)):
            file = bench.folder / f"{name}-{split}.ndjson"
            data.write(file, count, width, 5, split, seed=1 if split == "train" else 2)
            service.run("ingest", "--model", name, "--file", file)
        service.run("train", "--model", name)
    return service


def bodies(bench):
    made = {}
    for name, shape in SHAPES.items():
        json_file, binary_file = bench.folder / f"{name}.json", bench.folder / f"{name}.bin"
        numbers = data.body(json_file, shape)
        made[name] = (json_file, binary_file, data.binary_body(binary_file, shape, numbers))
    return made


def ready(server, path, file):
    server.wait(path, file.read_text())


def against_peers(bench, service, made):
    """Alternating runs of everything that answers the same body; medians by target."""
    lines = []
    for name in SHAPES:
        path, (json_file, binary_file, json_length) = f"/v2/models/{name}/infer", made[name]
        with contextlib.ExitStack() as stack:
            ours = stack.enter_context(service.serve())
            targets = {
                "forgetd": (ours, json_file, None),
                "forgetd, binary": (ours, binary_file, json_length),
                "ceiling": (stack.enter_context(announced([bench.examples / "ceiling"])), json_file, None),
                "FastAPI": (stack.enter_context(peer("fastapi_app.py")), json_file, None),
                "LitServe": (stack.enter_context(peer("litserve_app.py", name)), json_file, None),
            }
            for server, _, _ in targets.values():
                ready(server, path, json_file)
            for connections in (1, 32):
                runs = {target: [] for target in targets}
                for _ in range(bench.rounds):
                    for target, (server, file, binary) in targets.items():
                        runs[target].append(
                            load(server, path, file, connections, SECONDS, binary=binary))
                lines.append((name, connections, {
                    target: {key: statistics.median(run[key] for run in measured)
                             for key in ("rate", "p50_us", "p99_us")}
                    for target, measured in runs.items()}))
    rows = ["| model | connections | target | requests/s | p50 | p99 | requests/s, ratio |",
            "|---|---|---|---|---|---|---|"]
    for name, connections, medians in lines:
        own = medians["forgetd"]
        for target, median in medians.items():
            rows.append(f"| {name} | {connections} | {target} | {median['rate']:,.0f} | "
                        f"{median['p50_us'] / 1e3:.2f} ms | {median['p99_us'] / 1e3:.2f} ms | "
                        f"{own['rate'] / median['rate']:.2f} |")
    rows += ["", "The ratio is forgetd's rate with a JSON body to the target's."]
    return rows


def idle_queue(bench, made):
    """p50 of one connection, whose rows go through the queue or are computed in place."""
    rows = ["| model | in place | through the queue | ratio |", "|---|---|---|---|"]
    with announced([bench.examples / "queue"]) as server:
        for name in SHAPES:
            file, runs = made[name][0], {"in-place": [], "queued": []}
            for _ in range(bench.rounds):
                for route, measured in runs.items():
                    measured.append(load(server, f"/{route}/{name}", file, 1, SECONDS)["p50_us"])
            in_place, queued = (statistics.median(measured) for measured in runs.values())
            rows.append(f"| {name} | {in_place:.0f} us | {queued:.0f} us | {queued / in_place:.2f} |")
    return rows


def overload(bench, service, made):
    """Answers a second by the number of connections, beside those of the ceiling."""
    rows = ["| model | connections | answered/s | of the best | refused (429) | ceiling | of its best |",
            "|---|---|---|---|---|---|---|"]
    counts = (32, 256, 2_000)
    for name in SHAPES:
        path, file = f"/v2/models/{name}/infer", made[name][0]
        with service.serve() as ours, announced([bench.examples / "ceiling"]) as ceiling:
            servers = {"ours": ours, "ceiling": ceiling}
            for server in servers.values():
                ready(server, path, file)
            runs = {(target, count): [] for count in counts for target in servers}
            for _ in range(bench.rounds):
                for (target, count), measured in runs.items():
                    measured.append(load(servers[target], path, file, count, SECONDS))
        rates = {key: statistics.median(run["rate"] for run in measured)
                 for key, measured in runs.items()}
        best = {target: max(rates[target, count] for count in counts) for target in servers}
        for count in counts:
            refused = statistics.median(run["refused"] for run in runs["ours", count])
            own, top = rates["ours", count], rates["ceiling", count]
            rows.append(f"| {name} | {count} | {own:,.0f} | {own / best['ours']:.0%} | {refused:,.0f} | "
                        f"{top:,.0f} | {top / best['ceiling']:.0%} |")
    return rows


def interference(bench, service, made):
    """p99 at a steady, paced load: idle, and while deletions and settlements run without pause."""
    rows = ["| model | p99 idle | p99 beside unlearning and settlement | ratio |", "|---|---|---|---|"]
    for name in SHAPES:
        with service.serve() as server:
            path, file = f"/v2/models/{name}/infer", made[name][0]
            ready(server, path, file)
            idle, busy = [], []
            for round_ in range(bench.rounds):
                idle.append(load(server, path, file, 4, SECONDS, pause_ms=10)["p99_us"])
                stop = threading.Event()
                worker = threading.Thread(target=work, args=(server, name, round_, stop))
                worker.start()
                busy.append(load(server, path, file, 4, SECONDS, pause_ms=10)["p99_us"])
                stop.set()
                worker.join()
            idle, busy = statistics.median(idle), statistics.median(busy)
            rows.append(f"| {name} | {idle / 1e3:.2f} ms | {busy / 1e3:.2f} ms | {busy / idle:.2f} |")
    return rows


def work(server, name, round_, stop):
    """Deletions one after the other, and a settlement whenever none runs."""
    person = 40 * round_
    while not stop.is_set():
        status, answer = server.request(
            "POST", "/v1/deletion-requests",
            json.dumps({"model": name, "subjects": [f"train-{person % 400}"]}))
        person += 1
        server.request("POST", f"/v1/models/{name}/training-runs",
                       json.dumps({"kind": "settlement"}))
        if status == 202:
            # Whoever asks every 2 ms whether it is done is a load like any other.
            finished(server, json.loads(answer)["id"], every_s=0.02)


def finished(server, request_id, every_s=0.002):
    while True:
        request = server.json("GET", f"/v1/deletion-requests/{request_id}")
        if request["state"] not in ("queued", "unlearning"):
            return request
        time.sleep(every_s)


def swaps(bench, service, made):
    """The slowest of the requests around the moment when the answering version changes."""
    rows = ["| model | swaps | median request | what a swap cost at most, median over swaps | in medians |",
            "|---|---|---|---|---|"]
    for name in SHAPES:
        with service.serve() as server:
            path, body = f"/v2/models/{name}/infer", made[name][0].read_bytes()
            ready(server, path, made[name][0])
            times, costs = [], []
            for person in range(300, 300 + 10 * bench.rounds, 2):
                accepted = server.json("POST", "/v1/deletion-requests",
                                       {"model": name, "subjects": [f"train-{person}"]})
                before = None
                window = []
                while True:
                    started = time.perf_counter()
                    _, answer = server.request("POST", path, body)
                    window.append(time.perf_counter() - started)
                    version = json.loads(answer)["model_version"]
                    if before not in (None, version):
                        break
                    before = version
                    if len(window) > 20_000:
                        raise SystemExit("no swap was seen")
                times += window[:-5]
                costs.append(max(window[-2:]))
                finished(server, accepted["id"])
            median = statistics.median(times)
            cost = statistics.median(costs) - median
            rows.append(f"| {name} | {len(costs)} | {median * 1e3:.2f} ms | {cost * 1e3:.2f} ms | "
                        f"{cost / median:.2f} |")
    return rows


def measure(bench):
    service, made = prepare(bench), bodies(bench)
    return [
        f"JSON bodies of one row; wrk with one thread, {SECONDS} s a run, medians of {bench.rounds} "
        "alternating runs. The ceiling is an axum handler that parses the same body and answers a "
        "constant.", "",
        *against_peers(bench, service, made), "",
        "### An idle queue", "",
        "p50 of one connection to a bare handler, which computes in place or hands the rows to the "
        "queue.", "",
        *idle_queue(bench, made), "",
        "### Overload", "", *overload(bench, service, made), "",
        "### Beside unlearning and settlement", "",
        "Four connections that pause 10 ms between two requests.", "",
        *interference(bench, service, made), "",
        "### Hot swap", "", *swaps(bench, service, made), "",
    ]
