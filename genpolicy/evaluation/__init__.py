"""Evaluation: rollouts on named seeds, records that can be resumed, figures with intervals.

Importing this package loads no simulator, no plotting library and no Lightning. ``callback``,
``plots``, ``report`` and ``video`` are imported by whoever uses them.
"""

from genpolicy.evaluation.identity import (
    CheckpointInfo,
    PolicyIdentity,
    describe_checkpoint,
    identify_policy,
)
from genpolicy.evaluation.latency import Latency, LatencyRow, measure_latency
from genpolicy.evaluation.ledger import LedgerContent, LedgerHeader, read_ledger
from genpolicy.evaluation.records import (
    EpisodeRecord,
    EvalResult,
    MetricSummary,
    compare_results,
    results_text,
)
from genpolicy.evaluation.rollout import Rollout, evaluate, replay
from genpolicy.evaluation.statistics import (
    Interval,
    PairedDifference,
    bootstrap_interval,
    interquartile_mean,
    paired_difference,
    stratified_interval,
    wilson_interval,
)
from genpolicy.evaluation.task import EvaluationTask, Slots

__all__ = [
    "CheckpointInfo",
    "EpisodeRecord",
    "EvalResult",
    "EvaluationTask",
    "Interval",
    "Latency",
    "LatencyRow",
    "LedgerContent",
    "LedgerHeader",
    "MetricSummary",
    "PairedDifference",
    "PolicyIdentity",
    "Rollout",
    "Slots",
    "bootstrap_interval",
    "compare_results",
    "describe_checkpoint",
    "evaluate",
    "identify_policy",
    "interquartile_mean",
    "measure_latency",
    "paired_difference",
    "read_ledger",
    "replay",
    "results_text",
    "stratified_interval",
    "wilson_interval",
]
