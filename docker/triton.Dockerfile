# The official Triton server with the models' code, their runtime and the model repository.
# Pin the base by its digest: --build-arg BASE=nvcr.io/nvidia/tritonserver:26.04-py3@sha256:...
# Releases before 26.04 can report ready while a Python model's process is dead.
ARG BASE=nvcr.io/nvidia/tritonserver:26.04-py3

FROM ${BASE}
USER root
ARG RUNTIME=onnxruntime>=1.20,<2
RUN python3 -m pip install --no-cache-dir --only-binary :all: --break-system-packages numpy "${RUNTIME}" \
    "opentelemetry-exporter-otlp-proto-http>=1.37,<2" "opentelemetry-sdk>=1.37,<2" \
 # Python inside Triton does not read PYTHONPATH in every release, but always its .pth files.
 && python3 -c "import sysconfig, pathlib; pathlib.Path(sysconfig.get_path('purelib'), 'carlarl.pth').write_text('/opt/carlarl\n')"
COPY triton_backend /opt/carlarl/triton_backend
RUN python3 -m compileall -q /opt/carlarl
COPY docker/triton.sh /opt/carlarl/triton.sh
COPY --chown=1000:1000 model_repository /models
ENV HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    OMP_NUM_THREADS=1 \
    MODEL_REPOSITORY=/models
USER 1000:1000
EXPOSE 8000 8001 8002
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=2)"]
# Further flags of tritonserver go after the image's name.
ENTRYPOINT ["sh", "/opt/carlarl/triton.sh"]
