"""`carlarl` and `python -m carlarl`."""

import sys


def main() -> None:
    """Run the command line. Ctrl-C shows no traceback, even while modules are still imported."""
    try:
        from carlarl.cli import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
