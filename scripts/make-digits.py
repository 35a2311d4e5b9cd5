#!/usr/bin/env python3
"""Makes data/digits.csv.gz from scikit-learn's copy of the UCI handwritten digits.

    pip download --no-deps scikit-learn==1.9.1
    python3 scripts/make-digits.py scikit_learn-1.9.1-*.whl data/digits.csv.gz

The wheel carries the 1,797 samples as sklearn/datasets/data/digits.csv.gz: 64 pixels and the
label a line, no header. This script adds what a deletion service needs and the original does not
have: a name for each sample, a split, and a made-up person behind each sample. All three follow
from the sample's number alone, so that the output is the same, byte for byte, on each run.

Python 3.8 or newer, standard library only.
"""

import csv
import gzip
import hashlib
import io
import sys
import zipfile

SOURCE = "sklearn/datasets/data/digits.csv.gz"
SAMPLES = 1797
SIDE = 8
# The sizes of the persons' sets are drawn from 1..19, which gives about 10 on average.
SIZE_MAX = 19
HOLDOUT_PERCENT = 20


def draw(purpose: str, number: int, bound: int) -> int:
    """A fixed number in 0..bound for this purpose and number."""
    digest = hashlib.sha256(f"{purpose} {number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % bound


def persons(samples: int) -> list:
    """The person of each sample: sets of varied size, spread over the whole file."""
    owners = []
    person = 0
    while len(owners) < samples:
        size = 1 + draw("size", person, SIZE_MAX)
        owners.extend([f"person-{person:03}"] * size)
        person += 1
    # Neighbours in the file may be one writer's: nobody's set shall be a run of neighbours.
    order = sorted(range(samples), key=lambda at: (draw("order", at, 1 << 64), at))
    spread = [""] * samples
    for place, owner in zip(order, owners):
        spread[place] = owner
    return spread


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(f"usage: {sys.argv[0]} SCIKIT_LEARN.whl OUT.csv.gz")
    with zipfile.ZipFile(sys.argv[1]) as wheel:
        source = gzip.decompress(wheel.read(SOURCE)).decode("ascii")
    rows = list(csv.reader(io.StringIO(source)))
    if len(rows) != SAMPLES or any(len(row) != SIDE * SIDE + 1 for row in rows):
        sys.exit(f"{SOURCE} does not hold {SAMPLES} rows of {SIDE * SIDE + 1} numbers")

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    pixels = [f"pixel_{y}_{x}" for y in range(SIDE) for x in range(SIDE)]
    writer.writerow(["sample_id", "subject_id", "split", "label", *pixels])
    for number, (row, person) in enumerate(zip(rows, persons(len(rows)))):
        is_holdout = draw("split", number, 100) < HOLDOUT_PERCENT
        split = "holdout" if is_holdout else "train"
        writer.writerow([f"digit-{number:04}", person, split, row[-1], *row[:-1]])

    # Neither a file name nor a time in the header: the same input gives the same bytes.
    with open(sys.argv[2], "wb") as out:
        with gzip.GzipFile("", "wb", compresslevel=9, fileobj=out, mtime=0) as packed:
            packed.write(text.getvalue().encode("ascii"))


if __name__ == "__main__":
    main()
