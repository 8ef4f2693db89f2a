"""The whole contract, for each kind of option value: see plugins/README.md of Sigmalab."""

import pytest
from sigmalab_ralston import ralston

from samplers.testing import checks


@pytest.mark.parametrize("check", checks(ralston) + checks(ralston, {"node": 0.5}), ids=str)
def test_contract(check):
    check()
