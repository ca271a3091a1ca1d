"""`python -m pudistill_cli` is `pudistill`."""

from pudistill_cli.app import main

if __name__ == "__main__":
    main()
