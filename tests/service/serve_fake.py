"""A server process whose engine is a fake; settings come from the environment."""

from service.app import create_app
from service.server import serve
from service.settings import Settings
from tests.service.fakes import FakeEngine

if __name__ == "__main__":
    serve(create_app(Settings(), FakeEngine(slow_s=2.0)))
