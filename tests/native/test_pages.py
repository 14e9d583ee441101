"""Weights of programs on large pages."""

import copy

import pytest
import torch

from genpolicy.native import pages
from genpolicy.native.pages import PAGE, on_large_pages


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_large_tensor_is_copied_to_the_start_of_a_page(dtype):
    given = torch.randn(3, PAGE // 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = on_large_pages(given)
    assert torch.equal(found, given)
    assert found.dtype == dtype
    assert found.is_contiguous()
    assert found.data_ptr() % PAGE == 0
    assert found.data_ptr() != given.data_ptr()
    assert torch.equal(copy.deepcopy(found), given)


def test_a_small_tensor_stays_where_it_is():
    given = torch.zeros(PAGE // 4 - 1)
    assert on_large_pages(given) is given


def test_without_large_pages_a_tensor_stays_where_it_is(monkeypatch):
    given = torch.zeros(PAGE)
    monkeypatch.delattr(pages.mmap, "MADV_HUGEPAGE")
    assert on_large_pages(given) is given


def test_a_kernel_that_refuses_them_does_no_harm(monkeypatch):
    class Refusing:
        def __init__(self, *_, **__):
            pass

        def madvise(self, _):
            raise OSError(22, "Invalid argument")

    given = torch.zeros(PAGE)
    monkeypatch.setattr(pages.mmap, "mmap", Refusing)
    assert on_large_pages(given) is given


def test_memory_outlives_its_first_name():
    views = [on_large_pages(torch.full((PAGE,), float(k)))[:: PAGE // 4] for k in range(8)]
    assert [float(view.max()) for view in views] == [float(k) for k in range(8)]
    assert [float(view.min()) for view in views] == [float(k) for k in range(8)]
