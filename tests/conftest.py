"""What all tests share: one thread for tiny tensors."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Tiny tensors are slower on many threads, and sums depend on their number."""
    torch.set_num_threads(1)
