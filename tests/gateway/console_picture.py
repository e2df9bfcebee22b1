"""Take the picture of the console: `python -m tests.gateway.console_picture docs/console.png`."""

from __future__ import annotations

import base64
import sys
import time
from pathlib import Path

from tests.browser import browser, program
from tests.stack import running_stack

CARS, WIDTH, DRIVEN_S = 8, 1440, 60.0  # a lap takes 42 s


def main(file: Path) -> None:
    """Serve, let the cars drive, and write the whole page as a PNG."""
    path = program()
    if path is None:
        sys.exit("no browser: apt-get install chromium")
    with running_stack() as stack, browser(path) as page:
        page.open(f"{stack.gateway_url}/console?cars={CARS}", WIDTH)
        page.wait("document.getElementById('state').textContent === 'Driving'")
        for height in (3000, "document.body.offsetHeight"):  # so high that nothing scrolls
            size = {"width": WIDTH, "height": page.evaluate(str(height)), "deviceScaleFactor": 1}
            page.call("Emulation.setDeviceMetricsOverride", mobile=False, **size)
        time.sleep(DRIVEN_S)
        taken = page.call("Page.captureScreenshot")
    file.write_bytes(base64.b64decode(taken["data"]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
