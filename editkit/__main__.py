"""`python -m editkit`."""

from editkit.cli import main

main()
