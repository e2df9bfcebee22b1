"""The settings in force, which follow the configuration file."""

from gateway.config.settings import Settings


class LiveSettings:
    """The one place where parts read what may change while the gateway serves."""

    __slots__ = ("now",)

    def __init__(self, settings: Settings) -> None:
        """Begin with those settings; `now` is replaced as a whole, never changed."""
        self.now = settings
