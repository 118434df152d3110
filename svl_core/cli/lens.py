"""`svl lens`: what each layer would say in the place of each word of an answer, and from which
layer on it stays.
"""

from __future__ import annotations

import argparse
from typing import Any

from svl_core.analysis.lens import DecidedCurve, Lens, decided_share
from svl_core.analysis.lens import lens as lens_of
from svl_core.analysis.skipping import own_answers
from svl_core.analysis.trace import trace
from svl_core.cli.inputs import asked_question, measured_set
from svl_core.cli.output import table, watched
from svl_core.cli.pruned import Pruned, prune_by
from svl_core.comparison.answer import answer
from svl_core.lvlm.vision import see
from svl_core.recipe import Recipe

MOST_TOKENS = 6  # of an answer, in the table for people


def lens(
    args: argparse.Namespace,
    recipe: Recipe,
) -> tuple[dict[str, Any], str]:
    run = watched(args)
    lvlm, sample = asked_question(args, recipe)
    sample = see(lvlm, sample)
    read = trace(
        lvlm,
        sample,
        keep_prompt=True,
        run=run,
    )
    said = answer(
        lvlm,
        sample,
        max_new_tokens=args.max_new_tokens,
        run=run,
    )
    seen = {
        "full": lens_of(
            lvlm,
            sample,
            said.token_ids,
            traced=read,
            top=args.top,
            run=run,
        )
    }
    models = {"full": lvlm}
    result: dict[str, Any] = {"model": lvlm.name, "answer": said.text}
    pruned = None
    if recipe.drops:
        pruned = prune_by(
            args,
            recipe,
            lvlm,
            [sample],
            read,
        )
        models["pruned"] = pruned.lvlm
        # The full model's words, so that both are asked about the same.
        seen["pruned"] = lens_of(
            pruned.lvlm,
            sample,
            said.token_ids,
            top=args.top,
            run=run,
        )
        result["plan"] = pruned.to_json()
    result |= {name: found.to_json() for name, found in seen.items()}
    curves = {}
    if args.measure is not None:
        samples = measured_set(args, lvlm)
        answers = own_answers(
            lvlm,
            len(samples),
            samples.__getitem__,
            run,
        )
        for name, model in models.items():
            curves[name] = decided_share(
                model,
                samples,
                answers,
                run=run,
            )
        result["decided_share"] = {
            "set": args.measure,
            "samples": len(samples),
            **{name: curve.to_json() for name, curve in curves.items()},
        }
    return result, _text(said.text, seen, pruned, curves)


def _text(
    said: str,
    seen: dict[str, Lens],
    pruned: Pruned | None,
    curves: dict[str, DecidedCurve],
) -> str:
    """The answer, each model's words layer by layer, and the curve."""
    parts = [f"the full model's answer: {said}"]
    for name, found in seen.items():
        heading = f"{name} model" if pruned is None or name == "full" else pruned.describe()
        parts.append(f"{heading}\n{_lens_text(found)}")
    if curves:
        parts.append(_curve_text(curves))
    return "\n\n".join(parts)


def _lens_text(found: Lens) -> str:
    """Each layer's likeliest words with the probability of the word that is said, last layer
    first.
    """
    count = min(
        len(found.tokens),
        MOST_TOKENS,
    )
    rows = [
        [
            "layer",
            *map(
                _shown,
                found.tokens[:count],
            ),
        ]
    ]
    for row, layer in reversed(list(enumerate(found.layer_ids))):
        cells = [
            f"{_shown(found.words[row, place, 0])} {found.probability[row, place]:.0%}"
            for place in range(count)
        ]
        rows.append([str(layer), *cells])
    decided = ["never" if layer is None else f"layer {layer}" for layer in found.decided[:count]]
    rows.append(["decided", *decided])
    more = len(found.tokens) - count
    told = f"\nand {more} more tokens, see --json" if more else ""
    return f"{table(rows)}{told}"


def _curve_text(curves: dict[str, DecidedCurve]) -> str:
    """The share of answers that are decided by each layer of the original model."""
    first = next(iter(curves.values()))
    rows = [["layer", *(f"decided, {name} model" for name in curves)]]
    for layer in first.layer_ids:
        cells = [
            _share_at(
                curve,
                layer,
            )
            for curve in curves.values()
        ]
        rows.append([str(layer), *cells])
    return f"the full model's answers to {first.count} questions\n{table(rows)}"


def _share_at(
    curve: DecidedCurve,
    layer: int,
) -> str:
    if layer not in curve.layer_ids:
        return "dropped"
    return f"{curve.answers[curve.layer_ids.index(layer)]:.1%}"


def _shown(word: str) -> str:
    return word.strip() or repr(word)
