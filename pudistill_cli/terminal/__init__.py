"""What a person sees and how a person stops it: the console, progress, text made visible, streams, signals."""
