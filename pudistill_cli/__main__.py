"""`python -m pudistill_cli` is `pudistill`."""

from pudistill_cli.app import main

main()
