"""`python -m pudistill_cli` is `pudistill`."""

import os

try:
    from pudistill_cli.app import main
except KeyboardInterrupt:  # before any signal is answered
    os._exit(130)

if __name__ == "__main__":
    main()
