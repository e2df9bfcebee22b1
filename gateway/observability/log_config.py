"""The log: lines for people, or one JSON object for each event."""

import logging
import logging.config
from typing import Any

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from gateway.config.settings import Settings

_HANDLER = "stderr"
_FORMATTERS: dict[str, dict[str, Any]] = {
    "text": {"format": "%(asctime)s %(levelname)-8s %(name)s: %(message)s"},
    "json": {
        "()": JsonFormatter,
        "fmt": ["levelname", "name", "message"],
        "rename_fields": {"levelname": "level", "name": "logger", "exc_info": "trace"},
        "rename_fields_keep_missing": False,
        "timestamp": "time",
        "reserved_attrs": [*RESERVED_ATTRS, "color_message"],  # uvicorn's, for a terminal
    },
}
"""In JSON, `extra` of a log call becomes further fields; `time` is ISO 8601 in UTC."""


def configuration(settings: Settings) -> dict[str, Any]:
    """Return what `logging.config.dictConfig` takes: all goes to standard error."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {settings.log_format: dict(_FORMATTERS[settings.log_format])},
        "filters": {
            "flood": {
                "()": "gateway.observability.log_rate_limit.LogRateLimit",
                "budgeted": "gateway.observability.access_log",
            }
        },
        "handlers": {
            _HANDLER: {
                "class": "logging.StreamHandler",
                "formatter": settings.log_format,
                "filters": ["flood"],
            }
        },
        "root": {"level": settings.log_level.upper(), "handlers": [_HANDLER]},
    }


def configure(settings: Settings) -> None:
    """Change the level and the format while the gateway serves."""
    root = logging.getLogger()
    root.setLevel(settings.log_level.upper())
    made = logging.config.DictConfigurator({})
    formatter = made.configure_formatter(dict(_FORMATTERS[settings.log_format]))
    for handler in root.handlers:
        if handler.name == _HANDLER:
            handler.setFormatter(formatter)
