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
from genpolicy.evaluation.run_scores import TaskScores, stratified_interval, t_interval
from genpolicy.evaluation.run_statistics import (
    Estimate,
    Profile,
    aggregate,
    aggregates,
    crossed_difference,
    performance_profile,
    probability_of_improvement,
)
from genpolicy.evaluation.statistics import (
    Interval,
    PairedDifference,
    bootstrap_interval,
    interquartile_mean,
    paired_difference,
    wilson_interval,
)
from genpolicy.evaluation.task import EvaluationTask, Slots

__all__ = [
    "CheckpointInfo",
    "EpisodeRecord",
    "Estimate",
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
    "Profile",
    "Rollout",
    "Slots",
    "TaskScores",
    "aggregate",
    "aggregates",
    "bootstrap_interval",
    "compare_results",
    "crossed_difference",
    "describe_checkpoint",
    "evaluate",
    "identify_policy",
    "interquartile_mean",
    "measure_latency",
    "paired_difference",
    "performance_profile",
    "probability_of_improvement",
    "read_ledger",
    "replay",
    "results_text",
    "stratified_interval",
    "t_interval",
    "wilson_interval",
]
