"""Which devices programs are made for, and that they are written on the host."""

import pytest
import torch

from genpolicy.native import Unsupported
from genpolicy.ops import Backend
from genpolicy.policies import compiled
from tests.native.cases import needs_kernels, observations, policy, program_of

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def backend_with(monkeypatch, cuda):
    monkeypatch.setattr(compiled, "backend", lambda: Backend("compiled", "a test", cuda=cuda))


def test_the_cpu_needs_nothing_more(monkeypatch):
    backend_with(monkeypatch, ())
    compiled._check_devices({CPU})


def test_a_gpu_needs_kernels_for_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    backend_with(monkeypatch, ("sm_80",))
    compiled._check_devices({GPU})
    backend_with(monkeypatch, ())
    with pytest.raises(Unsupported, match=r"on a CUDA device, and .* without nvcc"):
        compiled._check_devices({GPU})
    backend_with(monkeypatch, ("sm_80",))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "an old one")
    with pytest.raises(Unsupported, match="an old one is older than the kernels"):
        compiled._check_devices({GPU})


def test_other_devices_and_several_are_sampled_in_torch(monkeypatch):
    backend_with(monkeypatch, ("sm_80",))
    with pytest.raises(Unsupported, match=r"on several devices .cpu, cuda:0."):
        compiled._check_devices({CPU, GPU})
    with pytest.raises(Unsupported, match="on a meta device"):
        compiled._check_devices({torch.device("meta")})


@needs_kernels
def test_a_program_is_written_from_a_copy_on_the_host():
    made = policy(network_options={"width": 16, "conditioning": "film"})
    found = program_of(made)
    copy = compiled._on_host(made)
    assert copy.compiled is None
    assert made.compiled is found
    theirs = {id(tensor) for tensor in (*copy.parameters(), *copy.buffers())}
    assert not theirs & {id(tensor) for tensor in (*made.parameters(), *made.buffers())}
    tensors = compiled.write_policy(copy, fields=compiled.fields_of(copy))
    for ours, again in zip(found.arguments[:4], tensors, strict=True):
        assert torch.equal(ours, again)
    assert compiled.write_policy(made, fields=compiled.fields_of(made))[0].device == CPU


@needs_kernels
def test_inputs_and_seeds_go_to_the_program_s_device(monkeypatch):
    made = policy(network_options={"width": 16})
    found = program_of(made)
    seen = []

    def run(inputs, seeds, code, plan, vectors, weights, chunk):
        seen.extend(tensor.device for tensor in (inputs, seeds, vectors))
        return vectors.new_empty(len(inputs), chunk)

    monkeypatch.setattr(compiled, "_run", run)
    vectors = found.arguments[2].to("meta")
    elsewhere = compiled.CompiledSampler(
        reason="",
        arguments=(*found.arguments[:2], vectors, *found.arguments[3:]),
        keys=found.keys,
        chunk=found.chunk,
        sampler=found.sampler,
        tracked=(),
    )
    assert elsewhere.sample(observations(made, 3), [1, 2, 2**64 - 1]).shape == (3, 4, 2)
    assert {device.type for device in seen} == {"meta"}
