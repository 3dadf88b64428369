"""`make bench`: one table of all that is measured, in one run on one machine.

python -m tests.bench [--only PART ...] [--rounds N] [--seconds S] [--network NAME]

Ratios count; times are this machine's. Nothing else should be running.
"""

import argparse
import sys

import torch
from rich.console import Console

from tests.bench_networks import networks, parts
from tests.bench_serving import serving
from tests.bench_training import training
from tests.report import Report

PARTS = ("networks", "serving", "parts", "training")


def main() -> None:
    """Measures part by part, then prints the table."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    asked.add_argument("--rounds", type=int, default=3, help="of each server")
    asked.add_argument("--seconds", type=float, default=3.0, help="of each server's round")
    asked.add_argument("--network", default="hrnet_w18_small", help="that is served")
    options = asked.parse_args()
    report = Report()
    for part in options.only:
        sys.stderr.write(f"measuring {part} ...\n")
        match part:
            case "networks":
                networks(report)
            case "serving":
                serving(report, options.network, options.rounds, options.seconds)
            case "parts":
                parts(report)
            case "training":
                training(report)
    console = Console(width=160)
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    console.print(report.table)


if __name__ == "__main__":
    main()
