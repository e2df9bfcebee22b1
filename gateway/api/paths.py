"""The paths of the API that more than one part knows."""

PREDICT = "/predict"
STREAM = "/stream"
PROBES = frozenset({"/healthz", "/livez", "/readyz"})
METRICS = frozenset({"/metrics"})
DOCS = frozenset({"/docs", "/redoc", "/openapi.json", "/asyncapi.json"})
