"""Demonstrations: readers, windows, normalisation and batches.

Lightning's view of it is ``genpolicy.data.datamodule``, which is not imported here.
"""

from genpolicy.data.batches import BatchStream, Gatherable, OrderedBatches
from genpolicy.data.episodes import DataSource, Episodes
from genpolicy.data.normalizer import FieldStats, Normalizer
from genpolicy.data.windows import WindowBatch, WindowDataset, WindowIndex, check_window_sizes

__all__ = [
    "BatchStream",
    "DataSource",
    "Episodes",
    "FieldStats",
    "Gatherable",
    "Normalizer",
    "OrderedBatches",
    "WindowBatch",
    "WindowDataset",
    "WindowIndex",
    "check_window_sizes",
]
