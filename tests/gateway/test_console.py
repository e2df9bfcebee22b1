"""The console's files: who may load them, and what they may do."""

import hashlib
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import yaml

from gateway.config.settings import SettingsError, read_settings
from gateway.console import CONSOLE
from tests.gateway.processes import check_envelope
from tests.stack import ROOT

FOLDER = ROOT / "gateway/console"
TYPES = {"css": "text/css", "html": "text/html", "js": "javascript", "svg": "image/svg+xml"}


@pytest.mark.parametrize("path", sorted(CONSOLE))
def test_a_file(lone_gateway: str, path: str) -> None:
    response = httpx.get(lone_gateway + path)
    file = FOLDER / ("index.html" if path == "/console" else Path(path).name)
    assert response.status_code == 200
    assert response.content == file.read_bytes()
    assert TYPES[file.suffix[1:]] in response.headers["content-type"]
    assert response.headers["cache-control"] == "no-cache"
    policies = response.headers.get_list("content-security-policy")
    assert len(policies) == 1
    assert policies[0].startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "frame-ancestors 'none'" in policies[0]
    assert not re.search(r"unsafe|\*|http|data:", policies[0])

    known = {"If-None-Match": response.headers["etag"]}
    again = httpx.get(lone_gateway + path, headers=known)
    assert (again.status_code, again.content) == (304, b"")


def test_every_file_is_served_and_none_names_another_place() -> None:
    files = {path for path in FOLDER.iterdir() if path.suffix[1:] in TYPES}
    assert len(files) == len(CONSOLE) > 10
    for path in files:
        addresses = re.findall(r"(?:https?:)?//[\w.-]+\.\w+", path.read_text())
        assert set(addresses) <= {"http://www.w3.org"}, path  # the name of SVG's vocabulary


@pytest.mark.parametrize("path", ["/console/", "/console/__init__.py", "/console/../app.py"])
def test_nothing_else_is_served(lone_gateway: str, path: str) -> None:
    check_envelope(httpx.get(lone_gateway + path), 404, "HTTP_ERROR")


def test_doors(run_gateway: Callable[..., str], tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(hashlib.sha256(b"first").hexdigest())
    closed = run_gateway("/livez", CONSOLE_ACCESS="closed")
    keyed = run_gateway("/livez", API_KEYS_FILE=str(keys))
    for path in CONSOLE:
        check_envelope(httpx.get(closed + path), 404, "HTTP_ERROR")
        assert httpx.get(keyed + path).status_code == 200
    check_envelope(httpx.get(keyed + "/versions"), 401, "UNAUTHORIZED")


def test_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONSOLE_ACCESS", raising=False)
    for profile, access in (("development", "open"), ("production", "closed")):
        settings = read_settings(config_file=ROOT / "carlarl.yaml", profile=profile)
        assert settings.console_access == access
    with pytest.raises(SettingsError, match="CONSOLE_ACCESS=key: must be one of open, closed"):
        read_settings(console_access="key")


def test_compose_closes_it() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    assert services["gateway"]["environment"]["CONSOLE_ACCESS"] == "${CONSOLE_ACCESS:-closed}"


def test_a_wheel_has_the_files(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "gateway", tmp_path / "gateway")
    build = "import setuptools.build_meta as b; b.build_wheel('dist')"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {Path(name).name for name in archive.namelist() if "/console/" in name}
    assert held == {path.name for path in FOLDER.iterdir() if path.is_file()}
