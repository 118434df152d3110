"""Recipes for mergekit: the kept layers of a model, uncompensated, where mergekit makes the model
that this project makes.

Tried with mergekit 0.1.5 (`tests/pruning/test_mergekit.py` does it again where it is installed).
"""

from __future__ import annotations

import json
from collections.abc import Sequence

MERGED: dict[str, tuple[str, ...]] = {
    "llama": (),
    "mistral3": ("text_decoder", "multi_modal_projector", "vision_tower"),
}
"""Model types that mergekit cuts rightly, with the names of their modules, the decoder first; none
for a decoder alone."""

REFUSAL = """\
# mergekit 0.1.5 makes no working model of this one without layers: of the models with images that
# were tried only Mistral 3 comes out right. It wants `modules:` for them, and leaves the number of
# layers (LLaVA) or their kinds (Qwen2.5-VL) in the config as they were, so that the result does not
# load or loads with random weights, or it ends with an error (Qwen2-VL, Qwen3-VL, Gemma 3).
# Take the plan beside this instead: svl prune --from plan.json --out pruned/
"""
HEAD = """\
# Kept decoder layers, uncompensated, in the dtypes that they are stored in; indices are 0-based and
# the end of a range is excluded. Tried with mergekit 0.1.5:
# mergekit-yaml this.yml pruned/ --no-write-model-card   (the card would ask the network)
"""


def recipe(
    model_type: str,
    model: str,
    keep: Sequence[int],
) -> str:
    """A YAML file for `mergekit-yaml`; of a model that it does not cut rightly, why, as remarks.

    model_type: of the model's config.
    model: its name on the Hub or its folder.
    keep: 0-based layers, in order.
    """
    if model_type not in MERGED or not keep:
        return REFUSAL
    sources = []
    for first, last in _runs(keep):
        sources += [
            "- sources:",
            f"    - model: {json.dumps(model)}",
            f"      layer_range: [{first}, {last + 1}]",
        ]
    modules = MERGED[model_type]
    if not modules:
        lines = ["slices:", *_indented(sources, 2)]
    else:
        decoder, *others = modules
        lines = ["modules:", f"  {decoder}:", "    slices:", *_indented(sources, 6)]
        for name in others:
            lines += [f"  {name}:", "    models:", f"      - model: {json.dumps(model)}"]
    return HEAD + "\n".join([*lines, "merge_method: passthrough"]) + "\n"


def _indented(lines: Sequence[str], by: int) -> list[str]:
    return [" " * by + line for line in lines]


def _runs(layers: Sequence[int]) -> list[tuple[int, int]]:
    """(first, last) of each run of neighbours."""
    runs: list[tuple[int, int]] = []
    for layer in layers:
        if runs and layer == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], layer)
        else:
            runs.append((layer, layer))
    return runs
