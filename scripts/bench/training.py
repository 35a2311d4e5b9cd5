"""One training step's loss and gradient, batch 256, against PyTorch with as many threads."""

import os
import statistics
import subprocess
import sys

from servers import HERE

TITLE = "Training"


def microseconds(*command, threads):
    environment = {**os.environ, "RAYON_NUM_THREADS": str(threads)}
    done = subprocess.run([str(part) for part in command], env=environment, check=True,
                          capture_output=True, text=True)
    return int(done.stdout)


def measure(bench):
    rows = [f"Loss and gradient of one step, batch 256, medians of {bench.rounds} alternating runs.",
            "", "| model | threads | forgetd | PyTorch | ratio |", "|---|---|---|---|---|"]
    gradient = bench.ceiling.with_name("gradient")
    for name, repeats in (("mlp", 200), ("lenet5", 30)):
        for threads in (1, 2):
            own, peer = [], []
            for _ in range(bench.rounds):
                own.append(microseconds(gradient, name, repeats, threads=threads))
                peer.append(microseconds(sys.executable, HERE / "peers" / "gradient.py", name,
                                         repeats, threads, threads=threads))
            own, peer = statistics.median(own), statistics.median(peer)
            rows.append(f"| {name} | {threads} | {own / 1e3:.2f} ms | {peer / 1e3:.2f} ms | "
                        f"{own / peer:.2f} |")
    return [*rows, ""]
