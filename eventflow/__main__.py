"""`python -m eventflow` is `eventflow`."""

from eventflow.cli import main

main()
