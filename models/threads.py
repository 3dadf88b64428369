"""How threads of OpenMP, by which torch computes, wait for their next piece of work."""

import os


def let_waiting_threads_sleep() -> None:
    """To be called before torch is imported, which reads it then; the environment goes before.

    A thread that spins while it waits keeps a core from whoever has work: beside another program
    that uses all cores, a network then takes many times as long.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
