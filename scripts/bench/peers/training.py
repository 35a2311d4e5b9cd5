"""What PyTorch takes for what examples/training.rs times, batches of 256; microseconds."""

import statistics
import sys
import time

import torch

from networks import lenet5, mlp

BATCH_ROWS = 256
EPOCH_ROWS = 10_000


def step(build, width):
    network = build()
    rows, labels = torch.rand(BATCH_ROWS, width), torch.arange(BATCH_ROWS) % 10

    def run():
        network.zero_grad()
        torch.nn.functional.cross_entropy(network(rows), labels).backward()

    return run


def epoch(build, width):
    """From rows of bytes in memory, in a new order, with Adam; no loader between them."""
    rows = torch.randint(256, (EPOCH_ROWS, width), dtype=torch.uint8)
    labels = torch.arange(EPOCH_ROWS) % 10

    def run():
        network = build()
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        for batch in torch.randperm(EPOCH_ROWS).split(BATCH_ROWS):
            optimizer.zero_grad()
            answers = network(rows[batch].float() / 255)
            loss = torch.nn.functional.cross_entropy(answers, labels[batch])
            loss.backward()
            optimizer.step()
            if not torch.isfinite(loss):
                raise SystemExit("the loss is not finite")

    return run


def main():
    measured, name, repeats, threads = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:5])
    torch.set_num_threads(threads)
    build, width = {"mlp": (mlp, 784), "lenet5": (lenet5, 3_072)}[name]
    run = {"step": step, "epoch": epoch}[measured](build, width)
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    print(round(statistics.median(times) * 1e6))


if __name__ == "__main__":
    main()
