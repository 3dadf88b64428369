"""What a server with default settings holds in memory, at rest and after requests.

python -m tests.bench_memory [--requests 200] [--photo FILE] [WORDS FOR hrpose serve ...]
"""

import argparse
import asyncio
import sys
from pathlib import Path

from tests.conftest import ROOT
from tests.processes import rss_mib
from tests.soak import Ask, ask_once, post, server

CLIENTS = (8, 32)


async def _ask(port: int, ask: Ask, clients: int, requests: int) -> None:
    left = iter(range(requests))

    async def client() -> None:
        for _ in left:
            status, _ = await ask_once(port, ask)
            assert status == 200

    await asyncio.gather(*(client() for _ in range(clients)))


def main() -> None:
    """Prints resident memory when ready, and after each round of requests."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--requests", type=int, default=200)
    asked.add_argument("--photo", type=Path, default=ROOT / "docs" / "street.jpg")
    options, words = asked.parse_known_args()
    ask = post("pose", "/pose", options.photo.read_bytes())
    with server(*words) as (pid, port):
        sys.stdout.write(f"ready: {rss_mib(pid):.0f} MiB\n")
        for clients in CLIENTS:
            asyncio.run(_ask(port, ask, clients, options.requests))
            sys.stdout.write(
                f"after {options.requests} requests by {clients} clients: {rss_mib(pid):.0f} MiB\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
