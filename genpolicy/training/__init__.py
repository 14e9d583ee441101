"""Training runs: the run folder, exact resume, averaging, saving, evaluation while training."""

from genpolicy.training.fit import resume, train

__all__ = ["resume", "train"]
