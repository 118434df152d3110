"""The page's handlers on the tiny model, and one analysed picture."""

import pytest
from updates import LINK, last, page_of

from svl_core.ui.state.settings import Settings
from svl_core.ui.work.analysing import analyse


@pytest.fixture
def page(tiny):
    return page_of(tiny)


@pytest.fixture
def path(image, tmp_path):
    image.save(tmp_path / "image.png")
    return str(tmp_path / "image.png")


@pytest.fixture
def analysed(page, path):
    first = page.workspace.models.first
    asked = "what is in the top left?"
    return last(analyse(page, first, path, asked, None, None, *LINK, Settings()))
