"""Open-loop load: requests are due at a fixed rate, and latency counts from when one was due.

So a stall of the server is in the latency of every request that was due meanwhile, as it is for
real callers, who do not wait for each other (Gil Tene's "coordinated omission").
"""

from perf.load import generator
from perf.load.measurement import Measurement
from perf.load.observations import body
from perf.load.target import Target

CONNECTIONS = 64
KEPT_UP = 0.99


def run(
    target: Target, rate: float, seconds: float, batch_size: int = 1, connections: int = CONNECTIONS
) -> Measurement:
    """Send `rate` requests a second. Raises LoadError where none succeeded."""
    asked = body(batch_size, space=target.space)
    saw = generator.run(target.load(asked, connections, seconds, rate))
    return target.measured(
        saw,
        loop="open",
        tool="perf.load.generator",
        concurrency=connections,
        batch_size=batch_size,
        asked_per_s=rate,
        sent_per_s=round(saw.sent / seconds, 2),
        queued=saw.waited,
    )


def trouble(measurement: Measurement) -> str | None:
    """Say in a sentence that the rate could not be kept; None where it was."""
    asked, sent = measurement.asked_per_s, measurement.sent_per_s
    if asked is None or sent is None or sent >= KEPT_UP * asked:
        return None
    starved = measurement.queued < measurement.requests / 2
    who = "the load generator had too little CPU" if starved else "all connections awaited answers"
    return f"asked for {asked:g} requests/s, and only {sent:,.0f}/s could be sent: {who}"
