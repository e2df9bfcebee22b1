"""Policies and environments of classes of their own, in the style of what people train."""

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.distributions import Categorical, Normal
from torch.nn import functional

NUMBER = 3


class Road(gymnasium.Env[Any, Any]):
    """Six numbers → two numbers."""

    observation_space = spaces.Box(-1, 1, (6,), np.float32)
    action_space: Any = spaces.Box(-1, 1, (2,), np.float32)


class Lanes(Road):
    """Six numbers → one of three lanes, numbered from 1."""

    action_space = spaces.Discrete(3, start=1)


class Parts(Road):
    """Its action has parts, which no policy may have."""

    action_space = spaces.Dict(gear=spaces.Discrete(2))


class Camera(Road):
    """An image, a gear, lights and a speed → two choices."""

    observation_space = spaces.Dict(
        camera=spaces.Box(0, 255, (40, 40, 3), np.uint8),
        gear=spaces.Discrete(4, start=-1),
        lights=spaces.MultiBinary(2),
        speed=spaces.Box(0, 50, (), np.float32),
    )
    action_space = spaces.MultiDiscrete([3, 2])


def vector(env: Any) -> Any:
    return gymnasium.vector.SyncVectorEnv([env])


def agent(kind: Any, env: Any, seed: int | None = 0) -> Any:
    """Make an agent as CleanRL does, of a vector of environments."""
    if seed is not None:
        torch.manual_seed(seed)
    return kind(vector(env)).eval()


def layer_init(layer: Any, std: float = 2**0.5) -> Any:
    nn.init.orthogonal_(layer.weight, std)
    nn.init.constant_(layer.bias, 0.0)
    return layer


class ContinuousAgent(nn.Module):
    def __init__(self, envs: Any) -> None:
        super().__init__()
        inputs = int(np.array(envs.single_observation_space.shape).prod())
        actions = int(np.prod(envs.single_action_space.shape))
        self.critic = nn.Sequential(layer_init(nn.Linear(inputs, 8)), nn.Tanh(), nn.Linear(8, 1))
        self.actor_mean = nn.Sequential(
            layer_init(nn.Linear(inputs, 8)), nn.Tanh(), layer_init(nn.Linear(8, actions), 0.1)
        )
        self.actor_logstd = nn.Parameter(torch.zeros(1, actions))

    def get_action_and_value(self, x: Tensor, action: Any = None) -> Any:
        mean = self.actor_mean(x)
        probs = Normal(mean, torch.exp(self.actor_logstd.expand_as(mean)))
        action = probs.sample() if action is None else action
        return action, probs.log_prob(action).sum(1), probs.entropy().sum(1), self.critic(x)


class DiscreteAgent(nn.Module):
    def __init__(self, envs: Any) -> None:
        super().__init__()
        inputs = int(np.array(envs.single_observation_space.shape).prod())
        self.critic = nn.Sequential(layer_init(nn.Linear(inputs, 8)), nn.Tanh(), nn.Linear(8, 1))
        self.actor = nn.Sequential(
            layer_init(nn.Linear(inputs, 8)),
            nn.Tanh(),
            layer_init(nn.Linear(8, int(envs.single_action_space.n)), 1.0),
        )

    def act(self, x: Tensor) -> Tensor:
        return self.actor(x).argmax(dim=1)  # type: ignore[no-any-return]

    def get_action_and_value(self, x: Tensor, action: Any = None) -> Any:
        probs = Categorical(logits=self.actor(x))
        action = probs.sample() if action is None else action
        return action, probs.log_prob(action), probs.entropy(), self.critic(x)


class SacActor(nn.Module):
    action_scale: Tensor
    action_bias: Tensor

    def __init__(self, env: Any) -> None:
        super().__init__()
        self.fc1 = nn.Linear(int(np.prod(env.single_observation_space.shape)), 16)
        self.fc_mean = nn.Linear(16, int(np.prod(env.single_action_space.shape)))
        self.fc_logstd = nn.Linear(16, int(np.prod(env.single_action_space.shape)))
        high, low = env.action_space.high, env.action_space.low
        self.register_buffer("action_scale", torch.tensor((high - low) / 2.0))
        self.register_buffer("action_bias", torch.tensor((high + low) / 2.0))

    def forward(self, x: Tensor) -> Any:
        x = functional.relu(self.fc1(x))
        log_std = torch.tanh(self.fc_logstd(x))
        return self.fc_mean(x), -5 + 0.5 * (2 - -5) * (log_std + 1)


class Td3Actor(SacActor):
    def forward(self, x: Tensor) -> Any:
        x = torch.tanh(self.fc_mean(functional.relu(self.fc1(x))))
        return x * self.action_scale + self.action_bias


class QNetwork(nn.Module):
    def __init__(self, env: Any) -> None:
        super().__init__()
        inputs = int(np.array(env.single_observation_space.shape).prod())
        self.network = nn.Sequential(
            nn.Linear(inputs, 12), nn.ReLU(), nn.Linear(12, int(env.single_action_space.n))
        )

    def forward(self, x: Tensor) -> Any:
        return self.network(x)


