"""The page in a real browser: drop a photo, see skeletons where the people are."""

import base64
import io
import os
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image
from pydantic import SecretStr

from heads.image import decode_image, encode_image
from service.settings import Settings
from tests.service.browser import Browser, missing, open_browser
from tests.service.conftest import real_server
from tests.service.fakes import FakeEngine

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]

SAMPLE = Path(__file__).parents[2] / "service" / "static" / "sample.jpg"

DONE = (
    "document.querySelector('#drop').ariaBusy === 'false' && document.querySelector('#people li')"
)
"""An answer is on the page, and none is awaited."""

DROP = """
    const bytes = Uint8Array.from(atob(arguments[0]), (letter) => letter.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], arguments[1], { type: arguments[2] ?? "image/jpeg" }));
    const options = { dataTransfer: transfer, bubbles: true, cancelable: true };
    document.querySelector("#drop").dispatchEvent(new DragEvent("drop", options));
"""

SLOW_ONCE = """
    const decode = window.createImageBitmap;
    let wait = arguments[0];
    window.createImageBitmap = async (...given) => {
      const mine = wait;
      wait = 0;
      if (mine) await new Promise((done) => setTimeout(done, mine));
      return decode(...given);
    };
"""
"""The next photo takes so many milliseconds longer to decode, and only that."""

COLOURS = """
    const canvas = document.querySelector("#canvas");
    const context = canvas.getContext("2d");
    const scale = canvas.width / arguments[1];
    return arguments[0].map(([x, y]) => {
      const at = [x, y].map((value) => Math.round((value + 0.5) * scale - 0.5));
      return [...context.getImageData(...at, 1, 1).data].slice(0, 3);
    });
"""
"""Canvas colours at points of an image whose width is the second argument."""

SIDES = {"left": (255, 140, 0), "right": (30, 144, 255)}
MIDDLE = (50, 205, 50)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def page(engine: FakeEngine, browser: Browser) -> Iterator[str]:
    """The address of a fresh page in a desktop window."""
    with real_server(Settings(), engine) as (host, port):
        browser.resize(1280, 900)
        browser.open(f"http://{host}:{port}/")
        browser.wait_for("document.querySelector('#model').options.length")
        browser.complaints()  # what earlier pages left
        yield f"http://{host}:{port}"


def keep(browser: Browser, name: str) -> None:
    """Writes a screenshot where HRPOSE_SCREENSHOTS says, for people to look at."""
    image = browser.screenshot()
    assert decode_image(image).std() > 5  # something is on it
    if folder := os.environ.get("HRPOSE_SCREENSHOTS"):
        Path(folder, f"{name}.png").write_bytes(image)


def drawn_points(browser: Browser, answer: dict[str, Any]) -> list[tuple[dict[str, Any], bool]]:
    """Each keypoint of an answer, and whether the canvas has its colour there."""
    points = [point for person in answer["people"] for point in person["keypoints"]]
    places = [(point["x"], point["y"]) for point in points]
    colours = browser.run(COLOURS, places, answer["image"]["width"])
    expected = [SIDES.get(point["name"].split("_")[0], MIDDLE) for point in points]
    return [
        (point, max(abs(a - b) for a, b in zip(colour, right, strict=True)) < 25)
        for point, colour, right in zip(points, colours, expected, strict=True)
    ]


def assert_skeletons_are_drawn(browser: Browser, answer: dict[str, Any]) -> None:
    """Holds the colours on the canvas against the keypoints of an answer."""
    for point, drawn in drawn_points(browser, answer):
        assert drawn, point


def assert_fits(browser: Browser) -> None:
    """Nothing sticks out to the side."""
    widths = browser.run("return [document.documentElement.scrollWidth, innerWidth]")
    assert widths[0] <= widths[1]


