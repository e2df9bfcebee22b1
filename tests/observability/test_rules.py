"""The alert rules: promtool takes them, tries them, and each is explained."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.observability.prometheus import FOLDER, RULES, needs_prometheus, program
from tests.stack import ROOT

TESTS = [Path(__file__).with_name(f"{name}_test.yml") for name in ("rules", "slow_rules")]
OPERATIONS = (ROOT / "docs" / "OPERATIONS.md").read_text()


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program("promtool"), *arguments], capture_output=True, text=True, timeout=60
    )


def alerts() -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}


@needs_prometheus
def test_promtool_takes_the_configuration() -> None:
    done = promtool("check", "config", str(FOLDER / "prometheus.yml"))
    assert done.returncode == 0, done.stderr
    assert "1 rule files found" in done.stdout


@needs_prometheus
def test_the_rules_do_what_they_should() -> None:
    done = promtool("test", "rules", *map(str, TESTS))
    assert done.returncode == 0, done.stdout + done.stderr


@needs_prometheus
def test_promtool_would_say_so(tmp_path: Path) -> None:
    """A rule that lets more pass than it should fails its test."""
    rules = RULES.read_text()
    assert rules.count("p95_5m > 0.02") == 1
    (tmp_path / "rules.yml").write_text(rules.replace("p95_5m > 0.02", "p95_5m > 0.2"))
    tests = yaml.safe_load(TESTS[0].read_text())
    tests |= {"rule_files": ["rules.yml"], "tests": tests["tests"][:1]}
    (tmp_path / "test.yml").write_text(yaml.safe_dump(tests))
    done = promtool("test", "rules", str(tmp_path / "test.yml"))
    assert done.returncode != 0
    assert "CarlaRLPredictP95" in done.stdout + done.stderr


def test_each_alert_is_tried_and_explained() -> None:
    fired, quiet = set[str](), set[str]()
    for case in (case for path in TESTS for case in yaml.safe_load(path.read_text())["tests"]):
        for one in case["alert_rule_test"]:
            (fired if one.get("exp_alerts") else quiet).add(one["alertname"])
    assert fired == quiet == set(alerts())
    section = OPERATIONS.partition("\n## Alerts\n")[2].partition("\n## ")[0]
    explained = dict(re.findall(r"^### (\w+)\n\n((?:.+\n)+)", section, re.MULTILINE))
    assert set(explained) == set(alerts())
    for name, alert in alerts().items():
        assert alert["labels"]["severity"] in {"warning", "critical"}
        assert set(alert["annotations"]) == {"summary", "runbook"}
        assert alert["annotations"]["runbook"] == f"docs/OPERATIONS.md#{name.lower()}"
        assert len(explained[name].splitlines()) <= 3
