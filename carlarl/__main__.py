"""`python -m carlarl`, the same as `carlarl`."""

from carlarl.cli import main

main()
