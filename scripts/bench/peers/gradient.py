"""PyTorch's time for one training step's loss and gradient, batch 256; microseconds."""

import statistics
import sys
import time

import torch

from networks import lenet5, mlp


def main():
    name, repeats, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    network, width = (mlp(), 784) if name == "mlp" else (lenet5(), 3_072)
    rows, labels = torch.rand(256, width), torch.arange(256) % 10
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        network.zero_grad()
        torch.nn.functional.cross_entropy(network(rows), labels).backward()
        times.append(time.perf_counter() - started)
    print(round(statistics.median(times) * 1e6))


if __name__ == "__main__":
    main()
