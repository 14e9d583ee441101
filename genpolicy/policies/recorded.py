"""Work that a device records once and replays: CUDA graphs, with what changes in fixed places.

At small batches a loop of networks costs more to start, kernel by kernel, than to compute. A CUDA
graph starts all of it at once. What was recorded reads the inputs' places and the weights where
they were: it is only right as long as those stay, which ``CompiledSampler.is_current`` watches.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

__all__ = ["CudaRecorder", "Recorder", "Recordings"]

Run: TypeAlias = Callable[[Mapping[str, Tensor]], Tensor]
"""Computes a result from named inputs; host code in it runs only while it is recorded."""

_MOST = 8  # recordings that are kept: each holds the memory of a run


class Recorder(Protocol):
    """How a device records work."""

    def record(self, run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Return what repeats the work of ``run``, and the tensor that it writes.

        Raises:
            RuntimeError: where it cannot be recorded.
        """
        ...

    def order(self) -> None:
        """Let work that the caller queues next come behind all that was replayed so far."""
        ...


class CudaRecorder:
    """CUDA graphs on one device.

    Args:
        device: a CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._last: Any = None

    def record(self, run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Record ``run``; see ``Recorder.record``.

        It is run once before, on a stream of its own, so that libraries have chosen their kernels.
        """
        with torch.cuda.device(self.device):
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                run()
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            # Other threads may go on using the device meanwhile.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                out = run()
        return self._replay_of(graph), out

    def order(self) -> None:
        """Wait on the current stream for that of the last replay; see ``Recorder.order``."""
        current = torch.cuda.current_stream(self.device)
        if self._last is not None and self._last != current:
            current.wait_stream(self._last)
        self._last = current

    def _replay_of(self, graph: Any) -> Callable[[], None]:
        def replay() -> None:
            with torch.cuda.device(self.device):
                graph.replay()

        return replay


class _Recording:
    """One recorded run, with its inputs' places and its result's."""

    def __init__(self, recorder: Recorder, run: Run, given: Mapping[str, Tensor]) -> None:
        self.places = {name: value.clone() for name, value in given.items()}
        self.replay, self.out = recorder.record(lambda: run(self.places))

    def __call__(self, given: Mapping[str, Tensor]) -> Tensor:
        for name, place in self.places.items():
            place.copy_(given[name])
        self.replay()
        return self.out.clone()


class Recordings:
    """Records a run once for all inputs of the same shapes and types; those used last are kept.

    Args:
        recorder: how.

    Attributes:
        reason: why nothing can be recorded, so that runs are made as they are; empty if it can.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.reason = ""
        self._recorder = recorder
        self._kept: OrderedDict[tuple[Any, ...], _Recording] = OrderedDict()
        self._lock = threading.Lock()

    def __deepcopy__(self, memo: dict[int, Any]) -> Recordings:
        """Return none of the recordings: a copied policy has its weights elsewhere."""
        return Recordings(self._recorder)

    def __call__(self, given: Mapping[str, Tensor], run: Run) -> Tensor:
        """Return the result of a run.

        Args:
            given: inputs; they are copied.
            run: always the same work. It may not wait for the device or copy from the host.
        """
        if self.reason:
            return run(given)
        with self._lock:  # there is one place for each input
            self._recorder.order()
            key = tuple((name, value.shape, value.dtype) for name, value in given.items())
            found = self._kept.pop(key, None)
            if found is None:
                try:
                    found = _Recording(self._recorder, run, given)
                except RuntimeError as error:
                    self.reason = str(error).splitlines()[0]
                    self._kept.clear()
                    return run(given)
            self._kept[key] = found
            if len(self._kept) > _MOST:
                self._kept.popitem(last=False)
            return found(given)
