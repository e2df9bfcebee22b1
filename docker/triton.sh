#!/bin/sh
# Start Triton as `carlarl serve` does, with the same models. SERVE_VERSIONS names further versions.
set -eu
export MODEL_REPOSITORY="${MODEL_REPOSITORY:-/models}"
models=$(python3 -P -m converters.repository.start)
for model in $models; do
    set -- "--load-model=$model" "$@"
done
if [ -n "${TRITON_SECRET:-}" ]; then # only who sends it may load, unload and trace
    case $TRITON_SECRET in */*) TRITON_SECRET=$(cat "$TRITON_SECRET") ;; esac # a file with it
    : "${TRITON_SECRET:?its file is empty}"
    closed="model-repository,shared-memory,trace,logging:carlarl-secret=$TRITON_SECRET"
    set -- "--http-restricted-api=$closed" "--grpc-restricted-protocol=$closed" "$@"
fi
traces=${OTEL_EXPORTER_OTLP_ENDPOINT:+${OTEL_EXPORTER_OTLP_ENDPOINT%/}/v1/traces}
traces=${OTEL_EXPORTER_OTLP_TRACES_ENDPOINT:-$traces}
case ${OTEL_SDK_DISABLED:-},${OTEL_TRACES_EXPORTER:-} in [Tt][Rr][Uu][Ee],* | *,none) traces= ;; esac
if [ -n "$traces" ]; then # spans of those calls alone that bring a trace
    set -- --trace-config=mode=opentelemetry --trace-config=level=TIMESTAMPS \
        --trace-config=rate=2000000000 \
        "--trace-config=opentelemetry,url=$traces" \
        "--trace-config=opentelemetry,resource=service.name=${OTEL_SERVICE_NAME:-carlarl}-triton" "$@"
fi
exec tritonserver \
    --model-repository="$MODEL_REPOSITORY" \
    --model-control-mode=explicit \
    --disable-auto-complete-config \
    --model-load-thread-count=16 \
    --exit-timeout-secs=5 \
    --metrics-config=summary_latencies=true \
    --metrics-config=summary_quantiles=0.5:0.05,0.95:0.01,0.99:0.001 \
    "$@"
