"""The network of a Stable-Baselines3 policy that decides: features → what actions are made of.

`sb3_spaces.leaves` says where each part of an observation is among the features, and which are
rasters instead.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from gymnasium import spaces
from stable_baselines3.common import distributions
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN
from torch import Tensor, nn

from converters.artifact.card import Architecture
from converters.artifact.policy import ACTIVATIONS
from converters.importers import sb3_spaces
from converters.importers.sb3_images import Images
from converters.importers.sb3_spaces import Leaf
from converters.importers.sb3_zip import SavedPolicy

Output = Literal["gaussian", "mean", "logits", "q_values"]


class Extractor(nn.Module):
    """(n, features) and rasters → all that a body takes, of images what their network makes.

    Without features the rasters come alone. Rasters are in the layout and the type of the card.
    """

    most: Tensor

    def __init__(self, parts: Sequence[Leaf], images: Images) -> None:
        """Take the networks of the images."""
        super().__init__()
        self.parts, self.images = parts, images
        self.networks = nn.ModuleList(images.networks[leaf.key] for leaf in parts)
        self.register_buffer("most", torch.tensor(255.0))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return what the body takes."""
        waiting = list(inputs)
        features = waiting.pop(0) if any(leaf.width for leaf in self.parts) else None
        made = []
        for leaf, network in zip(self.parts, self.networks, strict=True):
            if features is None or leaf.raster:
                part = waiting.pop(0).type_as(self.most)  # the type in which the policy computes
            else:
                part = features[:, leaf.first : leaf.first + leaf.width]
            if leaf.key in self.images.orders:
                part = part.reshape(-1, *leaf.shape)
            if leaf.key in self.images.transposed:
                part = part.permute(0, 3, 1, 2)
            if leaf.key in self.images.scaled:
                part = part / self.most
            made.append(network(part))
        return torch.cat(made, dim=1)


class Actor(nn.Module):
    """(n, features) and rasters → mean and standard deviation, a mean, logits or q-values.

    Attributes:
        extract: what makes the body's input; None where the features are that.
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
        self.extract: Extractor | None = None
        self.body, self.head, self.std = body, head, std
        self.output, self.squash = output, squash

    def forward(self, *inputs: Tensor) -> Any:
        """Return what `output` says."""
        latent = self.body(inputs[0] if self.extract is None else self.extract(*inputs))
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


def actor_of(saved: SavedPolicy, images: Images) -> Actor:
    """Return the deciding network of a policy. It can be traced, with any number of rows."""
    actor = _actor(saved)
    parts = sb3_spaces.leaves(images.space)
    if images.orders or any(leaf.raster for leaf in parts):
        actor.extract = Extractor(parts, images)
    return actor.eval().requires_grad_(False)


def _actor(saved: SavedPolicy) -> Actor:
    policy = saved.policy
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
    if actor.extract is not None:
        return None
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