def test_a_chosen_photo_shows_its_skeletons_at_every_width(browser: Browser, page: str) -> None:
    answer = httpx2.post(f"{page}/pose", content=SAMPLE.read_bytes()).json()
    keep(browser, "empty")
    browser.type_into("#file", str(SAMPLE))
    browser.wait_for(DONE)
    for width, height, ratio in ((1280, 900, 1.0), (390, 844, 2.0), (360, 740, 3.0)):
        browser.resize(width, height, ratio)
        browser.wait_for(f"document.querySelector('#canvas').clientWidth < {width}")
        browser.run(
            "return new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))"
        )
        assert_skeletons_are_drawn(browser, answer)
        assert_fits(browser)
        keep(browser, f"photo_{width}")
    assert browser.complaints() == []


def test_a_dropped_photo_shows_its_skeletons(browser: Browser, page: str) -> None:
    browser.run(DROP, base64.b64encode(SAMPLE.read_bytes()).decode(), "it's a photo.jpg")
    browser.wait_for(DONE)
    answer = httpx2.post(f"{page}/pose", content=SAMPLE.read_bytes()).json()
    assert_skeletons_are_drawn(browser, answer)
    text = browser.run("return document.querySelector('#summary').textContent")
    assert text == "2 people by fast, boxes from finder, 640 \N{MULTIPLICATION SIGN} 428 pixels"
    assert "7.0 ms" in browser.run("return document.querySelector('#timing').textContent")
    command = browser.run("return document.querySelector('#curl').textContent")
    assert command == f"curl -F 'image=@it'\\''s a photo.jpg' \\\n  {page}/pose"
    browser.run(DROP, base64.b64encode(SAMPLE.read_bytes()).decode(), "a,b;c.jpg")
    browser.wait_for("document.querySelector('#curl').textContent.includes('a,b')")
    command = browser.run("return document.querySelector('#curl').textContent")
    assert command.startswith("curl -F 'image=@\"a,b;c.jpg\"'")


def test_keypoints_say_their_names_when_pointed_at(browser: Browser, page: str) -> None:
    browser.run("document.querySelector('#sample').click()")
    browser.wait_for(DONE)
    answer = httpx2.post(f"{page}/pose", content=SAMPLE.read_bytes()).json()
    wrist = answer["people"][1]["keypoints"][9]
    place = browser.run(
        "const area = document.querySelector('#canvas').getBoundingClientRect();"
        "const scale = area.width / arguments[2];"
        "return [area.left + arguments[0] * scale, area.top + arguments[1] * scale]",
        wrist["x"], wrist["y"], answer["image"]["width"],
    )  # fmt: skip
    x, y = (round(value) for value in place)
    browser.point({"type": "pointerMove", "x": x, "y": y})
    browser.wait_for("!document.querySelector('#tip').hidden")
    tip = browser.run("return document.querySelector('#tip').textContent")
    assert tip == "left wrist 0.90 (person 2)"
    assert browser.run("return document.querySelectorAll('#people .lit').length") == 1
    keep(browser, "hover")
    browser.point({"type": "pointerMove", "x": 5, "y": 5})
    browser.wait_for("document.querySelector('#tip').hidden")


@pytest.mark.usefixtures("page")
def test_settings_are_asked_for_and_stand_in_the_command(
    browser: Browser, engine: FakeEngine
) -> None:
    names = browser.run("return [...document.querySelector('#model').options].map((o) => o.text)")
    assert names[:2] == ["fast (default)", "finder"]
    assert "missing" not in names
    browser.run("document.querySelector('#sample').click()")
    browser.wait_for(DONE)
    browser.run(
        "const slider = document.querySelector('#threshold');"
        "slider.value = 0.7;"
        "slider.dispatchEvent(new Event('input'));"
        "slider.dispatchEvent(new Event('change'));"
        "document.querySelector('#flip-test').click();"
    )
    browser.wait_for("document.querySelectorAll('#people li').length === 1")
    command = browser.run("return document.querySelector('#curl').textContent")
    assert "-F threshold=0.7" in command
    assert "-F flip_test=true" in command
    assert engine.asked[-1][1].threshold == 0.7
    assert engine.asked[-1][1].flip_test


