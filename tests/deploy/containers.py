"""Images built and containers run without a Docker daemon: buildah, podman, podman-compose."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.stack import ROOT, clean_environment

PACKAGES = {
    "buildah": "buildah",
    "podman": "podman",
    "runc": "runc",
    "conmon": "conmon",
    "iptables": "iptables",
    "debootstrap": "debootstrap",
    "/usr/lib/podman/netavark": "netavark",
    "/usr/lib/podman/aardvark-dns": "aardvark-dns",
    "/etc/containers/policy.json": "golang-github-containers-common",
}
"""A program or file → the Debian package that has it."""

STORAGE = """
[storage]
driver = ""
graphroot = "{folder}/images"
runroot = "{folder}/run"
"""
CONTAINERS = """
[containers]
default_ulimits = ["nofile=10000:10000", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
runtime = "runc"
[network]
network_backend = "netavark"
network_config_dir = "{folder}/networks"
"""


def missing(packages: dict[str, str]) -> str:
    """Say which Debian packages to install; empty where nothing is missing."""
    lacking = [
        package
        for program, package in packages.items()
        if not (Path(program).is_file() if "/" in program else shutil.which(program))
    ]
    return f"needed: apt-get install --no-install-recommends {' '.join(lacking)}" if lacking else ""


@dataclass(frozen=True)
class Containers:
    """buildah and podman on storage of their own, in `folder`."""

    folder: Path
    variables: dict[str, str]

    @classmethod
    def create(cls, folder: Path) -> Containers:
        for name, text in (("storage.conf", STORAGE), ("containers.conf", CONTAINERS)):
            (folder / name).write_text(text.format(folder=folder))
        own = {
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
            "BUILDAH_ISOLATION": "chroot",
        }
        return cls(folder, own)

    def run(self, *command: str, **variables: str) -> str:
        """Run a command to its end; give its output, or fail with all that it said."""
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=clean_environment() | self.variables | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=900,
        )
        if done.returncode:
            raise AssertionError(
                f"{shlex.join(command)}: status {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done.stdout

    def logs(self, container: str) -> str:
        """Return all that a container has said."""
        return self.run("sh", "-c", f"podman logs {shlex.quote(container)} 2>&1")

    def build(self, dockerfile: str, tag: str, base: str, context: str = ".") -> str:
        """Build an image and give its name; BUILD_FLAGS has what this machine's builds need."""
        flags = shlex.split(os.environ.get("BUILD_FLAGS", ""))
        name = f"localhost/{tag}"
        self.run(
            *("buildah", "bud", "--quiet", "--format", "docker", "--network", "host", *flags),
            *("--build-arg", f"BASE={base}", "--file", dockerfile, "--tag", name, context),
        )
        return name

    def debian(self) -> str:
        """Make a base image as slim as Python's official one, of Debian's own Python."""
        tree = self.folder / "debian"
        packages = "python3,python3-venv,libpython3.11,ca-certificates"
        self.run("debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(tree))
        container = self.run("buildah", "from", "scratch").strip()
        self.run("buildah", "copy", "--quiet", container, str(tree), "/")
        self.run("buildah", "commit", "--quiet", "--rm", container, "localhost/base")
        shutil.rmtree(tree)
        return "localhost/base"

    def compose(self, *arguments: str, profiles: str = "cpu monitoring", **variables: str) -> str:
        program = str(Path(sys.executable).with_name("podman-compose"))
        flags = [flag for name in profiles.split() for flag in ("--profile", name)]
        return self.run(program, "-p", "carlarl-test", *flags, *arguments, **variables)
