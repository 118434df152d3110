"""Makes the builders importable and gives each family's tiny model."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import builders


@pytest.fixture(params=list(builders.BUILDERS))
def family(request):
    """LVLM of each family in turn; built once and kept."""
    return builders.build(request.param)
