"""The configuration file: which of its values count, and what is refused in a sentence."""

from pathlib import Path

import pytest

from gateway.config.settings import Settings, SettingsError, read_settings, sourced_settings
from tests.stack import ROOT

FILE = """
defaults: {workers: 2, log_level: debug, max_waiting: 7}
profiles:
  development: {}
  production:
    log_level: error
    cors_origins: [https://a.org, "https://b.org"]
    max_waiting:
    rate_limit_per_s: 2.5
    cors_credentials: true
"""


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "carlarl.yaml"
    path.write_text(FILE)
    return path


def test_profile_over_defaults_and_where_each_value_comes_from(file: Path) -> None:
    settings, sources = sourced_settings(config_file=file, profile="production")
    assert (settings.workers, settings.log_level) == (2, "error")
    assert settings.cors_origins == ("https://a.org", "https://b.org")
    assert settings.cors_credentials is True
    assert settings.rate_limit_per_s == 2.5
    assert settings.max_waiting == 10_000  # empty counts as unset
    assert sources["workers"] == "file:defaults"
    assert sources["log_level"] == "file:production"
    assert sources["max_waiting"] == sources["port"] == "default"
    assert sources["profile"] == "flag"


def test_the_development_profile_where_none_is_named(file: Path) -> None:
    settings, sources = sourced_settings(config_file=file)
    assert (settings.profile, settings.log_level, settings.max_waiting) == (
        "development",
        "debug",
        7,
    )
    assert sources["profile"] == "default"


def test_variables_win_over_the_file_and_flags_over_both(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONFIG_FILE", str(file))
    monkeypatch.setenv("PROFILE", "production")
    monkeypatch.setenv("LOG_LEVEL", "info")
    monkeypatch.setenv("CORS_CREDENTIALS", "")  # empty counts as unset
    settings, sources = sourced_settings(workers=3)
    assert (settings.log_level, settings.workers) == ("info", 3)
    assert settings.cors_credentials is True
    assert (sources["log_level"], sources["workers"]) == ("environment", "flag")
    assert sources["config_file"] == sources["profile"] == "environment"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "the file must be a mapping of defaults, profiles"),
        ("[1]", "the file must be a mapping"),
        ("port: 1", "the file: there is no such setting: port"),
        ("defaults: {}", "profiles must be a mapping"),
        ("profiles: {production: {}}", "there is no profile development: it has production"),
        ("profiles: {development: {}, test: {}}", "profiles: there is no such setting: test"),
        ("profiles: {development: {prot: 1}}", "development: there is no such setting: prot"),
        ("profiles: {development: {}, staging: {prot: 1}}", "staging: there is no such setting"),
        ("profiles: {development: {profile: staging}}", "there is no such setting: profile"),
        ("profiles: {development: [1]}", "development must be a mapping"),
        ("profiles: {development: {port: {a: 1}}}", "port must be one value or a list"),
        ("profiles:\n  development:\n    port: 1\n    port: 2", "line 4: port comes twice"),
        ("profiles: {development: {port: 80", "line 1: "),
        ("profiles: {development: {port: 80a}}", "development: port=80a: must be a whole number"),
        ("profiles: {development: {port: true}}", "development: port=true: must be a whole number"),
        ("defaults: {workers: 1.5}\nprofiles: {development: }", "defaults: workers=1.5: must be"),
        ("profiles: {development: {log_level: on}}", "development: log_level=true: must be one of"),
        ("profiles: {development: {use_gpu: maybe}}", "development: use_gpu=maybe: must be 0 or 1"),
        ("profiles: {development: !!python/object:os.system {}}", "could not determine"),
        (b"\xff\xfe\xff", "it can't be read"),
    ],
)
def test_a_bad_file_is_refused_in_a_sentence(
    tmp_path: Path, content: str | bytes, sentence: str
) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SettingsError) as raised:
        read_settings(config_file=path)
    assert str(raised.value).startswith(f"CONFIG_FILE={path}: ")
    assert sentence in str(raised.value)


def test_no_file_and_a_profile_without_one(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"it can't be read \(No such file"):
        read_settings(config_file=tmp_path / "none")
    with pytest.raises(SettingsError, match="PROFILE=production: set CONFIG_FILE"):
        read_settings(profile="production")
    with pytest.raises(SettingsError, match="PROFILE=prod: must be one of development, staging"):
        read_settings(profile="prod", config_file=tmp_path / "none")


@pytest.mark.parametrize("profile", ["development", "staging", "production"])
def test_the_example_that_comes_with_it(profile: str) -> None:
    settings = read_settings(config_file=ROOT / "carlarl.yaml", profile=profile)
    assert settings.profile == profile


def test_contradictions() -> None:
    for overrides, sentence in (
        ({"cors_credentials": True}, "CORS_CREDENTIALS=1: CORS_ORIGINS must name the origins"),
        ({"ssl_certfile": "c"}, "SSL_CERTFILE and SSL_KEYFILE: set both, or neither"),
        ({"ssl_keyfile": "k"}, "SSL_CERTFILE and SSL_KEYFILE: set both, or neither"),
        ({"docs_access": "key"}, "DOCS_ACCESS=key: set API_KEYS_FILE"),
        ({"metrics_access": "key"}, "METRICS_ACCESS=key: set API_KEYS_FILE"),
    ):
        with pytest.raises(SettingsError, match=sentence):
            read_settings(**overrides)


@pytest.mark.parametrize("given", ["hush, hush", "/no/such/file", "in a file", "empty file"])
def test_a_bad_secret_is_not_repeated(given: str, tmp_path: Path) -> None:
    if "file" in given and "/" not in given:
        path = tmp_path / given
        path.write_text("hush, hush\n" if given == "in a file" else "")
        given = str(path)
    with pytest.raises(SettingsError) as raised:
        read_settings(triton_secret=given)
    sentence = str(raised.value)
    assert sentence.startswith("TRITON_SECRET=: must be 8 to 256 letters, digits, - and _, or the")
    assert given not in sentence


def test_a_secret_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hush-hush\n")
    assert read_settings(triton_secret=str(tmp_path / "secret")).triton_token == "hush-hush"
    assert "hush-hush" not in repr(read_settings(triton_secret="hush-hush"))
