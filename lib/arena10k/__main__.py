"""`python -m arena10k` is the `arena10k` command."""

from arena10k.cli import main

main()
