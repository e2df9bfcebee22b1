"""Settings come from the environment, a flag wins, and a bad value is named in a sentence."""

from pathlib import Path

import pytest

from gateway.config.settings import Settings, SettingsError, read_settings

VARIABLES = [name.upper() for name in Settings.model_fields]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_defaults() -> None:
    settings = read_settings()
    assert settings.artifact_dir == Path("artifacts")
    assert settings.model_repository == Path("model_repository")
    assert settings.model_version is None
    assert settings.use_gpu is False
    assert (settings.host, settings.port, settings.workers) == ("127.0.0.1", 8080, 1)
    assert settings.log_level == "info"
    assert settings.cors_origins == ("*",)
    assert settings.triton_url is None
    assert settings.triton_http_port == 8000
    assert settings.triton_grpc_port == 8001
    assert settings.triton_metrics_port == 8002
    assert settings.triton_endpoint == "http://127.0.0.1:8000"
    assert settings.max_body_bytes is None
    assert settings.request_timeout_ms == 1000


@pytest.mark.parametrize("name", VARIABLES)
def test_an_empty_variable_counts_as_unset(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "")
    assert read_settings() == Settings()


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("PORT", "1", 1),
        ("PORT", "65535", 65535),
        ("USE_GPU", "1", True),
        ("USE_GPU", "0", False),
        (
            "CORS_ORIGINS",
            "https://a.org, http://b.org:8080",
            ("https://a.org", "http://b.org:8080"),
        ),
        ("MODEL_VERSION", "v1.2.3", "v1.2.3"),
        ("TRITON_URL", "http://triton:8000", "http://triton:8000"),
        ("TRITON_URL", "http://[::1]:8000/", "http://[::1]:8000/"),
        ("LOG_LEVEL", "critical", "critical"),
        ("WORKERS", "4", 4),
    ],
)
def test_good_values(name: str, value: str, read: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert getattr(read_settings(), name.lower()) == read


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("PORT", "80a", "a whole number from 1 to 65535"),
        ("PORT", "0", "a whole number from 1 to 65535"),
        ("TRITON_HTTP_PORT", "65536", "a whole number from 1 to 65535"),
        ("TRITON_GRPC_PORT", "-1", "a whole number from 1 to 65535"),
        ("TRITON_METRICS_PORT", "1.5", "a whole number from 1 to 65535"),
        ("USE_GPU", "yes", "0 or 1"),
        ("WORKERS", "0", "a whole number from 1 to 256"),
        ("LOG_LEVEL", "loud", "one of debug, info, warning, error, critical"),
        ("CORS_ORIGINS", "example.org", "* or origins such as https://example.org"),
        ("CORS_ORIGINS", "*,https://a.org", "* or origins such as https://example.org"),
        ("MODEL_VERSION", "1.2.3", "a semantic version such as v0.1.0"),
        ("MODEL_VERSION", "v1.2", "a semantic version such as v0.1.0"),
        ("TRITON_URL", "localhost:8000", "a URL such as http://localhost:8000"),
        ("TRITON_URL", "https://a:1", "a URL such as http://localhost:8000"),
        ("HOST", "a b", "a host name or an IP address"),
        ("MAX_BODY_BYTES", "0", "a whole number from 1 to 1073741824"),
        ("REQUEST_TIMEOUT_MS", "0", "a whole number from 1 to 600000"),
    ],
)
def test_a_bad_value_is_named(
    name: str, value: str, allowed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as raised:
        read_settings()
    assert str(raised.value).startswith(f"{name}={value}: must be {allowed}")


def test_every_bad_value_has_its_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "x")
    monkeypatch.setenv("WORKERS", "y")
    with pytest.raises(SettingsError) as raised:
        read_settings()
    assert len(str(raised.value).splitlines()) == 2


def test_a_flag_wins_and_an_absent_flag_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "1234")
    assert read_settings(port=4321, host=None).port == 4321
    assert read_settings(port=None).port == 1234
    with pytest.raises(SettingsError, match="PORT=0: must be"):
        read_settings(port=0)
    with pytest.raises(SettingsError, match="colour: there is no such setting"):
        read_settings(colour="red")


def test_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        read_settings().port = 1  # type: ignore[misc]


def test_each_field_says_what_it_means() -> None:
    assert all(field.description for field in Settings.model_fields.values())


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8080"),
        ("0.0.0.0", "http://127.0.0.1:8080"),
        ("::", "http://[::1]:8080"),
        ("::1", "http://[::1]:8080"),
        ("fe80::1", "http://[fe80::1]:8080"),
        ("policy.example.org", "http://policy.example.org:8080"),
    ],
)
def test_gateway_url(host: str, url: str) -> None:
    assert read_settings(host=host).gateway_url == url


def test_equal_ports_are_refused_where_a_triton_is_started() -> None:
    with pytest.raises(SettingsError) as raised:
        read_settings(port=8002)
    sentence = "PORT=8002 and TRITON_METRICS_PORT=8002: must be two different ports"
    assert str(raised.value) == sentence
    with pytest.raises(SettingsError, match="^TRITON_HTTP_PORT=9000 and TRITON_GRPC_PORT=9000: "):
        read_settings(triton_http_port=9000, triton_grpc_port=9000)
    assert read_settings(port=8002, triton_url="http://triton:8000").port == 8002
