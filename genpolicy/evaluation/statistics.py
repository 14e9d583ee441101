"""Intervals for success rates and returns, for one policy and for two on the same seeds.

With z the normal quantile of the confidence and p the rate over n episodes, Wilson's interval is

    (p + z^2/2n -+ z sqrt(p (1 - p)/n + z^2/4n^2)) / (1 + z^2/n).                                (1)

The difference p - q of two rates on the same n seeds has Newcombe's interval

    p - q - sqrt((p - l_p)^2 - 2 phi (p - l_p)(u_q - q) + (u_q - q)^2)  to
    p - q + sqrt((u_p - p)^2 - 2 phi (u_p - p)(q - l_q) + (q - l_q)^2)                           (2)

where [l, u] are Wilson's intervals and phi is the correlation of the paired outcomes. Everything
else is a seeded bootstrap.

Source: (1) Wilson 1927; (2) Newcombe 1998, Statistics in Medicine 17:2635, method 10; stratified
bootstrap and interquartile mean: arXiv 2108.13264.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from genpolicy.errors import UsageError
from genpolicy.seeding import derive_seed

__all__ = [
    "Interval",
    "PairedDifference",
    "bootstrap_interval",
    "interquartile_mean",
    "paired_difference",
    "wilson_interval",
]

N_RESAMPLES = 9999
"""Resamples of every bootstrap; between seeds the ends then differ by about 2% of the width."""

Statistic = Literal["mean", "iqm"]
Values = Sequence[float] | Float[np.ndarray, " n"]


@dataclass(frozen=True)
class Interval:
    """A confidence interval.

    Args:
        low: lower end; NaN where the data cannot give one (a bootstrap of one episode).
        high: upper end, or NaN.
        confidence: nominal coverage in (0, 1).
        method: ``"wilson"``, ``"newcombe"``, ``"bootstrap BCa"`` or ``"bootstrap percentile"``.
    """

    low: float
    high: float
    confidence: float
    method: str

    @property
    def is_known(self) -> bool:
        """Whether the data gave an interval."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def to_json(self) -> dict[str, Any]:
        """Return plain containers; an unknown end is None."""
        return {
            "low": self.low if math.isfinite(self.low) else None,
            "high": self.high if math.isfinite(self.high) else None,
            "confidence": self.confidence,
            "method": self.method,
        }


def _checked(values: Values, confidence: float, *, who: str) -> Float[np.ndarray, " n"]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0 or not np.isfinite(array).all():
        raise UsageError(
            f"{who}: got values of shape {array.shape}, expected at least one finite number per "
            "episode in one dimension"
        )
    if not 0.0 < confidence < 1.0:
        raise UsageError(f"{who}: confidence is {confidence}, expected a number between 0 and 1")
    return array


def wilson_interval(n_successes: int, n: int, *, confidence: float = 0.95) -> Interval:
    """Return Wilson's interval (1) of a success rate.

    Args:
        n_successes: in 0..n.
        n: number of episodes, at least 1.
        confidence: nominal coverage in (0, 1).

    Raises:
        UsageError: for counts that contradict each other.
    """
    from scipy.stats import binomtest

    if not 0 <= n_successes <= n or n < 1 or not 0.0 < confidence < 1.0:
        raise UsageError(
            f"wilson_interval: got {n_successes} successes in {n} episodes at confidence "
            f"{confidence}; expected 0 <= successes <= n, n >= 1, confidence in (0, 1)"
        )
    test = binomtest(int(n_successes), int(n))
    found = test.proportion_ci(confidence_level=confidence, method="wilson")
    return Interval(float(found.low), float(found.high), confidence, "wilson")


def interquartile_mean(values: Values) -> float:
    """Return the mean of the middle half of ``values``: a quarter is cut off at each end.

    Source: arXiv 2108.13264, section 4.3.
    """
    from scipy.stats import trim_mean

    return float(trim_mean(_checked(values, 0.5, who="interquartile_mean"), 0.25))