class BetaPolicy(nn.Module):
    """As a repository's own PPO has it: a head whose concentrations are above 1."""

    def __init__(self, inputs: int, actions: int) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.policy_head = nn.Sequential(nn.Linear(inputs, 8), nn.ReLU())
        self.dist_mu, self.dist_sigma = nn.Linear(8, actions), nn.Linear(8, actions)

    def forward(self, x: Tensor) -> Any:
        latent = self.policy_head(x)
        alpha = functional.softplus(self.dist_mu(latent)) + 1
        return alpha, functional.softplus(self.dist_sigma(latent)) + 1


class Driver(nn.Module):
    """Camera (n, 3, 40, 40) from 0 to 1, gear, lights and speed → logits."""

    def __init__(self, action_space: Any) -> None:
        super().__init__()
        self.eye = nn.Sequential(nn.Conv2d(3, 4, 8, 4), nn.ReLU(), nn.Flatten())
        self.gears = nn.Embedding(4, 3)
        self.head = nn.Linear(4 * 9 * 9 + 3 + 2 + 1, int(action_space.nvec.sum()))

    def forward(self, observation: dict[str, Tensor]) -> Any:
        parts = [
            self.eye(observation["camera"]),
            self.gears(observation["gear"] + 1),
            observation["lights"].float(),
            observation["speed"].unsqueeze(1) / 50,
        ]
        return self.head(torch.cat(parts, dim=1))


class Distributed(nn.Module):
    """Gives a distribution of torch."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(inputs, 8), nn.Tanh())
        self.mean, self.log_std = nn.Linear(8, 2), nn.Parameter(torch.full((2,), -1.0))

    def distribution(self, latent: Tensor) -> Any:
        return torch.distributions.Independent(Normal(self.mean(latent), self.log_std.exp()), 1)


class Chained(nn.Module):
    """A body as wide as its input, and two heads on it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.body = nn.Sequential(nn.Linear(6, 6), nn.Tanh())
        self.mean, self.log_std = nn.Linear(6, 2), nn.Linear(6, 2)


class Betas(nn.Module):
    """Gives its features as alpha and beta."""

    def forward(self, x: Tensor) -> Any:
        return x[:, :2].clamp(min=0.01), x[:, 2:].clamp(min=0.01)


class Objects(nn.Module):
    """Gives a distribution of torch of the class `kind`."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = getattr(torch.distributions, kind)

    def forward(self, x: Tensor) -> Any:
        if self.kind in (Categorical, torch.distributions.Bernoulli):
            return self.kind(logits=x[:, :3])
        return self.kind(x[:, :2].exp(), x[:, 2:4].exp())


class Negative(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return x[:, :2], x[:, 2:]


class Branches(nn.Module):
    """Python decides by the numbers of an observation, of a kind that is rarely drawn."""

    def forward(self, x: Tensor) -> Any:
        if (x.abs() > 600).any():
            return x[:, :2] * 0
        return x[:, :2]


class Filled(Branches):
    """The numbers go through a tensor of its own, and numpy."""

    def forward(self, x: Tensor) -> Any:
        made = torch.zeros(len(x), 2)
        made[:, 0] = x[:, 0]
        return torch.from_numpy(np.tanh(made.numpy())) + x[:, :2]


class Sizes(nn.Module):
    """Python decides by sizes, by parameters, and in an assertion."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.layer = nn.Parameter(torch.ones(1)), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Any:
        assert not torch.isnan(x).any()
        if x.shape[0] > 9000 or x.size(1) != 4 or self.scale > 2 or len(x) == 9001:
            raise ValueError("too much")
        mean = self.layer(x.view(x.size(0), -1)) * int(x.shape[1]) + torch.zeros(x.shape[0], 2)
        return Normal(mean, torch.ones_like(mean))


class Threshold(nn.Module):
    """What a trace has: it computes one thing at a corner of the space, and another elsewhere."""

    def forward(self, x: Tensor) -> Any:
        end = (x.abs() > 0.999).all(dim=1, keepdim=True)
        return torch.where(end, x[:, :2] * 0, x[:, :2])


class Cornered(Threshold):
    """Not that: what is traced lacks what it computes elsewhere."""

    def forward(self, x: Tensor) -> Any:
        return x[:, :2] if torch.jit.is_tracing() else super().forward(x)


class Fussy(nn.Module):
    """Refuses some observations."""

    def forward(self, x: Tensor) -> Any:
        assert torch.jit.is_tracing() or bool(x.sum() <= 1), "out of road"
        return x[:, :2]


class Counting(nn.Module):
    """A normaliser that goes on counting when it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.register_buffer("count", torch.full((1,), 1e6))

    def forward(self, x: Tensor) -> Any:
        self.count.view(1)[0] += len(x)
        return self.layer(x / self.count)


class Noisy(nn.Module):
    """Drops in evaluation mode, too, as `functional.dropout` without `training` does."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 64)

    def forward(self, x: Tensor) -> Any:
        return functional.dropout(self.layer(x) + 1, 0.5)


class Memory(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 4)

    def forward(self, x: Tensor) -> Any:
        return self.lstm(x)


normal_object, beta_object = Objects("Normal"), Objects("Beta")
choice_object, bits_object = Objects("Categorical"), Objects("Bernoulli")
linear = nn.Linear(6, 2)
betas, negative, noisy = Betas(), Negative(), Noisy()
branches, fussy, filled, sizes = Branches(), Fussy(), Filled(), Sizes()
counting, threshold, cornered = Counting(), Threshold(), Cornered()


def Remembers() -> nn.Module:  # noqa: N802 # named as a class is
    return Memory()
