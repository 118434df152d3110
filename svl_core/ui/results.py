"""What the page's endpoints return, as JSON schemas, and their short versions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Schema = dict[str, Any]


def _object(of: Mapping[str, Schema], *optional: str, **more: Any) -> Schema:
    """An object with these properties; all are there but the optional ones."""
    required = [name for name in of if name not in optional]
    return {"type": "object", "properties": dict(of), "required": required, **more}


def _list(of: Schema, said: str = "") -> Schema:
    return {"type": "array", "items": of, **({"description": said} if said else {})}


def _kind(kind: str, said: str = "", *, nullable: bool = False) -> Schema:
    kinds: Any = [kind, "null"] if nullable else kind
    return {"type": kinds, **({"description": said} if said else {})}


TEXT, WHOLE, NUMBER = _kind("string"), _kind("integer"), _kind("number")
PERHAPS = _kind("number", nullable=True)
LAYERS = _list(WHOLE, "0-based")
SCORES = _list(PERHAPS, "one for each layer")
ROWS = _list({"type": "object"})

SKIPPED = _list(WHOLE, "0-based layers that stay and skip this half")
PLAN = _object(
    {
        "drop": LAYERS,
        "keep": LAYERS,
        "attention": SKIPPED,
        "mlp": SKIPPED,
        "criterion": TEXT,
        "compensation": TEXT,
    },
    "attention",
    "mlp",
)
ANSWER = _object(
    {
        "text": TEXT,
        "tokens": _list(TEXT, "pieces of the text"),
        "ms_prefill": NUMBER,
        "ms_shared": NUMBER,
        "ms_per_token": PERHAPS,
        "stopped": _kind("string", "why the answer ended", nullable=True),
    },
    "tokens",
)
SPEED = _object(
    {
        "prefill": PERHAPS,
        "decode": PERHAPS,
        "expected": _object({"prefill": NUMBER, "decode": NUMBER}),
        "noise": {"type": "object", "description": "why a measured one says nothing, or null"},
    }
)
GRID = _list(_list(NUMBER), "layers x tokens")
LENS = _object(
    {
        "layer_ids": LAYERS,
        "tokens": _list(TEXT, "of the full model's answer"),
        "token_ids": _list(WHOLE),
        "decided": _list(
            _kind("integer", nullable=True), "layer from which on a token stays first"
        ),
        "words": _list(_list(_list(TEXT)), "layers x tokens x 3, the likeliest first"),
        "shares": _list(_list(_list(NUMBER)), "their probabilities"),
        "probability": GRID,
        "rank": GRID,
        "entropy": GRID,
    },
    "token_ids",
    "words",
    "shares",
    "probability",
    "rank",
    "entropy",
)
RELEVANCE = _object(
    {
        "values": _list(NUMBER, "of each patch; above 0 it speaks for the word"),
        "place_bias": _kind("number", "rank correlation with the patches' order", nullable=True),
        "covered": _kind("integer", "patches that were covered for the check"),
        "whole": _kind("number", "probability of the word on the whole image"),
        "without_relevant": _kind("number", "with the most relevant patches covered"),
        "without_random": _list(NUMBER, "with as many random ones covered"),
        "holds": _kind("boolean", "whether the map may be believed"),
    },
    "values",
    "without_random",
)
LOOK = _object(
    {
        "layer_ids": LAYERS,
        "shares": _list(_list(_list(PERHAPS)), "layers x heads x kinds"),
        "strongest": _object(
            {"layer": WHOLE, "head": WHOLE, "patches": _list(PERHAPS, "of its attention")},
            "patches",
        ),
        "relevance": {"anyOf": [RELEVANCE, {"type": "null"}]},
    },
    "shares",
)
ASKED = {"model": TEXT, "plan": PLAN, "answer": _kind("string", "the full model's")}
TALLY = {
    "n": WHOLE,
    "correct": WHOLE,
    "accuracy": _kind("number", "0 to 1"),
    "interval": _list(NUMBER, "of the accuracy, 95 %"),
}

RESULTS: Mapping[str, Schema] = {
    "analyse": _object(
        {
            "model": TEXT,
            "layers": _kind("integer", "number of decoder layers, L"),
            "visual_tokens": WHOLE,
            "text_tokens": WHOLE,
            "detail": TEXT,
            "grid": {
                "type": ["array", "null"],
                "items": WHOLE,
                "description": "rows and columns of the visual tokens, where they are one grid",
            },
            "criterion": TEXT,
            "ranking": _list(WHOLE, "0-based layers, the most redundant first"),
            "protected": LAYERS,
            "redundancy": {
                "type": "object",
                "additionalProperties": SCORES,
                "description": "by criterion, the mean cosine of what enters and leaves each layer",
            },
            "similarity": _list(_list(PERHAPS), "(L+1) x (L+1) mean cosines of hidden states"),
            "importance": _object({"visual": _list(PERHAPS), "text": _list(PERHAPS)}),
            "tokens": _list(TEXT, "every position of the prompt"),
        },
        "similarity",
        "importance",
        "tokens",
    ),
    "compare": _object(
        {
            "model": TEXT,
            "plan": PLAN,
            "full": ANSWER,
            "pruned": ANSWER,
            "kl": _kind("number", "KL(full || pruned) in nats per token"),
            "agreement": _kind("number", "0 to 1, along the full model's answer"),
            "first_divergence": _kind("integer", "token of the full answer", nullable=True),
            "first_divergent_word": {
                "type": ["array", "null"],
                "items": WHOLE,
                "description": "start and end in the pruned answer's text",
            },
            "exact": _kind("boolean", "whether both answers are the same"),
            "token_probabilities": _object({"full": _list(NUMBER), "pruned": _list(NUMBER)}),
            "parameters": _object({"full": WHOLE, "pruned": WHOLE}),
            "speedup": SPEED,
        },
        "token_probabilities",
    ),
    "sweep": _object(
        {
            "rows": _list(
                _object(
                    {
                        "criterion": TEXT,
                        "compensation": TEXT,
                        "drop": WHOLE,
                        "layers": LAYERS,
                        "attention": SKIPPED,
                        "mlp": SKIPPED,
                        "kl": NUMBER,
                        "agreement": NUMBER,
                        "exact": NUMBER,
                        "speedup": NUMBER,
                    },
                    "attention",
                    "mlp",
                ),
                "one for each pruned model",
            ),
            "cliffs": _list({"type": "object"}, "where each recipe falls off"),
            "pareto": _list({"type": "object"}, "rows that none beats in fidelity and speed"),
            "model": TEXT,
            "revision": _kind("string", nullable=True),
            "layers": WHOLE,
            "layer_ids": LAYERS,
            "measured": {"type": "object"},
            "fit": {"type": "object"},
            "questions": _kind("object", nullable=True),
            "settings": {"type": "object"},
        },
        "revision",
        "layers",
        "layer_ids",
        "measured",
        "fit",
        "questions",
        "settings",
    ),
    "evaluate": _object(
        {
            "model": TEXT,
            "plan": PLAN,
            "data": TEXT,
            **TALLY,
            "by_kind": {"type": "object"},
            "full": _object({"data": TEXT, **TALLY, "by_kind": {"type": "object"}}, "by_kind"),
            "accuracy_kept": _kind("number", "pruned / full", nullable=True),
            "accuracy_kept_interval": {"type": ["array", "null"], "items": NUMBER},
            "lost": _kind("integer", "questions that only the full model gets right"),
            "gained": WHOLE,
        },
        "by_kind",
        "full",
        "accuracy_kept",
        "accuracy_kept_interval",
        "lost",
        "gained",
    ),
    "lens": _object({**ASKED, "full": LENS, "pruned": {"anyOf": [LENS, {"type": "null"}]}}),
    "word": _object(
        {
            **ASKED,
            "word": TEXT,
            "place": WHOLE,
            "kinds": _list(TEXT, "what attention goes to"),
            "full": LOOK,
            "pruned": {"anyOf": [LOOK, {"type": "null"}]},
        }
    ),
    "models": _object(
        {
            "first": _kind("string", "the page's own model, which an empty name means"),
            "any": _kind("boolean", "whether other ids of the Hub are taken too"),
            "models": _list(
                _object(
                    {
                        "id": TEXT,
                        "parameters": WHOLE,
                        "layers": WHOLE,
                        "visual_tokens": _kind("string", "of one image"),
                        "memory_gb": _kind("number", "of the weights in bfloat16"),
                        "licence": TEXT,
                        "good_for": TEXT,
                        "family": TEXT,
                        "gated": _kind("boolean", "whether the owner asks for consent first"),
                    },
                    "parameters",
                    "layers",
                    "visual_tokens",
                    "memory_gb",
                    "licence",
                    "good_for",
                    "family",
                    "gated",
                )
            ),
            "loaded": _list(TEXT, "names of models that are loaded already"),
            "criteria": ROWS,
            "compensations": ROWS,
            "selectors": ROWS,
            "presets": ROWS,
        }
    ),
}
"""What each endpoint returns, by its name."""


def _without(value: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: part for name, part in value.items() if name not in names}


def _brief_analysis(found: dict) -> dict:
    criterion = found["criterion"]
    redundancy = {criterion: found["redundancy"][criterion]}
    short = _without(found, "similarity", "importance", "tokens")
    return {**short, "redundancy": redundancy}


def _brief_comparison(found: dict) -> dict:
    sides = {side: _without(found[side], "tokens") for side in ("full", "pruned")}
    return {**_without(found, "token_probabilities"), **sides}


def _brief_sweep(found: dict) -> dict:
    whole = RESULTS["sweep"]
    names = whole["properties"]["rows"]["items"]["properties"]
    rows = [{name: row[name] for name in names} for row in found["rows"]]
    return {**{name: found[name] for name in whole["required"]}, "rows": rows}


def _brief_evaluation(found: dict) -> dict:
    short = _without(found, "by_kind")
    return {**short, "full": _without(found["full"], "by_kind")} if "full" in found else short


def _brief_lens(found: dict) -> dict:
    kept = LENS["required"]
    sides = {name: found[name] and _only(found[name], *kept) for name in ("full", "pruned")}
    return {**found, **sides}


def _brief_word(found: dict) -> dict:
    return {**found, **{name: _brief_look(found[name]) for name in ("full", "pruned")}}


def _brief_look(found: dict | None) -> dict | None:
    if found is None:
        return None
    relevance = found["relevance"] and _without(found["relevance"], "values", "without_random")
    strongest = _without(found["strongest"], "patches")
    return {**_without(found, "shares"), "strongest": strongest, "relevance": relevance}


def _brief_models(found: dict) -> dict:
    registries = ("criteria", "compensations", "selectors", "presets")
    told = {name: [_only(row, "name", "title") for row in found[name]] for name in registries}
    models = [_only(row, "id", "memory_gb", "good_for") for row in found["models"]]
    return {**found, **told, "models": models}


def _only(row: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: row[name] for name in names if name in row}


BRIEF: Mapping[str, Callable[[dict], dict]] = {
    "analyse": _brief_analysis,
    "compare": _brief_comparison,
    "sweep": _brief_sweep,
    "evaluate": _brief_evaluation,
    "lens": _brief_lens,
    "word": _brief_word,
    "models": _brief_models,
}
"""What is left of each endpoint's result where a program asked for a brief one."""
