"""The images of a Stable-Baselines3 policy: which parts they are, and how callers send them.

A network has the channels first. Stable-Baselines3 transposes an environment's images that have the
channels last (`VecTransposeImage`), and saves the space as the policy sees it.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from gymnasium import spaces
from stable_baselines3.common import torch_layers
from stable_baselines3.common.preprocessing import is_image_space

from converters.importers import sb3_spaces
from converters.importers.sb3_spaces import Space
from converters.importers.sb3_zip import SavedPolicy

Layout = Literal["hwc", "chw"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

_ORDERS: dict[Layout, str] = {
    "hwc": "height, width, channels",
    "chw": "channels, height, width",
}


@dataclass(frozen=True)
class Images:
    """What an observation's parts are to the deciding network, each by its key.

    Attributes:
        space: the observation's, with its images as callers send them.
        orders: for each image the order of its dimensions, for a person.
        transposed: images that the network has in another order: with the channels first.
        scaled: images whose values the policy divides by 255.
    """

    space: Space
    orders: dict[str | None, str]
    transposed: frozenset[str | None]
    scaled: frozenset[str | None]


def find(
    saved: SavedPolicy, layout: Layout | None, tell: Callable[[str], None], frames: int = 1
) -> Images:
    """Find the images of a policy. `layout` is how callers send them, None if the user left it.

    They are stacks of so many `frames`. Tells what the zip does not tell. Raises ValueError for a
    `layout` where there is no image.
    """
    parts = dict(sb3_spaces.parts(saved.observation_space))
    orders: dict[str | None, str] = {}
    transposed, scaled = set(), set()
    for key, part in parts.items():
        network = saved.extractor
        if isinstance(network, torch_layers.CombinedExtractor):
            network = dict(network.extractors.items()).get(str(key), network)
        cnn = isinstance(network, torch_layers.NatureCNN)
        if not (is_image_space(part) or cnn):
            continue
        assert isinstance(part, spaces.Box)
        taken = layout or _layout(saved, key, part, tell)
        orders[key] = _ORDERS[taken]
        if is_image_space(part) and saved.policy.normalize_images:
            scaled.add(key)
        channels = part.shape[0]
        if taken == "hwc" and (cnn or channels_first(part.shape)):
            transposed.add(key)
            low, high = (np.moveaxis(side, 0, -1) for side in (part.low, part.high))
            parts[key] = spaces.Box(low, high, dtype=part.dtype.type)
        elif taken == "hwc":
            channels = part.shape[-1]
        if channels > frames:
            which = "colours (RGB or BGR)"
            if frames == 1:
                which += (
                    ", or stacked frames: if it was VecFrameStack that stacked N of them, say "
                    "--frame-stack N, else each observation must bring all, in the environment's "
                    "order"
                )
            tell(
                f"{sb3_spaces.named(key)} has {channels // frames} channels, and the file does not "
                f"tell which: {which}"
            )
    if layout is not None and not orders:
        raise ValueError("--image-layout: its observation has no image: leave it away")
    space = parts[None] if None in parts else spaces.Dict(ordered(parts))
    return Images(space, orders, frozenset(transposed), frozenset(scaled))


def ordered(parts: Mapping[str | None, Space]) -> OrderedDict[str, Space]:
    """Return the parts of a Dict in their order: Gymnasium sorts those of a plain dict."""
    return OrderedDict((str(key), part) for key, part in parts.items())


def channels_first(shape: tuple[int, ...]) -> bool:
    """Whether Stable-Baselines3 takes a shape for an image with the channels first."""
    return int(np.argmin(shape)) == 0


def _layout(
    saved: SavedPolicy, key: str | None, part: spaces.Box, tell: Callable[[str], None]
) -> Layout:
    """Return the layout that the environment has, as far as the zip tells; say so where not."""
    if not is_image_space(part):  # which is never transposed
        return "chw"
    if not channels_first(part.shape):  # which was to stay as it is
        return "hwc"
    last = (*part.shape[1:], part.shape[0])
    if channels_first(last):  # which would not have been transposed
        return "chw"
    original = saved.last_original
    seen = original.get(key) if isinstance(original, dict) else original
    if seen is not None and seen.shape[1:] == last != part.shape:
        return "hwc"
    first, sent = (" × ".join(map(str, shape)) for shape in (part.shape, last))
    tell(
        f"{sb3_spaces.named(key)} is taken as {sent}, the channels last, which "
        f"Stable-Baselines3 transposes to the {first} that the policy has; if the environment "
        f"itself has {first}, say --image-layout chw"
    )
    return "hwc"
