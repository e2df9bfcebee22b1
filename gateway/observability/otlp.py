"""Whether and where traces are sent, read from OpenTelemetry's standard variables."""

import os

from gateway.config.settings import SettingsError

ENDPOINT, _TRACES = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


def traces_url() -> str | None:
    """Return the URL that spans are sent to; None where traces are off, the default."""
    exporter = os.environ.get("OTEL_TRACES_EXPORTER") or "otlp"
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or exporter == "none":
        return None
    base = os.environ.get(ENDPOINT)
    return os.environ.get(_TRACES) or (f"{base.removesuffix('/')}/v1/traces" if base else None)


def check() -> None:
    """Raise SettingsError if traces are wanted and can't be sent."""
    url = traces_url()
    if url is None:
        return
    if not url.startswith(("http://", "https://")):
        name = _TRACES if os.environ.get(_TRACES) else ENDPOINT
        raise SettingsError(f"{name}={os.environ[name]}: must be an http or https URL")
    for name in _PROTOCOLS:
        if os.environ.get(name, "http/protobuf") not in ("http/protobuf", ""):
            raise SettingsError(f"{name}={os.environ[name]}: must be http/protobuf")
    try:
        import gateway.observability.tracing  # noqa: F401
    except ImportError as error:
        raise SettingsError(
            f"{ENDPOINT} asks for traces, and {error.name} is missing: pip install -e "
            "'.[traces]', or unset it"
        ) from None
