"""Gives each family's tiny model in turn."""

import builders
import pytest


@pytest.fixture(params=list(builders.BUILDERS))
def family(request):
    """LVLM of each family in turn; built once and kept."""
    return builders.build(request.param)
