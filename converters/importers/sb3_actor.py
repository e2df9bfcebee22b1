"""The network of a Stable-Baselines3 policy that decides: features → what actions are made of."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from gymnasium import spaces
from stable_baselines3.common import distributions
from stable_baselines3.common.torch_layers import (
    CombinedExtractor,
    FlattenExtractor,
    MlpExtractor,
)
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN
from torch import Tensor, nn

from converters.artifact.card import Architecture
from converters.artifact.policy import ACTIVATIONS
from converters.importers import sb3_classes, sb3_spaces
from converters.importers.observed import Observed
from converters.importers.sb3_images import Images
from converters.importers.sb3_zip import SavedPolicy
from policy_spec.graph import features_width
from policy_spec.leaves import leaves
from policy_spec.signature import StateLeaf

Output = Literal["gaussian", "mean", "logits", "q_values"]


class Mask(nn.Module):
    """Logits and an action mask, each (n, choices) → logits without what is not allowed.

    A choice that the mask has 0 for gets -1e8, as in sb3-contrib: it is drawn only where no choice
    of its branch is allowed, and then all are alike. Of a MultiBinary, each bit has the choices 0
    and 1, and (n, bits) are returned.
    """

    least: Tensor

    def __init__(self, widths: Sequence[int], binary: bool, alone: bool) -> None:
        """Take the number of choices of each branch; `alone`: there are no features but masks."""
        super().__init__()
        self.widths, self.binary, self.alone = [int(width) for width in widths], binary, alone
        self.register_buffer("least", torch.tensor([-1e8]))

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Return the logits that are sampled."""
        masked = torch.where(mask == 0, self.least, logits)
        if self.binary:
            return masked[:, 1::2] - masked[:, 0::2]
        # The noise would be rounded away beside -1e8.
        branches = torch.split(masked, self.widths, dim=1)
        return torch.cat([one - one.amax(1, keepdim=True) for one in branches], dim=1)


