"""A module of PyTorch, of the user's own class, with its checkpoints → artifact."""

import copy
import inspect
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor, distributions, nn
from torch.utils._pytree import tree_leaves

from converters.artifact import artifact
from converters.artifact.card import ArtifactError
from converters.artifact.policy import zeros_of
from converters.importers import (
    branches,
    checkpoints,
    interface,
    outputs,
    programs,
    states,
    torchscript,
    user_code,
)
from converters.importers.declared import DISTRIBUTIONS, Declared, Said
from converters.importers.observed import Observed
from policy_spec.leaves import Leaf, leaves
from policy_spec.spaces import Box, LeafSpace, Space


class Module(Said, total=False):
    """What the user says of a module, beside what `Said` has. Every entry is optional.

    `arguments` are its constructor's. `key` names the weights in a checkpoint. `method` is what is
    called in place of the module: its method or submodule, or several, one after the other.
    `log_std` is what has the logarithm of the standard deviation. `channels_first`: the network
    takes images so, and callers send the channels last. `scale_images`: it takes them from 0 to 1.
    """

    arguments: Any
    key: str | None
    method: Sequence[str] | None
    log_std: str | None
    channels_first: bool
    scale_images: bool


def import_torch(
    module: Path | str,
    version: str,
    artifacts: Path,
    *,
    checkpoint: Sequence[Path] = (),
    preprocessor: Path | None = None,
    **said: Unpack[Module],
) -> Path:
    """Write the artifact of the module that `module:attribute` names and return its folder.

    The attribute is a class of modules, a function that returns a module, or a module. Its code
    runs, and the artifact holds the TorchScript program that is traced of it. The module takes a
    batch of observations as tensors: (n, features) where an observation is a vector or `fields`
    names its numbers; else a Box (n, *shape) as float32, or as it is if it is a raster of integers,
    a Discrete (n,) and a MultiDiscrete (n, branches) as int64, a MultiBinary as int8, a Dict of
    them, or a tuple. Then it takes each part of the `state` that `spec` declares, in order and with
    the rows first. It returns what the distribution needs, see `torchscript`, and then each part of
    the next state. With several
    checkpoints the policy is the mixture of their policies, see `outputs.Ensemble`. The artifact's
    actions are compared with the module's own. Raises ArtifactError for what can't be served.
    """
    source = Path(module)
    if said.get("log_std") is not None:
        if said.get("second_output") is not None:
            raise ArtifactError(
                "--second-output: --log-std names what gives the standard deviation: leave it away"
            )
        said["second_output"] = "std"
    made = user_code.load("", str(module))
    if isinstance(made, type) and not checkpoint:
        raise ArtifactError(
            f"{source}: a class has no trained weights: give them with --checkpoint FILE"
        )
    if not checkpoint:
        interface.teller(said)(f"no --checkpoint: the weights are those that {source} itself has")
    declared = Declared.of(source, said)
    _check_preprocessor(declared, preprocessor)
    members = []
    for path in checkpoint or (None,):
        one = _module(declared, made)
        if path is not None:
            with user_code.running(f"{path}: its weights can't be loaded"):
                tell = interface.teller(said)
                checkpoints.load(one, path, said.get("key"), tell, preprocessor is not None)
        members.append(_Called(declared, one))
    if declared.state and len(members) > 1:
        raise ArtifactError(
            "--checkpoint: policies with a state can't be an ensemble: give one checkpoint"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing: what it would miss is compared below
        declared = _of_object(declared, members[0])
        read = [programs.read(_traced(declared, one), declared) for one in members]
        data, width, count = read[0]
        if len(read) > 1:
            name = declared.name(width, count)
            ensemble = outputs.Ensemble([artifact.open_program(one) for one, *_ in read], *name)
            data = programs.trace(ensemble, declared.taken)
        own = [outputs.served(one, declared) for one in members]
        compared = own[0] if len(own) == 1 else outputs.Ensemble(own, *name)
        with user_code.running(f"{source}: it can't be called"):
            return torchscript.write(
                artifacts / version, declared, data, width, count, compared, _WHOSE, preprocessor
            )


_WHOSE = "the module's own (a trace has only what torch computes)"


def _check_preprocessor(declared: Declared, preprocessor: Path | None) -> None:
    """Raise ArtifactError where a module takes integers, which a preprocessor would change."""
    kinds = [type(leaf.space).__name__ for leaf in leaves(declared.observation)]
    whole = [kind for kind in kinds if kind != "Box"]
    if preprocessor is not None and whole and declared.said.get("fields") is None:
        raise ArtifactError(
            f"--preprocessor: it makes other numbers of the observation's {whole[0]}, and the "
            "module takes whole ones: scale inside of the module"
        )


def _module(declared: Declared, made: Any) -> nn.Module:
    """Return a new module, in evaluation mode."""
    source, said = declared.source, declared.said
    arguments = user_code.keywords("--arguments", said.get("arguments"))
    if isinstance(made, nn.Module):
        if arguments:
            raise ArtifactError(f"--arguments: {source} is a module already: leave them away")
        with user_code.running(f"{source}: it can't be copied"):
            return copy.deepcopy(made).eval()
    if not callable(made):
        raise ArtifactError(f"{source}: it is a {type(made).__name__}, no module and no function")
    with user_code.running(f"{source}: it can't be made"):
        module = made(**_of_environment(declared, made, arguments), **arguments)
    if not isinstance(module, nn.Module):
        raise ArtifactError(f"{source}: it gives a {type(module).__name__}, and no torch.nn.Module")
    return module.eval()


def _of_environment(declared: Declared, made: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that the environment is for, as CleanRL and others name them."""
    env = declared.environment
    if env is None:
        return {}
    import gymnasium

    def vector() -> Any:
        return gymnasium.vector.SyncVectorEnv([lambda: env])

    makers: dict[str, Any] = {
        "env": vector,
        "envs": vector,
        "observation_space": lambda: env.observation_space,
        "action_space": lambda: env.action_space,
    }
    known = inspect.signature(made).parameters
    return {name: make() for name, make in makers.items() if name in known and name not in given}


def _traced(declared: Declared, called: nn.Module) -> bytes:
    source = declared.source
    given = zeros_of(declared.taken, 2)
    with user_code.running(f"{source}: it can't be called"), torch.inference_mode():
        with branches.Branches(*given) as seen:
            first = called(*given)
        second = called(*given)
    if seen.found is not None:
        raise ArtifactError(
            f"{source}: {seen.found}: Python decides or computes there by an observation's "
            "numbers, which can't be traced: use torch.where, or torch instead of numpy"
        )
    programs.check_outputs(source, first, 2, declared.state)
    pairs = zip(programs.parts(first), programs.parts(second), strict=False)
    if not all(torch.allclose(one, other, equal_nan=True) for one, other in pairs):
        raise ArtifactError(
            f"{source}: it gives another action each time for the same observation, in evaluation "
            "mode too: say with --method what gives the mean or the logits, and draw nothing in it"
        )
    with user_code.running(f"{source}: it can't be traced"):
        return programs.trace(called, declared.taken)


_OBJECTS: dict[type, tuple[str, tuple[str, ...]]] = {
    distributions.Normal: ("gaussian", ("loc", "scale")),
    distributions.Beta: ("beta", ("concentration1", "concentration0")),
    distributions.Categorical: ("categorical", ("logits",)),
    distributions.Bernoulli: ("bernoulli", ("logits",)),
}
"""Distributions of torch: their names here, and their parameters."""


def _of_object(declared: Declared, called: "_Called") -> Declared:
    """Return what is declared, with the distribution of the object that a module gives, if so."""
    given = zeros_of(declared.taken, 2)
    with user_code.running(f"{declared.source}: it can't be called"), torch.inference_mode():
        kind = type(_base(called.made(*given)[0]))
    if kind not in _OBJECTS:
        return declared
    name, said = _OBJECTS[kind][0], declared.said
    gives = f"the module gives a torch.distributions.{kind.__name__}"
    if said.get("distribution") not in (None, name):
        raise ArtifactError(f"--distribution {said['distribution']}: {gives}: leave it away")
    if (second := said.get("second_output")) is not None and (name, second) != ("gaussian", "std"):
        raise ArtifactError(f"--second-output {second}: {gives}: leave it away")
    space = Box if declared.space is None else type(declared.space)
    if space not in DISTRIBUTIONS[name].spaces:
        raise ArtifactError(
            f"{declared.source}: {gives}, and the action is a {space.__name__}: return what fits it"
        )
    return declared.told(name)


def _base(made: Any) -> Any:
    return made.base_dist if isinstance(made, distributions.Independent) else made


def _parameters(made: Any) -> Any:
    """Return the parameters of a distribution of torch; of anything else what it is."""
    _, names = _OBJECTS.get(type(base := _base(made)), ("", ()))
    if names:
        made = [getattr(base, name) for name in names]
    if isinstance(made, list | tuple):
        return made[0] if len(made) == 1 else tuple(made)
    return made


class _Called(nn.Module):
    """The user's module as a program: features and rasters → its outputs."""

    def __init__(self, declared: Declared, module: nn.Module) -> None:
        super().__init__()
        said: Any = declared.said
        source, space = declared.source, declared.observation
        if not said.get("method") and type(module).forward is nn.Module.forward:
            names = ", ".join(name for name, _ in module.named_children())
            raise ArtifactError(
                f"{source}: it has no method forward: say with --method what is called instead; "
                f"its parts are {names}"
            )
        self.module = module
        self.calls = [
            _part(source, "--method", module, name) for name in said.get("method") or [""]
        ]
        log_std = said.get("log_std")
        self.log_std = [] if log_std is None else [_part(source, "--log-std", module, log_std)]
        self.flat = said.get("fields") is not None or _is_vector(space)
        first = {one.path for one in leaves(space) if len(one.space.shape) == 3}
        scaled = {one.path for one in leaves(space) if _is_image(one.space)}
        for flag, paths in ("channels_first", first), ("scale_images", scaled):
            if not said.get(flag):
                paths.clear()
            elif not paths:
                name = f"--{flag.replace('_', '-')}"
                raise ArtifactError(f"{name}: an observation has no image for it: leave it away")
        self.observed = Observed(space, first, scaled)
        self.leaves = len(declared.state)
        if self.leaves:
            self._check_called(declared)
        called = nn.ModuleList(one for one in self.calls if isinstance(one, nn.Module))
        inside = called if len(called) == len(self.calls) else module
        memory = [
            part for part in inside.modules() if isinstance(part, nn.RNNBase | nn.RNNCellBase)
        ]
        if memory and not self.leaves:
            raise ArtifactError(
                f"{source}: it has a memory ({type(memory[0]).__name__}): let it take its state "
                "and return the next one, and declare that in --spec, like "
                "state: {h: {dtype: float32, shape: [1, 64]}}"
            )

    def _check_called(self, declared: Declared) -> None:
        """Raise ArtifactError where what is called can't take the state, or not in this order."""
        if len(self.calls) > 1:
            raise ArtifactError("--method: what takes a state must be one method: name that alone")
        (call,) = self.calls
        called = call.forward if isinstance(call, nn.Module) else call
        taken = inspect.signature(called).parameters.values()
        if all(one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD) for one in taken):
            names = [one.name for one in taken]
            states.check_order(declared.source, names, declared.state, 1)

    def forward(self, *inputs: Tensor) -> Any:
        made, state = self.made(*inputs)
        made = _parameters(made)
        if not state:
            return made
        return (*(made if isinstance(made, tuple) else (made,)), *state)

    def made(self, *inputs: Tensor) -> tuple[Any, list[Any]]:
        """Return what the user's module does, a distribution as it is, and the next state."""
        split = len(inputs) - self.leaves
        given = inputs[0] if self.flat else self.observed(*inputs[:split])
        made: Any = given
        for call in self.calls:
            given, made = made, call(made, *inputs[split:])
        after: list[Any] = []
        if self.leaves:  # which may be nested, as a layer of torch gives it
            flat = tree_leaves(made)
            made, after = flat[: -self.leaves], flat[-self.leaves :]
            made = made[0] if len(made) == 1 else made
        for one in self.log_std:
            found = one if isinstance(one, Tensor) else one(given)
            made = (made, found.exp().expand_as(made))
        return made, after


def _part(source: Path, flag: str, module: nn.Module, name: str) -> Any:
    """Return the module itself, or what a dotted name in it is."""
    found: Any = module
    for part in filter(None, name.split(".")):
        if not hasattr(found, part):
            names = [one for one, _ in module.named_children()]
            names += [one for one, _ in module.named_parameters(recurse=False)]
            raise ArtifactError(
                f"{flag} {name}: {source} has no {part}; it has {', '.join(names) or 'no parts'}"
            )
        found = getattr(found, part)
    if not (callable(found) or (flag == "--log-std" and isinstance(found, Tensor))):
        raise ArtifactError(f"{flag} {name}: a {type(found).__name__} can't be called")
    return found


def _is_vector(space: Space) -> bool:
    return isinstance(space, Box) and len(space.shape) == 1 and not Leaf((), space).raster


def _is_image(space: LeafSpace) -> bool:
    return isinstance(space, Box) and space.dtype == "uint8" and len(space.shape) in (2, 3)
