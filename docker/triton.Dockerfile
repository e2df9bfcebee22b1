# The official Triton server with the models' code, their runtime and the model repository.
# Pin the base by its digest: --build-arg BASE=nvcr.io/nvidia/tritonserver:26.04-py3@sha256:...
# Releases before 26.04 can report ready while a Python model's process is dead.
ARG BASE=nvcr.io/nvidia/tritonserver:26.04-py3

FROM ${BASE}
USER root
# `triton-gpu` has ONNX Runtime for NVIDIA GPUs.
ARG LOCK=triton
COPY docker/${LOCK}.lock /tmp/triton.lock
# Beside the image's own packages, and found before them. Python inside Triton does not read PYTHONPATH
# in every release, but always its .pth files.
RUN python3 -m pip install --no-cache-dir --only-binary :all: --require-hashes --target /opt/carlarl -r /tmp/triton.lock \
 && python3 -c "import sysconfig, pathlib; pathlib.Path(sysconfig.get_path('purelib'), 'carlarl.pth').write_text('import sys; sys.path.insert(0, \'/opt/carlarl\')\n')"
COPY policy_spec /opt/carlarl/policy_spec
COPY triton_backend /opt/carlarl/triton_backend
# What it loads at a start: `converters.repository.start`.
COPY converters /opt/carlarl/converters
RUN python3 -m compileall -q /opt/carlarl/policy_spec /opt/carlarl/triton_backend /opt/carlarl/converters
COPY docker/triton.sh /opt/carlarl/triton.sh
COPY --chown=1000:1000 model_repository /models
ENV HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    OMP_NUM_THREADS=1 \
    ORT_DISABLE_TELEMETRY=1 \
    MODEL_REPOSITORY=/models
USER 1000:1000
EXPOSE 8000 8001 8002
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=2)"]
# Further flags of tritonserver go after the image's name.
ENTRYPOINT ["sh", "/opt/carlarl/triton.sh"]
