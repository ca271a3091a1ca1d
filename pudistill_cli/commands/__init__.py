"""One file a command, thin: read the options, call the core, print the result.

The core is imported inside the functions: `--help` needs none of it, and it takes most of a second to load.
"""
