"""Made-up data: a fixed pattern for each of ten classes, under noise."""

import json
import random

CLASSES = 10


def rows(count, width, seed):
    """Pairs of a class and `width` bytes."""
    noise = random.Random(seed)
    patterns = [random.Random(label).randbytes(width) for label in range(CLASSES)]
    for number in range(count):
        label = number % CLASSES
        random_bytes = noise.randbytes(width)
        yield label, [(a + b) >> 1 for a, b in zip(patterns[label], random_bytes)]


def write(path, count, width, samples_each=1, split="train", first=0, seed=0):
    """NDJSON; person `n` has `samples_each` samples."""
    with open(path, "w", encoding="ascii") as file:
        for number, (label, pixels) in enumerate(rows(count, width, seed), first):
            person = f"{split}-{number // samples_each}"
            file.write(json.dumps({
                "sample_id": f"{split}-{number}", "subject_id": person, "split": split,
                "label": str(label), "features": pixels}, separators=(",", ":")))
            file.write("\n")


def body(path, shape):
    """The body of a prediction for one row of single-precision numbers."""
    count = 1
    for side in shape:
        count *= side
    numbers = [round(random.Random(at).uniform(0, 1), 6) for at in range(count)]
    tensor = {"name": "input", "shape": [1, *shape], "datatype": "FP32", "data": numbers}
    path.write_text(json.dumps({"inputs": [tensor]}, separators=(",", ":")))
    return numbers


def binary_body(path, shape, numbers):
    """The same row as bytes; returns the length of the JSON object."""
    import struct
    bytes_ = struct.pack(f"<{len(numbers)}f", *numbers)
    tensor = {"name": "input", "shape": [1, *shape], "datatype": "FP32",
              "parameters": {"binary_data_size": len(bytes_)}}
    text = json.dumps({"inputs": [tensor]}, separators=(",", ":")).encode()
    path.write_bytes(text + bytes_)
    return len(text)
