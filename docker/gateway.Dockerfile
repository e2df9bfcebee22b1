# The gateway alone: no Triton, no torch, no compiler, no pip in its environment.
# Pin the base by its digest: --build-arg BASE=python:3.11-slim-bookworm@sha256:...
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS build
COPY docker/gateway.lock /tmp/gateway.lock
RUN python3 -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --only-binary :all: --require-hashes -r /tmp/gateway.lock \
 && /opt/venv/bin/pip uninstall --yes pip setuptools
COPY policy_spec /app/policy_spec
COPY gateway /app/gateway
RUN /opt/venv/bin/python -m compileall -q /app

FROM ${BASE}
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
ARG GIT_COMMIT=unknown
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOST=0.0.0.0 \
    PORT=8080 \
    GIT_COMMIT=${GIT_COMMIT}
WORKDIR /app
USER 1000:1000
EXPOSE 8080
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-m", "gateway.healthcheck"]
CMD ["python", "-m", "gateway"]
