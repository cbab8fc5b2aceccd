"""`python -m ortgpt`."""

from ortgpt.cli.main import main

main()
