"""Measures the sections that are asked for and writes the table; `scripts/bench.sh` calls it."""

import argparse
import datetime
import os
import pathlib
import platform
import re
import subprocess

import forgetting
import ledger
import predictions
import start
import training

SECTIONS = {"predictions": predictions, "forgetting": forgetting, "training": training,
            "ledger": ledger, "start": start}


def output_of(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


HEADING = """# Performance

Written by `scripts/bench.sh`, which can also renew single sections. Ratios within one section count:
all of it was measured in one run on one machine; absolute figures are that machine's.
"""


def circumstances(rounds):
    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())[1]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    dirty = " with changes" if output_of("git", "status", "--porcelain", "--", "src") else ""
    load = os.getloadavg()[0]
    return (f"*{datetime.date.today()}, commit {output_of('git', 'rev-parse', '--short', 'HEAD')}{dirty}; "
            f"{cpu}, {os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release().split('-')[0]}; "
            f"load average at the start {load:.1f}; {rounds} rounds.*")


def kept_sections(path):
    """What an earlier run wrote, by the title of each section."""
    text = path.read_text() if path.exists() else ""
    parts = re.split(r"^## (.*)\n", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2]))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--forgetd", type=pathlib.Path, required=True)
    parser.add_argument("--examples", type=pathlib.Path, required=True,
                        help="where ceiling, queue and training lie")
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=50_000, help="n of the forgetting table")
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--flooded", type=int, default=300_000, help="samples before the flood")
    parser.add_argument("--ingested", type=int, nargs="+", default=[1_000_000, 10_000_000],
                        help="rows; all but the first from CSV into SQLite alone")
    parser.add_argument("sections", nargs="*", default=[], metavar="section",
                        help=", ".join(SECTIONS))
    bench = parser.parse_args()
    bench.output.parent.mkdir(parents=True, exist_ok=True)
    for name in bench.sections or SECTIONS:
        print(f"measuring {name}", flush=True)
        now = circumstances(bench.rounds)
        lines = SECTIONS[name].measure(bench)
        sections = kept_sections(bench.output)
        sections[SECTIONS[name].TITLE] = "\n".join(["", now, "", *lines])
        titles = [section.TITLE for section in SECTIONS.values()]
        found = [f"## {title}\n{sections[title]}" for title in titles if title in sections]
        bench.output.write_text("\n\n".join(part.rstrip() for part in [HEADING, *found]) + "\n")
    print(f"wrote {bench.output}")


if __name__ == "__main__":
    main()
