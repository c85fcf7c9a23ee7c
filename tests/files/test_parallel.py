"""Work in several processes gives what one gives, in order, and stops at an error."""

import os

import pytest

from sigmel.files.parallel import parallel_map, usable_cpus


def power(context, item):
    return item**context


def fail_at(context, item):
    if item == context:
        raise OSError(28, "full")
    return item


@pytest.mark.parametrize("workers", [1, 2, None])
def test_order_is_kept(workers):
    assert list(parallel_map(power, 2, range(100), workers)) == [number**2 for number in range(100)]


def test_no_items():
    assert list(parallel_map(power, 2, [])) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_error_reaches_the_caller(workers):
    with pytest.raises(OSError, match="full") as caught:
        list(parallel_map(fail_at, 30, range(100), workers))
    assert caught.value.errno == 28


def test_usable_cpus():
    assert 1 <= usable_cpus() <= (os.cpu_count() or 1)
