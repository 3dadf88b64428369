"""The page, the server and the networks that ship, all real: a dropped photo and its skeletons."""

import base64
from pathlib import Path

import httpx2
import pytest

from service.inference.engine import Engine
from service.settings import Settings
from tests.service.browser import missing, open_browser
from tests.service.conftest import real_server
from tests.service.test_page_browser import (
    DONE,
    DROP,
    SAMPLE,
    assert_fits,
    drawn_points,
    keep,
)

LIMBS = ("elbow", "wrist", "hip", "knee", "ankle")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]


def test_a_dropped_photo_shows_the_real_skeletons(tmp_path: Path) -> None:
    photo = SAMPLE.read_bytes()
    with real_server(Settings(), Engine()) as (host, port), open_browser(tmp_path) as browser:
        address = f"http://{host}:{port}"
        answer = httpx2.post(f"{address}/pose", content=photo, timeout=60).json()
        assert len(answer["people"]) == 3
        for width, height in ((1280, 900), (390, 844)):
            browser.resize(width, height)
            browser.open(address)
            browser.wait_for("document.querySelector('#model').options.length")
            browser.run(DROP, base64.b64encode(photo).decode(), "street.jpg")
            browser.wait_for(DONE)
            # Eyes and nose of small people cover each other; limbs do not.
            limbs = [
                drawn
                for point, drawn in drawn_points(browser, answer)
                if point["score"] > 0.4 and point["name"].split("_")[-1] in LIMBS
            ]
            assert len(limbs) > 15
            assert sum(limbs) >= 0.8 * len(limbs)
            assert_fits(browser)
            keep(browser, f"whole_{width}")
            summary = browser.run("return document.querySelector('#summary').textContent")
            assert summary.startswith(
                "3 people by mobilenet_v2_heatmap, boxes from movenet_multipose"
            )
        assert browser.complaints() == []
