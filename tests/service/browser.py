"""A headless Chromium, driven by the WebDriver protocol over plain HTTP (w3.org/TR/webdriver2)."""

import base64
import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2

from tests.processes import free_port

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
)  # fmt: skip

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""The key under which the protocol hands out elements."""


def missing() -> str | None:
    """What has to be installed before there is a browser; None where nothing has."""
    lacking = [name for name in ("chromedriver", "chromium") if shutil.which(name) is None]
    return f"not installed: {', '.join(lacking)}" if lacking else None


class Browser:
    """One window."""

    def __init__(self, client: httpx2.Client, profile: Path) -> None:
        self._client = client
        options = {"args": [*FLAGS, f"--user-data-dir={profile}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self._send("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"/session/{session['sessionId']}"

    def open(self, address: str) -> None:
        """Goes to a page and waits until it is loaded."""
        self._send("POST", f"{self._session}/url", {"url": address})

    def run(self, script: str, *arguments: Any) -> Any:
        """What a piece of JavaScript returns."""
        body = {"script": script, "args": list(arguments)}
        return self._send("POST", f"{self._session}/execute/sync", body)

    def wait_for(self, condition: str, timeout_s: float = 30.0) -> None:
        """Waits until a JavaScript expression is true."""
        end = time.monotonic() + timeout_s
        while not self.run(f"return Boolean({condition})"):
            assert time.monotonic() < end, f"never came true: {condition}; {self.complaints()}"
            time.sleep(0.05)

    def type_into(self, selector: str, text: str) -> None:
        """Types; into a file input, the paths of files."""
        found = {"using": "css selector", "value": selector}
        element = self._send("POST", f"{self._session}/element", found)[ELEMENT]
        self._send("POST", f"{self._session}/element/{element}/value", {"text": text})

    def point(self, *steps: dict[str, Any], kind: str = "mouse") -> None:
        """Moves and presses a pointer; steps as in the protocol's pointer actions."""
        pointer = {"type": "pointer", "id": kind, "parameters": {"pointerType": kind}}
        actions = {"actions": [{**pointer, "actions": list(steps)}]}
        self._send("POST", f"{self._session}/actions", actions)

    def resize(self, width: int, height: int, ratio: float = 1.0) -> None:
        """Gives the page a screen of that size, in CSS pixels."""
        metrics = {
            "width": width,
            "height": height,
            "deviceScaleFactor": ratio,
            "mobile": width < 600,
        }
        command = {"cmd": "Emulation.setDeviceMetricsOverride", "params": metrics}
        self._send("POST", f"{self._session}/goog/cdp/execute", command)

    def prefer_dark(self) -> None:
        """Says that the user likes dark pages."""
        features = [{"name": "prefers-color-scheme", "value": "dark"}]
        command = {"cmd": "Emulation.setEmulatedMedia", "params": {"features": features}}
        self._send("POST", f"{self._session}/goog/cdp/execute", command)

    def screenshot(self) -> bytes:
        """What is in the window now, as a PNG."""
        return base64.b64decode(self._send("GET", f"{self._session}/screenshot"))

    def complaints(self) -> list[str]:
        """Errors in the page's console since the last look."""
        logged = self._send("POST", f"{self._session}/se/log", {"type": "browser"})
        return [entry["message"] for entry in logged if entry["level"] == "SEVERE"]

    def close(self) -> None:
        """Ends the window."""
        self._send("DELETE", self._session)

    def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        answer = self._client.request(method, path, json=body).json()["value"]
        if isinstance(answer, dict) and "error" in answer:
            raise AssertionError(f"{path}: {answer['error']}: {answer['message']}")
        return answer


@contextlib.contextmanager
def open_browser(profile: Path) -> Iterator[Browser]:
    """A window with a fresh profile, and the driver it needs."""
    port = free_port()
    command = ["chromedriver", f"--port={port}"]
    with (
        subprocess.Popen(command, stdout=subprocess.DEVNULL) as driver,
        httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client,
    ):
        try:
            _wait_for_driver(client)
            browser = Browser(client, profile)
            yield browser
            browser.close()
        finally:
            driver.terminate()


def _wait_for_driver(client: httpx2.Client) -> None:
    end = time.monotonic() + 20
    while True:
        try:
            client.get("/status")
        except httpx2.TransportError:
            assert time.monotonic() < end, "chromedriver does not answer"
            time.sleep(0.1)
        else:
            return
