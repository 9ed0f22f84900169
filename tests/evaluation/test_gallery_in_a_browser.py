"""The gallery page in a real browser, without a network: its clips are decoded and shown."""

import io
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilevd.evaluation.gallery import Clip, page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MAGENTA, GREEN = (255, 0, 255), (0, 160, 64)
GATE = {
    "metric": "student.fvd",
    "value": 1.0,
    "limit": 2.0,
    "relation": "at most 2",
    "passed": True,
    "reason": "1 is at most 2",
    "why": "it must",
}


def still(colour: tuple[int, int, int]) -> bytes:
    frames = [Image.new("RGB", (512, 128), colour)] * 2
    stream = io.BytesIO()
    frames[0].save(stream, "WEBP", save_all=True, append_images=frames[1:], duration=143, loop=0, lossless=True)
    return stream.getvalue()


def screenshot(html: str, folder: Path) -> np.ndarray:
    (folder / "page.html").write_text(html, encoding="utf-8")
    words = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
    words += [f"--user-data-dir={folder / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND"]
    words += ["--window-size=1200,2400", f"--screenshot={folder / 'page.png'}", (folder / "page.html").as_uri()]
    subprocess.run(words, check=True, capture_output=True, timeout=120)
    return np.asarray(Image.open(folder / "page.png").convert("RGB"))


def share(pixels: np.ndarray, colour: tuple[int, int, int]) -> float:
    return float((np.abs(pixels.astype(int) - colour).max(-1) < 8).mean())


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: the page was not opened in a browser")
def test_clips_of_the_page_are_seen_in_a_browser(tmp_path):
    clips = [Clip("a", "", ["real", "student"], still(MAGENTA), 2.0), Clip("b", "", ["real"], still(GREEN), 1.0)]
    pixels = screenshot(page("run", "passed", [GATE], [], [], clips), tmp_path)
    assert share(pixels, MAGENTA) > 0.01
    assert share(pixels, GREEN) > 0.01
