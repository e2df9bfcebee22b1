"""The gateway's Prometheus series; every label takes a bounded set of values."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

BUCKETS_S = (
    0.00025, 0.0005, 0.00075, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075,
    0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0,
)  # fmt: skip
CONTROL_BUCKETS = tuple(eighth / 8 for eighth in range(-8, 9))
SAMPLED_ACTIONS = 2048
"""Actions that are looked at between two flushes: a millisecond's work, and enough to see drift."""


class Series:
    """All series of one gateway process."""

    def __init__(self) -> None:
        """Register each anew, apart from any other gateway's of this process."""
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "carla_rl_requests",
            "Requests answered.",
            ("route", "method", "status"),
            registry=registry,
        )
        self.latency = Histogram(
            "carla_rl_request_seconds",
            "Time from a request's arrival to the start of its answer.",
            ("route", "method"),
            buckets=BUCKETS_S,
            registry=registry,
        )
        self.inference = Histogram(
            "carla_rl_inference_seconds",
            "Time of one Triton call.",
            buckets=BUCKETS_S,
            registry=registry,
        )
        self.wait = Histogram(
            "carla_rl_queue_wait_seconds",
            "Time from a request's arrival in the line, or a part's of a large one, to its call.",
            buckets=BUCKETS_S,
            registry=registry,
        )
        self.queue = Gauge(
            "carla_rl_queue_observations",
            "Observations that wait for a Triton call.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.queue_limit = Gauge(
            "carla_rl_queue_limit_observations",
            "Observations that may wait (MAX_WAITING).",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.reconnects = Counter(
            "carla_rl_triton_reconnects",
            "Connections to Triton that were opened in the place of lost ones.",
            registry=registry,
        )
        self.golden = Histogram(
            "carla_rl_golden_seconds",
            "Time of one golden inference of the active version, about one a second.",
            buckets=BUCKETS_S,
            registry=registry,
        )
        self.golden_failures = Counter(
            "carla_rl_golden_failures",
            "Golden inferences that failed or gave another action.",
            registry=registry,
        )
        self.refused = Counter(
            "carla_rl_refused_connections", "Connections beyond the limit.", registry=registry
        )
        self.expired = Counter(
            "carla_rl_expired",
            "Requests, or parts of large ones, whose deadline passed before they went to Triton.",
            registry=registry,
        )
        self.joined = Histogram(
            "carla_rl_joined_observations",
            "Observations that travelled in one Triton call.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=registry,
        )
        self.observations = Counter(
            "carla_rl_observations", "Observations that got an action.", registry=registry
        )
        self.controls = Histogram(
            "carla_rl_action_ratio",
            f"Controls of the actions given: of the first {SAMPLED_ACTIONS} in a second.",
            ("control",),
            buckets=CONTROL_BUCKETS,
            registry=registry,
        )
        self.lookups = Counter(
            "carla_rl_cache_lookups",
            "Deterministic observations looked up in the cache.",
            ("result",),
            registry=registry,
        )
        self.streams = Gauge(
            "carla_rl_streams",
            "Streams that are open.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.skipped = Counter(
            "carla_rl_skipped",
            "Steps that a later one overtook before they went to Triton.",
            registry=registry,
        )
        self.errors = Counter("carla_rl_errors", "Errors answered.", ("code",), registry=registry)
        self.version = Gauge(
            "carla_rl_active_version_info",
            "1 for the version that answers where a request names none.",
            ("version", "artifact_digest", "device"),
            multiprocess_mode="livemostrecent",
            registry=registry,
        )
        self.ready = Gauge(
            "carla_rl_ready",
            "1 where the active version answers its golden inference, in every worker.",
            multiprocess_mode="livemin",
            registry=registry,
        )
        self.warm = Gauge(
            "carla_rl_warm",
            "1 where the active version has answered since Triton was last away, in every worker.",
            multiprocess_mode="livemin",
            registry=registry,
        )
        Gauge(
            "carla_rl_start_time_seconds",
            "When the gateway started, or the oldest of its workers: seconds since 1970.",
            multiprocess_mode="livemin",
            registry=registry,
        ).set_to_current_time()
        self.memory = Gauge(
            "carla_rl_resident_memory_bytes",
            "Resident memory of the gateway.",
            multiprocess_mode="livesum",
            registry=registry,
        )
