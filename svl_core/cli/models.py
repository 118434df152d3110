"""`svl models`: the models known to work, and the methods on offer; with `--probe`, what is found
about one model.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from svl_core.cli.output import table, watched
from svl_core.comparison.methods import methods
from svl_core.lvlm.catalogue import catalogue
from svl_core.lvlm.families import FAMILIES
from svl_core.pruning.report import examine
from svl_core.recipe import Recipe

HEADING = (
    "id",
    "parameters",
    "layers",
    "visual tokens an image",
    "bf16 memory",
    "licence",
    "good for",
)


def models(args: argparse.Namespace, recipe: Recipe) -> tuple[dict[str, Any], str]:
    if args.probe is not None:
        return _probed(args)
    result: dict[str, Any] = {
        "models": [asdict(entry) for entry in catalogue()],
        "families": [family.name for family in FAMILIES],
        **methods(),
    }
    rows = [HEADING, *(_model_row(model) for model in result["models"])]
    text = "models\n" + table(rows, left=len(HEADING))
    text += (
        f"\n\nfamilies: {', '.join(result['families'])}; other models of transformers are probed as"
        " they load, and served or refused with the reason; a causal language model without images"
        " serves as control; on a processor, a model stored in bfloat16 computes in it where its"
        " own products, timed as it loads, are clearly faster so, and every other in float32"
    )
    for title in ("criteria", "compensations", "selectors"):
        listed = [(row["name"], row["title"], row["source"]) for row in result[title]]
        text += f"\n\n{title}\n{table(listed, left=3)}"
    presets = [
        (row["name"], row["title"], f"{row['criterion']} + {row['compensation']}")
        for row in result["presets"]
    ]
    return result, f"{text}\n\npresets\n{table(presets, left=3)}"


def _probed(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """What is found about the model that `--probe` names; a refusal is a finding too."""
    found = examine(
        args.probe,
        revision=args.revision,
        device=args.device,
        dtype=args.dtype,
        device_map=args.device_map,
        quantize=args.quantize,
        run=watched(args),
    )
    rows = [(what, str(said)) for what, said in found.table()]
    return found.to_json(), table(rows, left=2)


def _model_row(model: Mapping[str, Any]) -> tuple[str, ...]:
    size = model["memory_gb"]
    return (
        model["id"],
        _parameters(model["parameters"]),
        str(model["layers"]),
        model["visual_tokens"],
        f"{size:.1f} GB" if size >= 0.1 else f"{1000 * size:.0f} MB",
        model["licence"] + (" (gated)" if model["gated"] else ""),
        model["good_for"],
    )


def _parameters(count: int) -> str:
    return f"{count / 1e9:.2f} B" if count >= 1e8 else f"{count / 1e6:.1f} M"
