"""A training step's loss and gradient, and an epoch, against PyTorch with as many threads; training
with the gradients restricted, against training without."""

import os
import statistics
import subprocess
import sys

from forgetting import MODELS, trained
from servers import HERE

TITLE = "Training"

RESTRICTED_SAMPLES = 10_000


def microseconds(*command, threads):
    environment = {**os.environ, "RAYON_NUM_THREADS": str(threads)}
    done = subprocess.run([str(part) for part in command], env=environment, check=True,
                          capture_output=True, text=True)
    return int(done.stdout)


def against_pytorch(bench, measured, repeats):
    """Alternating runs of one thing that both do, with as many threads."""
    rows = ["| model | threads | forgetd | PyTorch | ratio |", "|---|---|---|---|---|"]
    own_program = [bench.examples / "training"]
    peer_program = [sys.executable, HERE / "peers" / "training.py"]
    for name, often in repeats.items():
        for threads in (1, 2):
            own, peer = [], []
            for _ in range(bench.rounds):
                arguments = (measured, name, often)
                own.append(microseconds(*own_program, *arguments, threads=threads))
                peer.append(microseconds(*peer_program, *arguments, threads, threads=threads))
            own, peer = statistics.median(own), statistics.median(peer)
            rows.append(f"| {name} | {threads} | {own / 1e3:,.2f} ms | {peer / 1e3:,.2f} ms | "
                        f"{own / peer:.2f} |")
    return rows


def restriction(bench):
    rows = ["| model | plain | with gradient restriction | ratio |", "|---|---|---|---|"]
    for name, network, shape in MODELS:
        seconds = {0.0: [], 0.1: []}
        for _ in range(bench.rounds):
            for alpha, measured in seconds.items():
                recipe = {"epochs": 2, "folds": 2, "gradient_restriction": alpha}
                _, took = trained(bench, f"{name}-restricted", network, shape, RESTRICTED_SAMPLES,
                                  recipe=recipe)
                measured.append(took)
        plain, restricted = (statistics.median(measured) for measured in seconds.values())
        rows.append(f"| {name} | {plain:.2f} s | {restricted:.2f} s | {restricted / plain:.2f} |")
    return rows


def measure(bench):
    return [f"Loss and gradient of one step, batch 256, medians of {bench.rounds} alternating runs.",
            "", *against_pytorch(bench, "step", {"mlp": 200, "lenet5": 30}), "",
            "### An epoch", "",
            "10,000 rows in memory, in a new order, batch 256, with Adam, first weights included; "
            f"medians of {bench.rounds} alternating runs.",
            "", *against_pytorch(bench, "epoch", {"mlp": 9, "lenet5": 3}), "",
            "### Gradient restriction", "",
            f"`forgetd train`, {RESTRICTED_SAMPLES:,} samples, two epochs, two folds; medians of "
            f"{bench.rounds} alternating runs.", "", *restriction(bench), ""]
