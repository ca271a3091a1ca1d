"""`python -m pudistill_cli` is `pudistill`."""

import os
import sys

# Python puts the working folder before all else here: what lies beside somebody's recipe is none of our modules.
if os.path.realpath(sys.path[0]) == os.getcwd() != os.path.dirname(os.path.dirname(os.path.realpath(__file__))):
    del sys.path[0]

try:
    from pudistill_cli.app import main
except KeyboardInterrupt:  # before any signal is answered
    os._exit(130)

if __name__ == "__main__":
    main()
