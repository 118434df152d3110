"""Results that the page derives from a stored analysis are never stale."""

from updates import LINK, last, page_of

from svl_core.service.derived import scores_key
from svl_core.ui.state.settings import Settings
from svl_core.ui.work.analysing import analyse
from svl_core.ui.work.ranking import select

CHANGES = [
    {"top_p": 0.2},
    {"top_p": 0.2, "top_p_mode": "mass"},
    {"causal_correction": True},
    {"text_self": "given"},
    {"text_ends": "sink-aware"},
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


def test_rankings_by_important_tokens_are_stored_by_what_chooses_them():
    """Also the one that runs the model; those that look at answers serve for any choice."""
    usual, aware = Settings(), Settings(text_ends="sink-aware")
    for criterion in ("svl", "svl-iterated"):
        assert scores_key(criterion, usual) != scores_key(criterion, aware)
    for criterion in ("sleb", "greedy-kl", "shortv"):
        assert scores_key(criterion, usual) == scores_key(criterion, aware)