@pytest.mark.usefixtures("page")
def test_a_drawn_box_asks_for_one_person(browser: Browser, engine: FakeEngine) -> None:
    browser.run("document.querySelector('#sample').click()")
    browser.wait_for(DONE)
    browser.run("document.querySelector('#draw-box').click()")
    area = browser.run(
        "document.querySelector('#canvas').scrollIntoView();"
        "const area = document.querySelector('#canvas').getBoundingClientRect();"
        "return [area.left, area.top, area.width]"
    )
    left, top = round(area[0]), round(area[1])
    browser.point(
        {"type": "pointerMove", "x": left + 40, "y": top + 60},
        {"type": "pointerDown", "button": 0},
        {"type": "pointerMove", "x": left + 240, "y": top + 360},
        {"type": "pointerUp", "button": 0},
    )
    browser.wait_for("document.querySelectorAll('#people li').length === 1")
    (box,) = engine.asked[-1][1].boxes_xywh or ()
    scale = 640 / area[2]
    assert box == pytest.approx((40 * scale, 60 * scale, 200 * scale, 300 * scale), abs=2)
    summary = browser.run("return document.querySelector('#summary').textContent")
    assert "boxes drawn by you" in summary
    keep(browser, "box")


@pytest.mark.usefixtures("page")
def test_a_problem_is_said_in_words(browser: Browser) -> None:
    browser.run(DROP, base64.b64encode(b"no image at all").decode(), "notes.txt")
    browser.wait_for("!document.querySelector('#problem').hidden")
    text = browser.run("return document.querySelector('#problem').textContent")
    assert "The image cannot be read" in text
    assert "JPEG, PNG, WebP and BMP" in text
    keep(browser, "problem")
    browser.run(DROP, base64.b64encode(SAMPLE.read_bytes()).decode(), "photo.jpg")
    browser.wait_for(DONE)
    assert browser.run("return document.querySelector('#problem').hidden")


@pytest.mark.usefixtures("page")
def test_the_webcam_sends_one_frame_at_a_time(browser: Browser) -> None:
    browser.run("document.querySelector('#webcam').click()")
    browser.wait_for(DONE)
    asked = "performance.getEntriesByType('resource').filter((e) => e.name.endsWith('/pose'))"
    browser.wait_for(f"{asked}.length > 5")
    keep(browser, "webcam")
    browser.run("document.querySelector('#webcam').click()")
    spans = browser.run(f"return {asked}.map((e) => [e.startTime, e.responseEnd])")
    assert all(start >= end for (_, end), (start, _) in pairwise(spans))


def test_a_key_is_asked_for_and_used(browser: Browser, engine: FakeEngine) -> None:
    with real_server(Settings(api_keys=SecretStr("apple")), engine) as (host, port):
        browser.open(f"http://{host}:{port}/")
        browser.wait_for("!document.querySelector('#key-form').hidden")
        browser.type_into("#key", "\N{LATIN SMALL LETTER A WITH ACUTE}pple\n")
        browser.wait_for("document.querySelector('#problem').textContent.includes('no key')")
        assert not browser.run("return document.querySelector('#key-form').hidden")
        browser.run("document.querySelector('#key').value = ''")
        browser.type_into("#key", "apple\u200b\n")  # what nobody sees comes along when copied
        browser.wait_for("document.querySelector('#model').options.length")
        browser.run("document.querySelector('#sample').click()")
        browser.wait_for(DONE)
        command = browser.run("return document.querySelector('#curl').textContent")
    assert "$HRPOSE_KEY" in command
    assert "apple" not in command


@pytest.mark.usefixtures("page")
def test_a_new_photo_is_not_shown_under_the_last_answer(browser: Browser) -> None:
    """While its own is awaited: the request is held back here."""
    browser.run("document.querySelector('#sample').click()")
    browser.wait_for(DONE)
    browser.run("window.fetch = () => new Promise(() => {})")
    browser.run(DROP, base64.b64encode(SAMPLE.read_bytes()).decode(), "second.jpg")
    browser.wait_for("document.querySelector('#curl').textContent.includes('second.jpg')")
    assert browser.run("return document.querySelector('#summary').textContent") == ""
    assert browser.run("return document.querySelector('#save').hidden")


