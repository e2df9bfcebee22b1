"""The gateway's Prometheus series; every label takes a bounded set of values."""

from gateway.observability.metric_families import Counter, Gauge, Histogram, latest

CONTROL_BUCKETS = tuple(eighth / 8 for eighth in range(-8, 9))
SAMPLED_ACTIONS = 2048
"""Actions that are counted in a second: it takes a millisecond, and is enough to see drift."""


class Series:
    """All series of one gateway process."""

    def __init__(self) -> None:
        self.requests = Counter(
            "carla_rl_requests", "Requests answered.", "route", "method", "status"
        )
        self.latency = Histogram(
            "carla_rl_request_seconds",
            "Time from a request's arrival to the start of its answer.",
            *("route", "method"),
        )
        self.inference = Histogram("carla_rl_inference_seconds", "Time of one Triton call.")
        self.wait = Histogram(
            "carla_rl_queue_wait_seconds",
            "Time from a request's arrival in the line, or a part's of a large one, to its call.",
        )
        self.queue = Gauge(
            "carla_rl_queue_observations", "Observations that wait for a Triton call."
        )
        self.queue_limit = Gauge(
            "carla_rl_queue_limit_observations", "Observations that may wait (MAX_WAITING)."
        )
        self.reconnects = Counter(
            "carla_rl_triton_reconnects",
            "Connections to Triton that were opened in the place of lost ones.",
        )
        self.golden_seconds = Histogram(
            "carla_rl_golden_seconds",
            "Time of one golden inference of the active version, about one a second.",
        )
        self.golden_failures = Counter(
            "carla_rl_golden_failures", "Golden inferences that failed or gave another action."
        )
        self.distrusted = Counter(
            "carla_rl_distrusted_answers",
            "Answers of Triton that no caller got: another call's (stale), or that the model's "
            "process is not healthy (unhealthy). The model is asked no more until it works again.",
            "reason",
        )
        self.checked = Gauge(
            "carla_rl_answers_checked",
            "1 where the active version's model gives each call's nonce back, in every worker.",
            merge=min,
        )
        self.refused = Counter("carla_rl_refused_connections", "Connections beyond the limit.")
        self.expired = Counter(
            "carla_rl_expired",
            "Requests, or parts of large ones, whose deadline passed before they went to Triton.",
        )
        self.joined = Histogram(
            "carla_rl_joined_observations",
            "Observations that travelled in one Triton call.",
            bounds=(1, 2, 4, 8, 16, 32, 64, 128, 256),
        )
        self.observations = Counter("carla_rl_observations", "Observations that got an action.")
        self.controls = Histogram(
            "carla_rl_action_ratio",
            f"Controls of the actions given: of the first {SAMPLED_ACTIONS} in a second.",
            "control",
            bounds=CONTROL_BUCKETS,
        )
        self.lookups = Counter(
            "carla_rl_cache_lookups", "Deterministic observations looked up in the cache.", "result"
        )
        self.streams = Gauge("carla_rl_streams", "Streams that are open.")
        self.streams_behind = Gauge(
            "carla_rl_streams_behind",
            "Streams whose episode is answered by another version than the active one.",
        )
        self.skipped = Counter(
            "carla_rl_skipped", "Steps that a later one overtook before they went to Triton."
        )
        self.errors = Counter("carla_rl_errors", "Errors answered.", "code")
        self.version = Gauge(
            "carla_rl_active_version_info",
            "1 for the version that answers where a request names none.",
            *("version", "artifact_digest", "device"),
            merge=latest,
        )
        self.ready = Gauge(
            "carla_rl_ready",
            "1 where the active version answers its golden inference, in every worker.",
            merge=min,
        )
        self.warm = Gauge(
            "carla_rl_warm",
            "1 where the active version has answered since Triton was last away, in every worker.",
            merge=min,
        )
        self.started = Gauge(
            "carla_rl_start_time_seconds",
            "When the gateway started, or the oldest of its workers: seconds since 1970.",
            merge=min,
        )
        self.memory = Gauge("carla_rl_resident_memory_bytes", "Resident memory of the gateway.")
