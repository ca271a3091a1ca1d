"""The steps of the loop, one file each; every step skips what the ledger says is done."""
