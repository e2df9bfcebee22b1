"""The two load generators: `perf.load.generator`, which sends every form, and wrk beside it."""

from __future__ import annotations

import bisect
import itertools
import json
import subprocess
import tempfile
from pathlib import Path

from perf.load import generator
from perf.load.request_forms import Form
from perf.studies.proxies import program
from perf.studies.request_forms.outcome import Outcome

_SCRIPT = """
wrk.method = "POST"
wrk.body = io.open(%s, "rb"):read("*a")
%s
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\\nRESULT {"requests":%%d,"us":%%d,"p50":%%d,"status":%%d,"connection":%%d}\\n',
    summary.requests, summary.duration, latency:percentile(50), e.status,
    e.connect + e.read + e.write + e.timeout))
end
"""


def by_generator(form: Form, url: str, connections: int, seconds: float) -> Outcome:
    """Send a form with `perf.load.generator`; raises generator.LoadError."""
    saw = generator.run(form.load(url, connections, seconds))
    answers = {"200": saw.answered, **saw.errors}
    p50 = 0.0
    if saw.answered:
        totals = list(itertools.accumulate(count for _, count in saw.counts))
        p50 = saw.counts[bisect.bisect_left(totals, saw.answered / 2)][0] / 1000
    return Outcome(saw.answered / saw.seconds, p50, _some(answers))


def by_wrk(form: Form, url: str, connections: int, seconds: float) -> Outcome:
    """Send a form that wrk can spell, for whole seconds; raises proxies.MissingError."""
    headers = (("Content-Type", form.media_type), *form.headers)
    lines = (f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in headers)
    with tempfile.TemporaryDirectory() as folder:
        body, script = Path(folder) / "body", Path(folder) / "form.lua"
        body.write_bytes(form.body)
        script.write_text(_SCRIPT % (json.dumps(str(body)), "\n".join(lines)))
        times = ["-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s"]
        command = [program("wrk"), *times, "-s", str(script), f"{url}/predict"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.rpartition("RESULT ")[2])
    good = result["requests"] - result["status"]
    answers = {"200": good, "another status": result["status"], "connection": result["connection"]}
    return Outcome(good * 1e6 / result["us"], result["p50"] / 1000, _some(answers))


def _some(answers: dict[str, int]) -> dict[str, int]:
    return {kind: count for kind, count in answers.items() if count}
