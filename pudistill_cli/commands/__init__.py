"""One file a command, thin: read the options, call the core, print the result."""
