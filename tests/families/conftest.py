"""Gives each family's tiny model in turn.

The quick tier has those whose rules differ most; the others come with the whole suite.
"""

import builders
import pytest

QUICK = ("llava", "qwen2.5-vl", "gemma3n", "mllama")
FAMILIES = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
    for name in builders.BUILDERS
]


@pytest.fixture(params=FAMILIES)
def family(request):
    """LVLM of each family in turn; built once and kept."""
    return builders.build(request.param)
