"""The fields of KServe's resources, out of the models of its Python package.

`python -m tests.deploy.kserve_models` installs the package beside the environment, whose versions
it does not accept, and writes FILE anew; `make test-deploy` compares the two.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PACKAGE = "kserve==0.21.0"
FILE = Path(__file__).with_name("kserve-0.21.0.json")
ROOTS = ("V1alpha1ServingRuntime", "V1beta1InferenceService")

Fields = dict[str, dict[str, str]]
"""Class → field in the YAML → type, as OpenAPI's generator for Python writes it."""


def fields_of_package() -> Fields:
    """Install the package into a folder of its own, and read its models."""
    with tempfile.TemporaryDirectory() as folder:
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder)
        subprocess.run((*pip, PACKAGE), check=True, timeout=300)
        models = {}
        for path in (Path(folder) / "kserve" / "models").glob("v1*.py"):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ClassDef):
                    models[node.name] = _fields(node)
    wanted, todo = {}, list(ROOTS)
    while todo:
        name = todo.pop()
        if name in models and name not in wanted:
            wanted[name] = models[name]
            todo += [t for kind in models[name].values() for t in re.findall(r"\w+", kind)]
    return dict(sorted(wanted.items()))


def _fields(model: ast.ClassDef) -> dict[str, str]:
    tables = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in model.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    return {key: tables["openapi_types"][name] for name, key in tables["attribute_map"].items()}


def unknown(value: Any, kind: str, fields: Fields, where: str) -> list[str]:
    """Name what of `value` the type `kind` does not have, with its place."""
    if listed := re.fullmatch(r"list\[(.+)\]", kind):
        if not isinstance(value, list):
            return [f"{where}: no list"]
        return [
            p for i, v in enumerate(value) for p in unknown(v, listed[1], fields, f"{where}[{i}]")
        ]
    scalar = {"str": str, "int": int, "bool": bool}.get(kind)
    if scalar is not None:
        return [] if type(value) is scalar else [f"{where}: no {kind}"]
    if kind not in fields:  # of Kubernetes itself, or a free mapping
        return []
    if not isinstance(value, dict):
        return [f"{where}: no {kind}"]
    found = [f"{where}.{key}: {kind} has no such field" for key in set(value) - set(fields[kind])]
    for key in set(value) & set(fields[kind]):
        found += unknown(value[key], fields[kind][key], fields, f"{where}.{key}")
    return found


if __name__ == "__main__":
    lines = ",\n".join(f'"{name}": {json.dumps(f)}' for name, f in fields_of_package().items())
    FILE.write_text(f"{{\n{lines}\n}}\n")
