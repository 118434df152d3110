"""The page's handlers on the tiny model, and one analysed picture."""

import pytest
from updates import LINK, last, settings

from svl_core.ui.handlers import Desk
from svl_core.service.stores import Models


@pytest.fixture
def desk(tiny):
    return Desk(Models(tiny), frozenset())


@pytest.fixture
def path(image, tmp_path):
    image.save(tmp_path / "image.png")
    return str(tmp_path / "image.png")


@pytest.fixture
def analysed(desk, path):
    return last(
        desk.analyse(
            desk.models.first, path, "what is in the top left?", None, None, *LINK, *settings()
        )
    )
