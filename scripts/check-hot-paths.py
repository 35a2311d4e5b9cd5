#!/usr/bin/env python3
"""Counts the instructions of the hottest paths and compares them with those on record.

    check-hot-paths.py HOT_PATHS [--record]

HOT_PATHS is the program of examples/hot_paths.rs. The counts come from callgrind (valgrind), on which
neither the clock nor other load has an influence. They are those of the development profile, in which
the dependencies are optimised and forgetd's own code is not: what is found is work that is done
twice, queries that walk a table, copies of tensors; not what an optimiser would mend.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

RECORD = pathlib.Path(__file__).with_name("hot-paths.json")
# Calls to count, besides the set-up, which a run without any call measures.
CALLS = {"predict_json": 20, "predict_binary": 20, "accept_deletion": 20, "ingest": 2,
         "gradient_step": 2}
# Processors and C libraries differ by less: by how they copy memory, by the blocks of a matrix product.
# A query that walks a table costs several times as much.
TOLERANCE = 0.25


def instructions(program, path, calls):
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null",
               str(program), path, str(calls)]
    done = subprocess.run(command, env={**os.environ, "RAYON_NUM_THREADS": "1"},
                          capture_output=True, text=True)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or not found:
        sys.exit(f"{' '.join(command)}: {done.stderr}")
    return int(found[1])


def measure(program):
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        setup = pool.submit(instructions, program, "ingest", 0)
        runs = {path: pool.submit(instructions, program, path, calls)
                for path, calls in CALLS.items()}
        return {path: round((runs[path].result() - setup.result()) / calls)
                for path, calls in CALLS.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("--record", action="store_true", help="put what is found on record")
    arguments = parser.parse_args()
    found = measure(arguments.program)
    if arguments.record:
        RECORD.write_text(json.dumps(found, indent=2) + "\n")
        return
    recorded = json.loads(RECORD.read_text())
    if recorded.keys() != found.keys():
        sys.exit(f"{RECORD} is of other paths; put them on record anew with --record")
    slower = []
    for path, count in found.items():
        ratio = count / recorded[path]
        print(f"{path}: {count:,} instructions a call, {ratio:.3f} of those on record")
        if ratio > 1 + TOLERANCE:
            slower.append(path)
        elif ratio < 1 - TOLERANCE:
            print("  fewer: put them on record with --record, so that they stay so")
    if slower:
        sys.exit(f"more instructions than on record: {', '.join(slower)}. Mend it, or say in the "
                 "commit why it has to be and put the new counts on record with --record")


if __name__ == "__main__":
    main()
