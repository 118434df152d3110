"""Results that the page derives from a stored analysis are never stale."""

from updates import LINK, last, settings

from svl_core.service.stores import Models
from svl_core.ui.handlers import Desk

CHANGES = [
    {"top_p": 0.2},
    {"top_p": 0.2, "mode": "mass"},
    {"causal_correction": True},
    {"text_self": "given"},
    {"token_set": "last"},
    {"protect_ends": False},
    {"criterion": "shortgpt"},
    {"criterion": "angular"},
    {"all_layers": False, "layer": 3},
]


def test_what_is_kept_is_never_stale(tiny, path):
    """Settings changed one after another give what each gives on a server that has seen nothing
    yet.
    """

    def shown(desk, change):
        out = last(desk.select(state, strip, None, *settings(**change)))
        return {
            name: out[name]
            for name in (
                "overlay",
                "tokens",
                "plot-redundancy",
                "plot-similarity",
                "plot-gap",
                "plot-blocks",
                "plot-pca",
                "criteria",
            )
        } | {"ranking": out["strip"]["ranking"]}

    seasoned = Desk(Models(tiny), frozenset())
    first = last(
        seasoned.analyse("tiny", path, "what is in the top left?", None, 2, *LINK, *settings())
    )
    state, strip = first["state"], {**first["strip"], "drop": [2, 3]}
    for change in CHANGES:
        fresh = Desk(Models(tiny), frozenset())
        assert shown(seasoned, change) == shown(fresh, change), change