class Memory(nn.Module):
    """An LSTM whose state has the rows first: latent, h and c → what the body takes, h and c."""

    def __init__(self, lstm: nn.LSTM) -> None:
        """Take the layers."""
        super().__init__()
        self.lstm = lstm
        shape = lstm.num_layers, lstm.hidden_size
        self.state = tuple(StateLeaf(name, "float32", shape) for name in ("h", "c"))

    def forward(self, latent: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Return the latent, (n, hidden), and the next state, each (n, layers, hidden)."""
        before = tuple(one.transpose(0, 1).contiguous() for one in state)
        made, after = self.lstm(latent[None], before)
        return made[0], *(one.transpose(0, 1) for one in after)


class Actor(nn.Module):
    """(n, features) and rasters → mean and standard deviation, a mean, logits or q-values.

    With a memory it takes its state behind the rasters, and gives the next one behind its outputs.

    Attributes:
        observed: what makes the extractor's input; None where the features are that.
        extractor: what makes the input of the body, or of the memory.
        memory: what is between the extractor and the body; None for a policy without memory.
        mask: what masks the logits; the action mask is the last features then. None without one.
        output: what `forward` returns. `gaussian`: mean and standard deviation, each (n, actions);
            with gSDE the marginal one. `mean`: (n, actions), as for TD3 and DDPG, which have no
            standard deviation. `logits`: (n, k), of a Discrete action, of all branches of a
            MultiDiscrete one after the other, or of each bit of a MultiBinary. `q_values`: (n, k).
        squash: how a Box action is made of mean and noise. `tanh`: to (-1, 1), and from there to
            its bounds. `clip`: to its bounds. None for other actions.
    """

    def __init__(
        self, body: nn.Module, head: nn.Module, output: Output, squash: str | None, std: nn.Module
    ) -> None:
        """Take the layers; `std` maps the body's output to the standard deviation."""
        super().__init__()
        self.observed: Observed | None = None
        self.extractor: nn.Module = nn.Identity()
        self.memory: Memory | None = None
        self.mask: Mask | None = None
        self.body, self.head, self.std = body, head, std
        self.output, self.squash = output, squash

    def forward(self, *inputs: Tensor) -> Any:
        """Return what `output` says."""
        if self.mask is not None:
            features, *seen = inputs
            begin = -sum(self.mask.widths)
            if not self.mask.alone:
                seen = [features[:, :begin], *seen]
            return self.mask(self._decide(*seen), features[:, begin:])
        return self._decide(*inputs)

    def _decide(self, *inputs: Tensor) -> Any:
        split = len(inputs) - len(self.state)
        seen, state = inputs[:split], inputs[split:]
        latent = self.extractor(seen[0] if self.observed is None else self.observed(*seen))
        if self.memory is not None:
            latent, *state = self.memory(latent, *state)
        latent = self.body(latent)
        made = (self.head(latent), *([self.std(latent)] if self.output == "gaussian" else []))
        return (*made, *state) if len(made) + len(state) > 1 else made[0]

    @property
    def state(self) -> tuple[StateLeaf, ...]:
        """The parts of its memory."""
        return () if self.memory is None else self.memory.state


class _Parameter(nn.Module):
    """A standard deviation that is the same everywhere."""

    log_std: Tensor

    def __init__(self, log_std: Tensor) -> None:
        super().__init__()
        self.register_buffer("log_std", log_std.detach().clone())

    def forward(self, latent: Tensor) -> Tensor:
        return self.log_std.exp().expand(latent.shape[0], -1)


class _Network(nn.Module):
    """A standard deviation of a head of its own."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, latent: Tensor) -> Tensor:
        log_std: Tensor = self.head(latent)
        return log_std.clamp(LOG_STD_MIN, LOG_STD_MAX).exp()


class _StateDependent(nn.Module):
    """The marginal standard deviation of gSDE."""

    variance: Tensor

    def __init__(self, distribution: Any, log_std: Tensor) -> None:
        super().__init__()
        self.register_buffer("variance", distribution.get_std(log_std.detach()) ** 2)
        self.epsilon = float(distribution.epsilon)

    def forward(self, latent: Tensor) -> Tensor:
        return torch.sqrt(latent**2 @ self.variance + self.epsilon)


def actor_of(saved: SavedPolicy, images: Images) -> Actor:
    """Return the deciding network of a policy. It can be traced, with any number of rows.

    Raises ValueError for a policy whose way to act is not the library's.
    """
    for built in (saved.policy, saved.network):
        sb3_classes.check_own(built)
    actor = _actor(saved)
    space = sb3_spaces.parsed(images.space)
    plain = type(saved.extractor) in (FlattenExtractor, CombinedExtractor)
    if images.orders or any(leaf.raster for leaf in leaves(space)) or not plain:
        first, scaled = (
            [leaf.path for leaf in leaves(space) if sb3_spaces.key(leaf) in keys]
            for keys in (images.transposed, images.scaled)
        )
        actor.observed = Observed(space, first, scaled, coded=True)
        actor.extractor = saved.extractor
    if saved.algorithm == "RecurrentPPO":
        actor.memory = Memory(saved.network.lstm_actor)
    if saved.algorithm == "MaskablePPO":
        binary = isinstance(saved.action_space, spaces.MultiBinary)
        action: Any = saved.action_space
        widths = [2] * action.n if binary else sb3_spaces.blocks(action)
        actor.mask = Mask(widths, binary, alone=not features_width(space))
    return actor.eval().requires_grad_(False)


def _actor(saved: SavedPolicy) -> Actor:
    net = saved.network
    box = isinstance(saved.action_space, spaces.Box)
    if saved.algorithm in ("DQN", "QRDQN"):
        layers = net.q_net if saved.algorithm == "DQN" else _mean(net)
        return Actor(nn.Identity(), layers, "q_values", None, nn.Identity())
    if saved.algorithm in ("TD3", "DDPG"):
        return Actor(net.mu[:-2], net.mu[-2], "mean", "tanh", nn.Identity())
    if saved.algorithm == "ARS":
        layers = net.action_net[:-1] if net.squash_output else net.action_net
        squash = "tanh" if net.squash_output else "clip"
        output: Output = "mean" if box else "q_values"
        return Actor(nn.Identity(), layers, output, squash if box else None, nn.Identity())
    if saved.algorithm in ("SAC", "TQC", "CrossQ"):
        return Actor(net.latent_pi, net.mu, "gaussian", "tanh", _std(net))
    body = net.mlp_extractor
    body = body.policy_net if type(body) is MlpExtractor else _Latent(body)
    if not box:
        return Actor(body, net.action_net, "logits", None, nn.Identity())
    squash = "tanh" if net.squash_output else "clip"
    return Actor(body, net.action_net, "gaussian", squash, _std(net))


class _Latent(nn.Module):
    """The actor's half of a network of the user's own in the place of an `MlpExtractor`."""

    def __init__(self, extractor: Any) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, features: Tensor) -> Tensor:
        latent: Tensor = self.extractor.forward_actor(features)
        return latent


def _mean(net: Any) -> nn.Sequential:
    """Return the layers of a network of quantiles, the last of which gives their mean."""
    *hidden, last = net.quantile_net
    mean = nn.Linear(last.in_features, last.out_features // net.n_quantiles)
    for name in ("weight", "bias"):
        rows = getattr(last, name).double()
        of_quantiles = rows.reshape(net.n_quantiles, -1, *rows.shape[1:])
        setattr(mean, name, nn.Parameter(of_quantiles.mean(0).float()))
    return nn.Sequential(*hidden, mean)


def _std(policy: Any) -> nn.Module:
    if isinstance(policy.action_dist, distributions.StateDependentNoiseDistribution):
        return _StateDependent(policy.action_dist, policy.log_std)
    if isinstance(policy.log_std, nn.Module):
        return _Network(policy.log_std)
    return _Parameter(policy.log_std)


def perceptron(actor: Actor) -> tuple[Architecture, str, dict[str, Tensor]] | None:
    """Return the architecture, the kind of standard deviation, and the weights under our names.

    Returns None for a network that is no plain perceptron of an activation of `ACTIVATIONS`.
    """
    if any(part is not None for part in (actor.observed, actor.mask, actor.memory)):
        return None
    *hidden, head = [*_layers(actor.body), *_layers(actor.head)]
    linears, between = hidden[::2], hidden[1::2]
    plain = len(linears) == len(between) and all(
        type(layer) is nn.Linear and layer.bias is not None for layer in (*linears, head)
    )
    if isinstance(actor.std, _Network):  # its weights go through the same plain layer
        plain = plain and type(actor.std.head) is nn.Linear and actor.std.head.bias is not None
    used = {(type(layer), repr(layer)) for layer in between}
    names = [name for name, kind in ACTIVATIONS.items() if used <= {(kind, repr(kind()))}]
    if not plain or not names or isinstance(actor.std, _StateDependent):
        return None
    state = {
        f"body.{2 * index}.{key}": value
        for index, layer in enumerate(linears)
        for key, value in layer.state_dict().items()
    }
    box = actor.squash is not None
    name = "mean" if box else "logits"
    state |= {f"{name}.{key}": value for key, value in head.state_dict().items()}
    std = "none"
    if isinstance(actor.std, _Parameter):
        std, state["log_std"] = "parameter", actor.std.log_std
    elif isinstance(actor.std, _Network):
        std = "network"
        state |= {f"log_std.{key}": value for key, value in actor.std.head.state_dict().items()}
    widths = [layer.out_features for layer in linears]
    return Architecture(hidden=widths, activation=names[0]), std, state


def _layers(module: nn.Module) -> list[Any]:
    if isinstance(module, nn.Sequential):
        return list(module)
    return [] if type(module) is nn.Identity else [module]
