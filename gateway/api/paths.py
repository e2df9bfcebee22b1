"""Paths of the API that several modules use."""

PREDICT = "/predict"
STREAM = "/stream"
PROBES = frozenset({"/healthz", "/livez", "/readyz"})
METRICS = frozenset({"/metrics"})
ROOT = "/"
DOCS_FILES = tuple(
    f"/docs/{name}"
    for name in ("swagger-ui-bundle.js", "swagger-ui.css", "redoc.standalone.js", "favicon.png")
)
DOCS = frozenset({"/docs", "/redoc", "/openapi.json", "/asyncapi.json", *DOCS_FILES})
