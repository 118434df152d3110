"""What handlers take and give: the controls' values, and updates put together."""

from svl_core.ui.state.settings import Settings

LINK = ("", None)  # origin of the image, layers that a link asks for


def settings(**changes):
    return tuple(vars(Settings(**changes)).values())


def last(updates):
    """All updates of a generator, later ones over earlier ones."""
    out = {}
    for update in updates:
        out |= update
    return out
