"""The settings in force, which follow the configuration file."""

from gateway.config.settings import Settings


class LiveSettings:
    """The settings in force. `now` is replaced as a whole, never changed in place."""

    __slots__ = ("now",)

    def __init__(self, settings: Settings) -> None:
        self.now = settings
