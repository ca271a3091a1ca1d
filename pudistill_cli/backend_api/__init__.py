"""What a backend must be, how it is found, and what every backend shares."""
