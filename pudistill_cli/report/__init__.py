"""`report.html`: what a run found, in one file that needs no network and runs no script."""
