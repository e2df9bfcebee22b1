"""The forms of what callers send and get."""

from typing import Annotated, Any, Literal, Protocol

from msgspec import UNSET, Meta, Struct, UnsetType

from gateway.config.fields import VERSION_PATTERN

MAX_OBSERVATIONS = 1000
MAX_SEED = 2**63 - 1
MAX_STEP = 2**53 - 1
"""The largest `stepId`: whole numbers up to it are exact in JavaScript, too."""

Step = Annotated[
    int, Meta(ge=0, le=MAX_STEP, description="Chosen by the caller; its answer has the same.")
]
Seed = Annotated[int, Meta(ge=0, le=MAX_SEED)]
Version = Annotated[str, Meta(pattern=rf"{VERSION_PATTERN}(?!\n)", examples=["v0.1.0"])]


class Options(Struct, forbid_unknown_fields=True, gc=False, kw_only=True, rename="camel"):
    """What a caller may choose besides the observations."""

    deterministic: Annotated[
        bool, Meta(description="The mean action where true, a sampled one where false.")
    ] = False
    seed: Annotated[
        Seed | None,
        Meta(
            description="Seed of the sampled actions: the same seed and observations give the "
            "same actions. Drawn where absent or null; ignored where deterministic."
        ),
    ] = None
    version: Annotated[
        Version | None, Meta(description="Policy version; the active one where absent or null.")
    ] = None
    policy_actions: Annotated[
        bool,
        Meta(description="Whether to answer the policy's own actions, too, before `control`."),
    ] = False


State = Annotated[
    str, Meta(description="A token of an answer: the policy's memory, to go on with.")
]


class RequestOptions(Options, kw_only=True, rename="camel"):
    """What a caller may choose in a request."""

    states: Annotated[
        list[State | None] | None,
        Meta(
            description="For each observation what the last answer of its session had in `states`; "
            "null where an episode starts. All start one where absent or null."
        ),
    ] = None


class StepOptions(Options, kw_only=True, rename="camel"):
    """What a caller may choose in a step."""

    episode_start: Annotated[
        bool,
        Meta(description="Whether an episode starts: the policy's memory is empty before it."),
    ] = False
    return_state: Annotated[
        bool, Meta(description="Whether to answer the policy's memory as a token, too.")
    ] = False
    state: Annotated[
        State | None, Meta(description="In the first frame, without `episodeStart`: a memory to go on with.")
    ] = None


class Chosen(Protocol):
    """The options of a decoded request or step."""

    deterministic: bool
    seed: int | None
    version: str | None
    policy_actions: bool


class PredictRequest(Chosen, Protocol):
    """A decoded body of `POST /predict`."""

    observations: list[Any]
    states: list[str | None] | None


class StepRequest(Chosen, Protocol):
    """A decoded frame of `/stream`."""

    step_id: int
    observation: Any
    episode_start: bool
    return_state: bool
    state: str | None


class WarmupRequest(Struct, forbid_unknown_fields=True):
    """Nothing: an empty object, or no body at all."""


class Observation(Struct):
    """What the policy perceives at one instant."""


class Action(Struct):
    """What the policy does; names of a control are those of `carla.VehicleControl`."""


class PolicyAction(Struct):
    """What the policy itself gives, before `control`."""


# Each signature gives these three other fields; `/openapi.json` shows the active version's.

_Computed = Annotated[str, Meta(description="Policy version that computed the actions.")]
_Timing = Annotated[float, Meta(description="Milliseconds from the arrival to this answer.")]
_Sampled = Annotated[
    int, Meta(description="Only where not deterministic: send it again to repeat this.")
]


class PredictAnswer(Struct, gc=False, rename="camel"):
    """One action for each observation, in order."""

    actions: list[Action]
    version: _Computed
    timing_ms: _Timing
    deterministic: bool
    seed: _Sampled | UnsetType = UNSET
    policy_actions: list[PolicyAction] | UnsetType = UNSET
    states: (
        Annotated[
            list[State],
            Meta(description="Of a policy with a memory, for each observation. Send them back."),
        ]
        | UnsetType
    ) = UNSET


class StepAnswer(Struct, gc=False, rename="camel", forbid_unknown_fields=True):
    """The action of one step."""

    step_id: Step
    action: Action
    version: _Computed
    timing_ms: _Timing
    deterministic: bool
    seed: _Sampled | UnsetType = UNSET
    policy_action: PolicyAction | UnsetType = UNSET
    state: (
        Annotated[State, Meta(description="Only where asked for with `returnState`.")] | UnsetType
    ) = UNSET


class StepSkipped(Struct, gc=False, rename="camel", forbid_unknown_fields=True):
    """A later step of this vehicle came before this one was sent to Triton: the latest wins."""

    step_id: Step
    skipped: Literal[True] = True


class ValidationProblem(Struct):
    """One field that is not what it must be."""

    field: Annotated[str, Meta(examples=["observations.0.speed"])]
    message: Annotated[str, Meta(examples=["Expected `float` <= 200.0"])]
    type: Annotated[str, Meta(examples=["less_than_equal"])]


class ErrorDetails(Struct):
    """Which request failed, for VALIDATION_ERROR why, and when it makes sense to try again."""

    request_id: str
    validation_errors: list[ValidationProblem] | UnsetType = UNSET
    retry_after_s: Annotated[int, Meta(ge=1)] | UnsetType = UNSET


class ErrorEnvelope(Struct):
    """What every error looks like."""

    error: str
    message: str
    details: ErrorDetails
    timestamp: Annotated[float, Meta(description="Unix time, seconds.")]


class StepError(ErrorEnvelope, kw_only=True, rename={"step_id": "stepId"}):
    """A step that got no action; the connection goes on."""

    step_id: Annotated[Step | None, Meta(description="null where the frame could not be read.")]