def bootstrap_interval(
    values: Values, *, statistic: Statistic = "mean", confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Return a bootstrap interval of the mean or interquartile mean.

    Args:
        values: one finite number per episode.
        statistic: ``"mean"`` or ``"iqm"``.
        confidence: nominal coverage in (0, 1).
        seed: of the resampling; the same seed gives the same interval.

    Returns:
        The bias-corrected and accelerated interval; its percentile form where the acceleration is
        undefined; an unknown one for a single episode. Equal values give an interval of width 0:
        the bootstrap knows no more than the sample.

    Raises:
        UsageError: for no or non-finite values.
    """
    array = _checked(values, confidence, who="bootstrap_interval")
    if array.size < 2:
        return Interval(math.nan, math.nan, confidence, "bootstrap percentile")
    if np.ptp(array) == 0.0:
        return Interval(float(array[0]), float(array[0]), confidence, "bootstrap percentile")
    for method in ("BCa", "percentile"):
        low, high = _scipy_bootstrap(array, statistic, method, confidence, seed)
        if math.isfinite(low) and math.isfinite(high):
            return Interval(low, high, confidence, f"bootstrap {method}")
    raise UsageError("bootstrap_interval: values too large for a finite interval; rescale them")


def _scipy_bootstrap(
    array: Float[np.ndarray, " n"], statistic: Statistic, method: str, confidence: float, seed: int
) -> tuple[float, float]:
    import warnings

    from scipy.stats import bootstrap, trim_mean

    def reduce(sample: np.ndarray, axis: int = -1) -> Any:
        if statistic == "iqm":
            return trim_mean(sample, 0.25, axis=axis)
        return np.mean(sample, axis=axis)

    with warnings.catch_warnings():
        # scipy warns and answers NaN where BCa is undefined; the caller looks at the answer.
        warnings.simplefilter("ignore")
        found = bootstrap(
            (array,),
            reduce,
            n_resamples=N_RESAMPLES,
            confidence_level=confidence,
            method=method,
            vectorized=True,
            batch=1000,
            rng=np.random.default_rng(derive_seed(seed, "bootstrap")),
        ).confidence_interval
    return float(found.low), float(found.high)


@dataclass(frozen=True)
class PairedDifference:
    """``a - b`` on the seeds both have.

    Args:
        mean: mean difference.
        interval: of the mean difference.
        n: number of common seeds.
        n_better: seeds on which ``a`` is higher.
        n_worse: seeds on which ``a`` is lower.
    """

    mean: float
    interval: Interval
    n: int
    n_better: int
    n_worse: int


def paired_difference(
    a: Mapping[int, float],
    b: Mapping[int, float],
    *,
    is_rate: bool = False,
    confidence: float = 0.95,
    seed: int = 0,
) -> PairedDifference:
    """Compare two policies on the seeds that both were evaluated on.

    Args:
        a: value by episode seed.
        b: value by episode seed.
        is_rate: whether all values are 0 or 1; then the interval is (2), which does not collapse
            when the policies agree on every seed.
        confidence: nominal coverage in (0, 1).
        seed: of the bootstrap over seeds, used otherwise.

    Raises:
        UsageError: without a common seed, or for a rate with other values than 0 and 1.
    """
    common = sorted(set(a) & set(b))
    if not common:
        raise UsageError(
            f"paired_difference: {len(a)} and {len(b)} episodes have no seed in common; evaluate "
            "both on the same seeds"
        )
    first, second = (np.array([values[s] for s in common], dtype=np.float64) for values in (a, b))
    difference = _checked(first - second, confidence, who="paired_difference")
    if is_rate:
        interval = _newcombe_interval(first, second, confidence)
    else:
        interval = bootstrap_interval(difference, confidence=confidence, seed=seed)
    return PairedDifference(
        mean=float(difference.mean()),
        interval=interval,
        n=len(common),
        n_better=int((difference > 0).sum()),
        n_worse=int((difference < 0).sum()),
    )


def _newcombe_interval(
    a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"], confidence: float
) -> Interval:
    if not (np.isin(a, (0.0, 1.0)).all() and np.isin(b, (0.0, 1.0)).all()):
        raise UsageError("paired_difference: a rate needs values 0 and 1; pass is_rate=False")
    n = a.size
    both, only_a = float((a * b).sum()), float((a * (1 - b)).sum())
    only_b, neither = float((b * (1 - a)).sum()), float(((1 - a) * (1 - b)).sum())
    scale = math.sqrt((both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither))
    product = both * neither - only_a * only_b
    # A positive correlation narrows the interval, so it is taken half an episode smaller.
    product = max(product - n / 2.0, 0.0) if product > 0.0 else product
    phi = product / scale if scale > 0.0 else 0.0
    p, q = float(a.mean()), float(b.mean())
    of_p = wilson_interval(round(p * n), n, confidence=confidence)
    of_q = wilson_interval(round(q * n), n, confidence=confidence)

    def reach(x: float, y: float) -> float:
        return math.sqrt(max(x * x - 2.0 * phi * x * y + y * y, 0.0))

    low = p - q - reach(p - of_p.low, of_q.high - q)
    high = p - q + reach(of_p.high - p, q - of_q.low)
    return Interval(max(low, -1.0), min(high, 1.0), confidence, "newcombe")
