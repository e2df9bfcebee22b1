"""What the client costs beside the standard library's: `python client/examples/overhead.py URL`.

Both ask a running service the same, one call after the other on one kept connection.
"""

import http.client
import json
import sys
import time
from typing import Any, Callable, Dict, Tuple
from urllib.parse import urlsplit

from carlarl_client import PolicyClient, SafeDriver

SEEN = {"speed": 25.5, "steering": 0.1, "sensors": [0.8, 0.2, 0.5, 0.9, 0.1]}
CALLS = 2000


def measure(call: Callable[[], Any]) -> Tuple[float, float]:
    """Return a call's median latency and its own CPU time, milliseconds."""
    for _ in range(CALLS // 10):
        call()
    latencies, cpu = [], time.process_time()
    for _ in range(CALLS):
        started = time.perf_counter()
        call()
        latencies.append(time.perf_counter() - started)
    cpu = time.process_time() - cpu
    return sorted(latencies)[CALLS // 2] * 1000, cpu / CALLS * 1000


def main(url: str) -> Dict[str, Tuple[float, float]]:
    """Measure each way of asking, and print a table."""
    body = json.dumps({"observations": [SEEN], "deterministic": True})
    plain = http.client.HTTPConnection(urlsplit(url).netloc)

    def ask_plainly() -> Any:
        plain.request("POST", "/predict", body, {"Content-Type": "application/json"})
        return json.loads(plain.getresponse().read())

    with PolicyClient(url, timeout=20.0) as client:
        driver = SafeDriver(client, deadline=20.0)
        ways: Dict[str, Callable[[], Any]] = {
            "http.client": ask_plainly,
            "PolicyClient": lambda: client.predict(SEEN, deterministic=True),
            "SafeDriver": lambda: driver.step(SEEN),
        }
        measured = {name: measure(call) for name, call in ways.items()}
    plain.close()
    print("| | p50, ms | CPU of the caller, ms |\n|---|---|---|")
    for name, (latency, cpu) in measured.items():
        print(f"| `{name}` | {latency:.2f} | {cpu:.2f} |")
    return measured


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080")
