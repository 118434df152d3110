"""A workspace over the tiny model, and a picture in a file."""

import pytest

from svl_core.service.limits import HOME
from svl_core.service.stores import Models
from svl_core.service.workspace import Workspace


@pytest.fixture
def workspace(tiny, tmp_path):
    return Workspace(Models(tiny), frozenset(), HOME, lambda: tmp_path)


@pytest.fixture
def path(image, tmp_path):
    image.save(tmp_path / "image.png")
    return str(tmp_path / "image.png")
