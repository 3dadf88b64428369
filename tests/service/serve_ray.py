"""A server on Ray Serve whose engine is a fake; settings come from the environment."""

from service.ray_app import run
from service.settings import Settings
from tests.service.fakes import FakeEngine


def make_engine() -> FakeEngine:
    """Its network `slow` gives the test time to see the server drain."""
    return FakeEngine(slow_s=4.0)


if __name__ == "__main__":
    run(Settings(), make_engine)
