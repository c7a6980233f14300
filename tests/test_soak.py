"""A short form of soak.py."""

import pytest
import soak


@pytest.mark.long
@pytest.mark.slow
def test_twelve_faults():
  assert soak.soaked(faults=12, seed=1) == []
