"""Ask for one action: `python client/examples/plain.py http://127.0.0.1:8080`."""

import sys

from carlarl_client import Observation, PolicyClient, PolicyError


def main(url: str, timeout: float = 1.0) -> int:
    """Print the action and who gave it; `timeout` is in seconds."""
    seen = Observation(speed=25.5, steering=0.1, sensors=[0.8, 0.2, 0.5, 0.9, 0.1])
    with PolicyClient(url, timeout=timeout) as client:
        try:
            answer = client.predict(seen, deterministic=True)
        except PolicyError as error:
            print(error, file=sys.stderr)
            return 1
    print(answer.action)
    print(f"{answer.version}, {answer.latency_ms:.2f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080"))