@pytest.mark.usefixtures("page")
def test_the_photo_that_was_opened_last_is_shown(browser: Browser) -> None:
    """Though the one before takes longer to decode."""
    browser.run(SLOW_ONCE, 800)
    for name in ("slow.jpg", "quick.jpg"):
        browser.run(DROP, base64.b64encode(SAMPLE.read_bytes()).decode(), name)
    browser.wait_for(DONE)
    browser.run("return new Promise((done) => setTimeout(done, 1200))")
    assert "quick.jpg" in browser.run("return document.querySelector('#curl').textContent")


@pytest.mark.usefixtures("page")
def test_rows_of_people_stay_while_the_webcam_runs(browser: Browser) -> None:
    browser.run("document.querySelector('#webcam').click()")
    browser.wait_for("document.querySelectorAll('#people li').length > 0")
    browser.run("document.querySelector('#people summary').focus(); window.row ="
                " document.querySelector('#people li')")  # fmt: skip
    asked = "performance.getEntriesByType('resource').filter((e) => e.name.endsWith('/pose'))"
    before = browser.run(f"return {asked}.length")
    browser.wait_for(f"{asked}.length > {before} + 2")
    assert browser.run("return window.row.isConnected && document.activeElement.tagName") == (
        "SUMMARY"
    )
    browser.run("document.querySelector('#webcam').click()")


def test_the_pages_are_complete_in_the_dark(browser: Browser, page: str) -> None:
    browser.prefer_dark()
    browser.run("document.querySelector('#sample').click()")
    browser.wait_for(DONE)
    browser.run("document.querySelector('#people details').open = true")
    keep(browser, "dark")
    browser.open(f"{page}/docs")
    browser.wait_for("document.querySelectorAll('section').length > 10")
    text = browser.run("return document.querySelector('#doc').textContent")
    assert "POST/pose" in text
    assert '"classes" or "overlay". Default "classes"' in text
    for width in (1280, 360):
        browser.resize(width, 900)
        assert_fits(browser)
    keep(browser, "docs")
    assert browser.complaints() == []


