"""Start time, idle memory, size of the program."""

import statistics

import predictions

TITLE = "Start"


def measure(bench):
    service = predictions.prepare(bench)
    starts, memory = [], []
    for _ in range(2 * bench.rounds):
        with service.serve() as server:
            starts.append(server.wait("/v2/models/lenet5/ready"))
            memory.append(server.memory_mb())
    return ["| ready with mlp and lenet5 | idle memory | size of the program |", "|---|---|---|",
            f"| {statistics.median(starts) * 1e3:.0f} ms | {statistics.median(memory):.0f} MB | "
            f"{bench.forgetd.stat().st_size / 2**20:.0f} MiB |", ""]
