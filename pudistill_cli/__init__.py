"""pudistill: positive-unlabeled RL distillation of small language models, on the machine at hand."""

__version__ = "0.1.0"
