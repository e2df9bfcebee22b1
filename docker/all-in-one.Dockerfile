# `carlarl serve` with its embedded Triton, and the command line, in one image; for x86-64.
# Pin the base by its digest: --build-arg BASE=python:3.11-slim-bookworm@sha256:...
# The base needs Python's shared library (Debian's own Python: the package libpython3.11).
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS build
COPY requirements.lock /tmp/requirements.lock
RUN python3 -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --only-binary :all: --require-hashes -r /tmp/requirements.lock
COPY . /src
RUN /opt/venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation /src \
 && /opt/venv/bin/pip uninstall --yes pip setuptools

FROM ${BASE}
COPY --from=build /opt/venv /opt/venv
COPY --chown=1000:1000 model_repository /models
COPY artifacts /app/artifacts
ARG GIT_COMMIT=unknown
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 \
    HOST=0.0.0.0 \
    PORT=8080 \
    MODEL_REPOSITORY=/models \
    GIT_COMMIT=${GIT_COMMIT}
WORKDIR /app
USER 1000:1000
EXPOSE 8080
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-m", "gateway.healthcheck"]
ENTRYPOINT ["carlarl"]
CMD ["serve"]
