"""`python -m gateway`: serve with the settings that the environment gives."""

import sys

from gateway.config.settings import SettingsError, read_settings
from gateway.server import serve


def main() -> int:
    """Serve until a signal ends it; return 1 with a sentence on standard error if it can't."""
    try:
        serve(read_settings())
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
