"""Results that the page derives from a stored analysis are never stale."""

from updates import LINK, last, page_of

from svl_core.ui.state.settings import Settings
from svl_core.ui.work.analysing import analyse
from svl_core.ui.work.ranking import select

CHANGES = [
    {"top_p": 0.2},
    {"top_p": 0.2, "top_p_mode": "mass"},
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

    def shown(page, change):
        out = last(select(page, state, strip, None, Settings(**change)))
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

    seasoned = page_of(tiny)
    asked = "what is in the top left?"
    first = last(analyse(seasoned, "tiny", path, asked, None, 2, *LINK, Settings()))
    state, strip = first["state"], {**first["strip"], "drop": [2, 3]}
    for change in CHANGES:
        fresh = page_of(tiny)
        assert shown(seasoned, change) == shown(fresh, change), change
