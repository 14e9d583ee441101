"""Tables of evaluations for a report; ``page`` has the blocks they are shown with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from genpolicy.errors import UsageError
from genpolicy.evaluation.latency import Latency
from genpolicy.evaluation.page import (
    Facts,
    Figure,
    Table,
)
from genpolicy.evaluation.records import (
    EvalResult,
    compare_results,
    format_interval,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

    from genpolicy.evaluation.plot_style import Theme

__all__ = [
    "comparison_table",
    "differences_table",
    "drawn",
    "flatten_config",
    "latency_table",
    "result_facts",
    "results_table",
]


def drawn(draw: Callable[[Theme], MatplotlibFigure], alt: str, caption: str = "") -> Figure:
    """Return a block with a picture drawn for light and for dark pages.

    Args:
        draw: makes the figure with a given theme.
        alt: what it shows.
        caption: text below it.
    """
    from genpolicy.evaluation.plot_style import light_and_dark

    light, dark = light_and_dark(draw)
    return Figure(png=light, dark_png=dark, alt=alt, caption=caption)


def results_table(
    results: Mapping[str, EvalResult], *, metrics: Sequence[str] = (), caption: str = ""
) -> Table:
    """Return a table of results: mean and 95% interval of each metric, n and seeds.

    Args:
        results: by label.
        metrics: what to show; empty for the primary metric and the rates of each task.
        caption: of the table.
    """
    names = list(metrics) or list(
        dict.fromkeys(m for r in results.values() for m in (r.primary, *r.rates))
    )
    columns = ["policy"]
    for name in names:
        columns += [name, "95% interval"]
    rows = []
    for label, result in results.items():
        row: list[str | float | int] = [label]
        for name in names:
            is_measured = name in result.metric_names
            row.append(result.mean(name) if is_measured else "-")
            row.append(format_interval(result.interval(name)) if is_measured else "-")
        failed = sum(result.tags.values())
        rows.append([*row, len(result.records), f"{result.clipped_share:.1%}", failed])
    return Table([*columns, "n", "clipped", "failed"], rows, caption)


def result_facts(result: EvalResult) -> Facts:
    """Return what a result has to be quoted with: seeds, policy, checkpoint, protocol, versions."""
    return Facts({"task": result.task, **result.facts()})


def comparison_table(
    results: Mapping[str, EvalResult], baseline: str, *, metric: str | None = None
) -> Table:
    """Return differences to one of the results on the seeds both have.

    Args:
        results: by label, of one task.
        baseline: label of the result that the others are compared with.
        metric: None for the primary one.

    Raises:
        UsageError: for an unknown baseline, or results that cannot be compared.
    """
    if baseline not in results:
        raise UsageError(f"comparison_table: no result {baseline!r} among {sorted(results)}")
    name = results[baseline].primary if metric is None else metric
    rows: list[list[str | float | int]] = []
    for label, result in results.items():
        if label != baseline:
            found = compare_results(result, results[baseline], metric=name)
            interval = format_interval(found.interval)
            rows.append([label, found.mean, interval, found.n_better, found.n_worse, found.n])
    caption = f"Difference in {name} to {baseline}, paired by episode seed"
    columns = ["policy", "difference", "95% interval", "seeds better", "seeds worse", "n"]
    return Table(columns, rows, caption)


def latency_table(latencies: Mapping[str, Latency]) -> Table:
    """Return timings in milliseconds, by policy and batch size."""
    rows = [
        [label, row.batch, *(1000 * t for t in times), latency.n_threads, latency.device]
        for label, latency in latencies.items()
        for row in latency.rows
        for times in [(row.chunk_median_s, row.chunk_p90_s, row.action_median_s, row.action_p90_s)]
    ]
    columns = ["policy", "batch", "chunk ms", "p90", "executed action ms", "p90"]
    return Table([*columns, "threads", "device"], rows, "Median and 90% of repeated calls")


def differences_table(configs: Mapping[str, Mapping[str, Any]], *, caption: str = "") -> Table:
    """Return the entries in which configurations differ, by dotted key.

    Args:
        configs: nested containers by label.
        caption: of the table.
    """
    flat = {label: flatten_config(config) for label, config in configs.items()}
    keys = list(dict.fromkeys(key for entries in flat.values() for key in entries))
    rows: list[list[str]] = []
    for key in keys:
        values = [entries.get(key, "-") for entries in flat.values()]
        if len(set(values)) > 1:
            rows.append([key, *values])
    same = f"{len(keys) - len(rows)} further entries are equal."
    return Table(["setting", *configs], rows, f"{caption} {same}".strip())


def flatten_config(config: Any, prefix: str = "") -> dict[str, str]:
    """Return the entries of nested containers as texts by dotted key."""
    if isinstance(config, Mapping) and config:
        found: dict[str, str] = {}
        for key, value in config.items():
            found |= flatten_config(value, f"{prefix}.{key}" if prefix else str(key))
        return found
    return {prefix: str(config)}
