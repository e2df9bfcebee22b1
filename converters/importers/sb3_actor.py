"""The network of a Stable-Baselines3 policy that decides: flat features → what actions are made of.

`sb3_spaces.leaves` says where each part of an observation is among the features.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from gymnasium import spaces
from stable_baselines3.common import distributions, torch_layers
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN
from torch import Tensor, nn

from converters.artifact.card import Architecture
from converters.artifact.policy import ACTIVATIONS
from converters.importers import sb3_spaces
from converters.importers.sb3_zip import SavedPolicy

Output = Literal["gaussian", "mean", "logits", "q_values"]


class Actor(nn.Module):
    """(n, features) → mean and standard deviation, a mean, logits or q-values.

    Attributes:
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
        self.body, self.head, self.std = body, head, std
        self.output, self.squash = output, squash

    def forward(self, features: Tensor) -> Any:
        """Return what `output` says."""
        latent = self.body(features)
        if self.output == "gaussian":
            return self.head(latent), self.std(latent)
        return self.head(latent)


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


def actor_of(saved: SavedPolicy) -> Actor:
    """Return the deciding network of a policy. It can be traced, with any number of rows.

    Raises ValueError for observations with images, and for a features extractor with layers.
    """
    policy = saved.policy
    sb3_spaces.leaves(saved.observation_space)  # which refuses images
    extractor = policy.features_extractor_class
    if extractor not in (torch_layers.FlattenExtractor, torch_layers.CombinedExtractor):
        raise ValueError(
            f"its features extractor is {extractor.__name__}: it can't be imported yet"
        )
    if saved.algorithm == "DQN":
        return Actor(nn.Identity(), policy.q_net.q_net, "q_values", None, nn.Identity())
    if saved.algorithm in ("TD3", "DDPG"):
        layers = policy.actor.mu
        return Actor(layers[:-2], layers[-2], "mean", "tanh", nn.Identity())
    if saved.algorithm == "SAC":
        actor = policy.actor
        return Actor(actor.latent_pi, actor.mu, "gaussian", "tanh", _std(actor))
    body, head = policy.mlp_extractor.policy_net, policy.action_net
    if not isinstance(saved.action_space, spaces.Box):
        return Actor(body, head, "logits", None, nn.Identity())
    squash = "tanh" if policy.squash_output else "clip"
    return Actor(body, head, "gaussian", squash, _std(policy))


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
    *hidden, head = [*_layers(actor.body), *_layers(actor.head)]
    linears, between = hidden[::2], hidden[1::2]
    plain = len(linears) == len(between) and all(
        type(layer) is nn.Linear for layer in (*linears, head)
    )
    used = {repr(layer) for layer in between}
    names = [name for name, kind in ACTIVATIONS.items() if used <= {repr(kind())}]
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
