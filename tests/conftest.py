"""What all tests share: the marker of slow tests and one thread for tiny tensors."""

import pytest
import torch


def pytest_configure(config):
    """Name the marker of tests that take longer than half a minute."""
    config.addinivalue_line(
        "markers", "slow: takes longer than 30 seconds; leave out with -m 'not slow'"
    )


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Tiny tensors are slower on many threads, and sums depend on their number."""
    torch.set_num_threads(1)
