"""`carlarl` and `python -m carlarl`."""

import os
import sys

GENTLE = ("export", "load", "promote", "remove", "rollback", "unload")
"""Commands beside a service on this machine: it goes first, also while they are imported."""


def main() -> None:
    """Run the command line. Ctrl-C shows no traceback, even while modules are still imported."""
    if sys.argv[1:2] and sys.argv[1] in GENTLE:
        os.nice(10)
    try:
        from carlarl.cli import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
