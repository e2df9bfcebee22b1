"""The history of the active version, and where a rollback goes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from converters.repository import activation, repository
from converters.repository.repository import RepositoryError
from tests.stack import ROOT


@pytest.fixture
def target(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "model_repository", tmp_path / "model_repository")
    (tmp_path / "model_repository" / activation.HISTORY).unlink(missing_ok=True)
    with repository.transaction(tmp_path / "model_repository") as tree:
        config = (tree / "carla_policy-v0.2.0" / "config.pbtxt").read_text()
        repository.write_ensemble(tree, "carla_policy-v0.3.0", config.replace("v0.2.0", "v0.3.0"))
    return tmp_path / "model_repository"


def change(target: Path, version: str, how: activation.How) -> None:
    with repository.transaction(target, only="carla_policy") as folder:
        activation.set_alias(target, version, how, folder=folder)


def test_rollbacks_go_further_back(target: Path) -> None:
    with pytest.raises(RepositoryError, match="no promotion that could be rolled back"):
        activation.before(target)
    change(target, "v0.1.0", "promote")
    change(target, "v0.3.0", "export")
    assert activation.before(target) == "v0.1.0"
    change(target, "v0.1.0", "rollback")
    assert activation.before(target) == "v0.2.0"
    change(target, "v0.3.0", "promote")
    assert activation.before(target) == "v0.1.0"
    change(target, "v0.1.0", "rollback")
    change(target, "v0.2.0", "rollback")
    assert [one.how for one in activation.history(target)].count("rollback") == 3
    with pytest.raises(RepositoryError, match="no promotion that could be rolled back"):
        activation.before(target)


def test_history_is_pruned_and_still_true(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activation, "KEPT", 3)
    for version, how in (
        ("v0.1.0", "promote"),
        ("v0.2.0", "promote"),
        ("v0.1.0", "rollback"),
        ("v0.2.0", "rollback"),
        ("v0.3.0", "promote"),
    ):
        change(target, version, how)  # type: ignore[arg-type]
    assert [one.version for one in activation.history(target)] == ["v0.1.0", "v0.2.0", "v0.3.0"]
    assert activation.before(target) == "v0.2.0"


def test_activating_what_is_active_is_no_change(target: Path) -> None:
    change(target, "v0.2.0", "promote")
    assert activation.history(target) == []
    assert not (target / activation.HISTORY).exists()


def test_a_damaged_history_is_named(target: Path) -> None:
    (target / activation.HISTORY).write_text("{")
    with pytest.raises(RepositoryError, match=r"history\.json: no history of promotions"):
        activation.before(target)


def test_a_transaction_that_is_not_confirmed_is_undone(target: Path) -> None:
    before = {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}

    def refuse() -> None:
        assert repository.active_version(target) == "v0.1.0"
        raise RuntimeError("no")

    for only in (None, "carla_policy"):
        with (
            pytest.raises(RuntimeError, match="no"),
            repository.transaction(target, refuse, only=only) as tree,
        ):
            activation.set_alias(target, "v0.1.0", folder=tree if only else tree / "carla_policy")
        assert {path: path.read_bytes() for path in target.rglob("*") if path.is_file()} == before
        left = {path.name for path in target.parent.iterdir()}
        assert left == {"model_repository", ".model_repository.lock"}