def test_nothing_is_fetched_from_elsewhere(browser: Browser, page: str) -> None:
    browser.run("document.querySelector('#sample').click()")
    browser.wait_for(DONE)
    names = browser.run("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert len(names) > 5
    assert all(name.startswith((page, "blob:", "data:")) for name in names)


@pytest.mark.usefixtures("page")
def test_each_task_has_its_networks_and_its_answer(browser: Browser) -> None:
    def choose(task: str) -> None:
        browser.run(f"document.querySelector('.tabs [data-task={task}]').click()")

    names = "return [...document.querySelector('#model').options].map((o) => o.text)"
    summary = "return document.querySelector('#summary').textContent"
    browser.run("document.querySelector('#sample').click()")
    browser.wait_for(DONE)
    choose("classify")
    browser.wait_for("document.querySelectorAll('#classes li').length === 3")
    assert browser.run(names) == ["namer"]
    assert browser.run(summary).startswith("cat 70 %, by namer")
    assert "/classify" in browser.run("return document.querySelector('#curl').textContent")
    assert browser.run("return document.querySelector('#flip-test').offsetParent === null")
    keep(browser, "classify")
    choose("segment")
    browser.wait_for("document.querySelectorAll('#classes li').length === 2")
    assert browser.run(names) == ["painter"]
    assert browser.run(summary).startswith("grass 75 %, by painter")
    photo = decode_image(SAMPLE.read_bytes())
    for x, y, tint in ((320, 40, (0, 0, 200)), (320, 390, (0, 200, 0))):
        (colour,) = browser.run(COLOURS, [(x, y)], photo.shape[1])
        expected = [(int(a) + b) / 2 for a, b in zip(photo[y, x], tint, strict=True)]
        assert max(abs(a - b) for a, b in zip(colour, expected, strict=True)) < 40
    keep(browser, "segment")
    browser.resize(360, 740, 2.0)
    assert_fits(browser)
    keep(browser, "segment_360")
    browser.resize(1280, 900)
    choose("people")
    browser.wait_for("document.querySelectorAll('#people li').length === 2")
    assert browser.run("return document.querySelector('#classes').hidden")
    assert browser.complaints() == []


@pytest.mark.usefixtures("page")
def test_random_weights_are_said_first(browser: Browser, engine: FakeEngine) -> None:
    engine.random_weights = True
    summary = "return document.querySelector('#summary').textContent"
    browser.run("document.querySelector('#sample').click()")
    browser.wait_for(DONE)
    for task, shown in (("classify", 3), ("segment", 2)):
        browser.run(f"document.querySelector('.tabs [data-task={task}]').click()")
        browser.wait_for(f"document.querySelectorAll('#classes li').length === {shown}")
        assert browser.run(summary).startswith("Random weights, so this means nothing: ")


def test_a_task_without_a_network_says_what_to_do(browser: Browser, engine: FakeEngine) -> None:
    engine.absent.add("painter")
    with real_server(Settings(), engine) as (host, port):
        browser.resize(360, 740, 2.0)
        browser.open(f"http://{host}:{port}/")
        browser.wait_for("document.querySelector('#model').options.length")
        browser.run("document.querySelector('#sample').click()")
        browser.wait_for(DONE)
        browser.run("document.querySelector('.tabs [data-task=segment]').click()")
        browser.wait_for("!document.querySelector('#problem').hidden")
        for place in ("#problem", "#model-facts"):
            text = browser.run(f"return document.querySelector('{place}').textContent")
            assert "hrpose weights get painter" in text
        assert_fits(browser)
        keep(browser, "no_network_360")
    browser.complaints()  # the browser notes the refusal itself
    browser.resize(1280, 900)


def turned_webp(orientation: int) -> bytes:
    """The sample as it looks, stored as EXIF's number says, without loss."""
    stored = Image.open(SAMPLE)
    back = {2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}[orientation]
    way = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }[back]
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    stored.transpose(way).save(file, "WEBP", lossless=True, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_webp_is_shown_as_the_server_sees_it(
    browser: Browser, page: str, orientation: int
) -> None:
    photo = turned_webp(orientation)
    browser.run(DROP, base64.b64encode(photo).decode(), "turned.webp", "image/webp")
    browser.wait_for(DONE)
    upright = decode_image(photo)
    height, width = upright.shape[:2]
    # In the corners, where no skeleton is: what the server decodes is what the page shows.
    places = [(8, 8), (width - 9, 8), (8, height - 9), (width - 9, height - 9)]
    for (x, y), colour in zip(places, browser.run(COLOURS, places, width), strict=True):
        there = upright[y - 4 : y + 5, x - 4 : x + 5].reshape(-1, 3).astype(int)
        assert (there.min(axis=0) - 6 <= colour).all()
        assert (colour <= there.max(axis=0) + 6).all()
    assert_skeletons_are_drawn(browser, httpx2.post(f"{page}/pose", content=photo).json())


@pytest.mark.usefixtures("page")
def test_a_setting_changed_meanwhile_keeps_the_new_photo(
    browser: Browser, engine: FakeEngine
) -> None:
    browser.run(DROP, base64.b64encode(SAMPLE.read_bytes()).decode(), "old.jpg")
    browser.wait_for(DONE)
    browser.run(SLOW_ONCE, 500)
    browser.run(DROP, base64.b64encode(SAMPLE.read_bytes()).decode(), "new.jpg")
    browser.run("document.querySelector('#flip-test').click()")
    rows = browser.run("return document.querySelectorAll('#people li').length")
    assert rows == 0  # those of the old photo are gone at once
    browser.wait_for(DONE)
    assert "new.jpg" in browser.run("return document.querySelector('#curl').textContent")
    assert engine.asked[-1][1].flip_test


@pytest.mark.usefixtures("page")
def test_a_camera_that_ends_is_said(browser: Browser) -> None:
    browser.run(
        "const get = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);"
        "navigator.mediaDevices.getUserMedia = async (w) => (window.camera = await get(w));"
        "document.querySelector('#webcam').click()"
    )
    browser.wait_for("document.querySelectorAll('#people li').length === 2")
    browser.run("window.camera.getTracks().forEach((track) => track.stop())")
    browser.wait_for("document.querySelector('#problem').textContent.includes('camera')")
    button = browser.run("return document.querySelector('#webcam').textContent")
    assert button == "Webcam"


def test_no_frame_is_sent_after_the_webcam_is_stopped(browser: Browser, page: str) -> None:
    del page
    browser.run(
        "const toBlob = HTMLCanvasElement.prototype.toBlob;"
        "HTMLCanvasElement.prototype.toBlob = function (done, ...given) {"
        "  toBlob.call(this, (blob) => setTimeout(() => done(blob), 200), ...given);"
        "};"
        "window.sent = 0;"
        "const fetch = window.fetch;"
        "window.fetch = (...given) => { window.sent += 1; return fetch(...given); };"
        "document.querySelector('#webcam').click()"
    )
    for _ in range(3):
        browser.wait_for("window.sent >= 2")
        browser.run("document.querySelector('#webcam').click(); window.sent = 0")
        time.sleep(0.6)
        assert browser.run("return window.sent") == 0
        browser.run("document.querySelector('#webcam').click()")


def test_lines_of_a_saved_picture_are_as_wide_as_they_are_shown(
    browser: Browser, page: str
) -> None:
    """Seen at the same size; a picture is often larger than its place on the page."""
    large = encode_image(np.kron(decode_image(SAMPLE.read_bytes()), np.ones((6, 6, 1), np.uint8)))
    del page
    browser.run(
        "window.widths = [];"
        "const stroke = CanvasRenderingContext2D.prototype.stroke;"
        "CanvasRenderingContext2D.prototype.stroke = function () {"
        "  window.widths.push([this.canvas.width, this.lineWidth]); stroke.call(this);"
        "};"
        "URL.createObjectURL = () => { window.saved = true; return '#'; };"
    )
    browser.run(DROP, base64.b64encode(large).decode(), "large.jpg")
    browser.wait_for(DONE)
    browser.run("document.querySelector('#save').click()")
    browser.wait_for("window.saved")
    drawn = browser.run("return window.widths")
    widest = {side: max(w for s, w in drawn if s == side) for side, _ in drawn}
    (small, thin), (whole, thick) = min(widest.items()), max(widest.items())
    assert whole == 6 * 640 > 2 * small
    assert thick / whole == pytest.approx(thin / small, rel=0.02)


@pytest.mark.usefixtures("page")
def test_a_picture_that_is_all_width_is_shown_and_saved_or_said(browser: Browser) -> None:
    strip = encode_image(np.full((4, 70000, 3), 90, np.uint8), "png")
    browser.run(DROP, base64.b64encode(strip).decode(), "strip.png", "image/png")
    browser.wait_for(DONE)
    assert browser.run("return document.querySelector('#canvas').height") >= 1
    browser.run("document.querySelector('#save').click()")
    browser.wait_for("!document.querySelector('#problem').hidden")
    assert "picture of that size" in browser.run(
        "return document.querySelector('#problem').textContent"
    )


@pytest.mark.usefixtures("page")
def test_a_sample_that_does_not_come_is_said(browser: Browser) -> None:
    browser.run(
        "window.fetch = async () => { throw new TypeError('Failed to fetch'); };"
        "document.querySelector('#sample').click()"
    )
    browser.wait_for("!document.querySelector('#problem').hidden")
    text = browser.run("return document.querySelector('#problem').textContent")
    assert "The server does not answer" in text
    assert browser.run("return document.querySelector('#busy').hidden")
