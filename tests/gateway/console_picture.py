"""Take the picture of the console: `python -m tests.gateway.console_picture docs/console.png`."""

from __future__ import annotations

import base64
import sys
import time
from pathlib import Path

from tests.browser import browser, program
from tests.stack import running_stack

CARS, WIDTH, DRIVEN_S = 8, 1440, 20.0
SIZE = "[document.documentElement.scrollWidth, document.documentElement.scrollHeight]"


def main(file: Path) -> None:
    """Serve, let the cars drive, and write the whole page as a PNG."""
    path = program()
    if path is None:
        sys.exit("no browser: apt-get install chromium")
    with running_stack() as stack, browser(path) as page:
        page.open(f"{stack.gateway_url}/console?cars={CARS}", WIDTH)
        page.wait("document.getElementById('state').textContent === 'Driving'")
        time.sleep(DRIVEN_S)
        width, height = page.evaluate(SIZE)
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        taken = page.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
    file.write_bytes(base64.b64decode(taken["data"]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
