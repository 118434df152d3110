"""What is known about a model before anything is done with it: its decoder, the layers that stay,
its visual positions and their places, what can be edited, and what is refused, each with the
reason.

A person pastes it into an issue about a model of a family that is not listed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

import svl_core
from svl_core.errors import InputError, SVLError
from svl_core.lvlm import families, loading, probing, skeleton
from svl_core.lvlm.families import GENERIC
from svl_core.lvlm.finding import FOUND
from svl_core.lvlm.lengthening import lengthened
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.roles import Ending
from svl_core.lvlm.sample import Sample
from svl_core.notebook import Shown
from svl_core.progress import QUIET, Run
from svl_core.pruning.compensation import COMPENSATIONS, Compensation
from svl_core.pruning.prune import unfit
from svl_core.pruning.refit import ORDER, check_floating, endings, projection
from svl_core.recipe import OPTIONS

LAYER_KINDS = "layer_types"
"""The setting of a text config that names the kind of each layer."""
NEEDS: Mapping[str, tuple[tuple[str, ...], bool]] = {
    "none": ((), False),
    "scp": (OPTIONS["targets"].default, False),
    "lstsq": (("mlp",), True),
    "bridge": ((), False),
    "linearpatch": ((), False),
    "refit": (OPTIONS["targets"].default, True),
}
"""The compensations that are reported -> the parts that they edit, and whether these are fitted."""
UNTOLD = "it cannot run without it"
"""Why a layer stays where no rule says more."""


@dataclass(frozen=True)
class Editable:
    """What can be edited of one part of the layers, "mlp" or "attention".

    maps: the linear maps' names within a layer; of experts, the weights' names.
    layers: those that have one, and can be fitted.
    spread: those where several weights end the part, every expert's, which are edited alike but
        not fitted.
    lacking: the layers that have none.
    why: the sentence that an edit of these, or a fit of those, ends in; None where none is left.
    """

    maps: tuple[str, ...] = ()
    layers: tuple[int, ...] = ()
    spread: tuple[int, ...] = ()
    lacking: tuple[int, ...] = ()
    why: str | None = None


@dataclass(frozen=True, repr=False)
class Findings(Shown):
    """What was found about one model; None where it was not reached.

    name, revision: as it was asked for.
    model_type, model_class: of the whole model.
    text_type: the decoder's `model_type`.
    family: the row of the families' table; "generic" for one that is probed as it loads.
    decoder: the dotted name of its list of layers.
    layers: L.
    hidden_size: d.
    layer_kinds: kind -> its layers, where the config names kinds.
    protected: layer that stays -> why.
    images: whether it takes images.
    visual, textual: how many positions of each kind the test question has.
    picture: (width, height) of the test picture, in pixels.
    sees_once: whether what was seen of an image serves for further passes.
    places: the rule that places visual positions on the image; None: they have no place.
    places_note: how the rule was tried, or why there is none.
    attention: the attention implementation that is watched.
    edits: "mlp" and "attention" -> what can be edited there.
    compensations: name -> None where it can be used, else why not.
    refused: why the model cannot be used; None where it can.
    versions: of what read it.
    """

    name: str
    revision: str | None = None
    model_type: str | None = None
    model_class: str | None = None
    text_type: str | None = None
    family: str | None = None
    decoder: str | None = None
    layers: int | None = None
    hidden_size: int | None = None
    layer_kinds: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    protected: Mapping[int, str] = field(default_factory=dict)
    images: bool | None = None
    visual: int | None = None
    textual: int | None = None
    picture: tuple[int, int] | None = None
    sees_once: bool | None = None
    places: str | None = None
    places_note: str | None = None
    attention: str | None = None
    edits: Mapping[str, Editable] = field(default_factory=dict)
    compensations: Mapping[str, str | None] = field(default_factory=dict)
    refused: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)

    def brief(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "family": self.family,
            "layers": self.layers,
            "refused": self.refused,
        }

    def to_json(self) -> dict[str, Any]:
        """As JSON keeps it."""
        return asdict(self)

    def table(self) -> list[tuple[Any, ...]]:
        """(what, found) rows for people."""
        rows = [
            ("model", _joined(self.name, self.revision)),
            ("family", self._family()),
            ("decoder", self._decoder()),
            ("layers", self._layers()),
            ("layers that stay", self._protected()),
            ("visual positions", self._visual()),
            ("places", _joined(self.places or "none", self.places_note)),
            ("attention", self.attention or "not reached"),
        ]
        for target, edit in self.edits.items():
            rows.append((f"edits of {target}", _edit_row(edit)))
        for name, why in self.compensations.items():
            rows.append((f"compensation {name}", why or "possible"))
        rows.append(("refused", self.refused or "no"))
        versions = (f"{name} {version}" for name, version in self.versions.items())
        rows.append(("versions", ", ".join(versions)))
        return rows

    def _family(self) -> str:
        kind = f"{self.model_type or 'unknown type'}, {self.model_class or 'unknown class'}"
        if self.family is None:
            return kind
        probed = ", found by probing" if self.family == GENERIC.name else ""
        return f"{self.family}{probed} ({kind})"

    def _decoder(self) -> str:
        if self.decoder is None:
            return "not found"
        return f"{self.decoder} ({self.text_type})"

    def _layers(self) -> str:
        if self.layers is None:
            return "not found"
        kinds = (f"{kind}: {_numbers(at)}" for kind, at in self.layer_kinds.items())
        return _joined(f"{self.layers}, {self.hidden_size} wide", "; ".join(kinds))

    def _protected(self) -> str:
        by_reason: dict[str, list[int]] = {}
        for layer, why in self.protected.items():
            by_reason.setdefault(why, []).append(layer)
        said = (f"{_numbers(at)} ({why})" for why, at in by_reason.items())
        return "; ".join(said) or "none"

    def _visual(self) -> str:
        if self.images is False:
            return "none: it takes no images"
        if self.visual is None or self.picture is None:
            return "not reached"
        width, height = self.picture
        seen = "seen once" if self.sees_once else "seen anew in every pass"
        total = self.visual + (self.textual or 0)
        return f"{self.visual} of {total} for a picture of {width} x {height} pixels, {seen}"


def examine(
    name: str | Path,
    *,
    run: Run = QUIET,
    **options: Any,
) -> Findings:
    """Loads a model and says what was found about it, also where it is refused.

    name: a folder, a Hub id or "demo".
    run: progress; cancelling it stops a download.
    options: further ones of `svl.load`, such as device="cpu".

    Raises InputError for a name that leads to no model's folder; Cancelled.
    """
    name = str(name)
    folder, revision = loading.locate(name, options.get("revision"))
    read: dict[str, Any] = {"name": name, "revision": revision, "versions": _versions()}
    try:
        read |= _outline(folder, name)
        lvlm = loading.load(name, text_only=True, run=run, **options)
        return findings_of(lvlm)
    except InputError as error:
        return Findings(**read, refused=str(error))


def _outline(folder: Path, name: str) -> dict[str, Any]:
    """What the config and a model without weights tell; as much of it as can be told."""
    config, model_class, images = loading.blueprint(folder, name)
    told = {
        "model_type": config.model_type,
        "model_class": model_class.__name__,
        "family": families.family_of(config).name,
        "images": images,
    }
    try:
        blank = skeleton.empty(model_class, config)
        return told | _stack(blank)
    except (SVLError, ImportError):  # `load` says what is wrong with it
        return told


def _stack(model) -> dict[str, Any]:
    """The decoder and its layers."""
    text = model.config.get_text_config(decoder=True)
    layers = len(families.decoder_layers(model))
    return {
        "text_type": getattr(text, "model_type", None),
        "decoder": families.layers_prefix(model).rstrip("."),
        "layers": layers,
        "hidden_size": getattr(text, "hidden_size", None),
        "layer_kinds": _kinds(text, layers),
    }


def _kinds(text, layers: int) -> dict[str, tuple[int, ...]]:
    """kind -> the layers of that kind, where the config names one for each layer."""
    kinds = getattr(text, LAYER_KINDS, None) or ()
    if len(kinds) != layers:
        return {}
    found: dict[str, tuple[int, ...]] = {}
    for layer, kind in enumerate(kinds):
        found[kind] = (*found.get(kind, ()), layer)
    return found


def findings_of(lvlm: LVLM) -> Findings:
    """What is known about a loaded model.

    Two small pictures and a question are encoded, and places are tried on two pictures.
    """
    config = lvlm.model.config
    sample = probing.question_of(lvlm)
    edits = {target: editable(lvlm, target) for target in ORDER}
    found = {
        "name": lvlm.name,
        "revision": lvlm.revision,
        "model_type": config.model_type,
        "model_class": type(lvlm.model).__name__,
        "family": lvlm.family.name,
        **_stack(lvlm.model),
        "protected": _protected(lvlm),
        "images": lvlm.supports_images,
        "sees_once": lvlm.family.sees_once if lvlm.supports_images else None,
        "attention": _attention(lvlm),
        "edits": edits,
        "versions": _versions(),
    }
    found["compensations"] = {
        name: _hindrance(lvlm, COMPENSATIONS[name], edits, sample) for name in NEEDS
    }
    if lvlm.supports_images:
        found |= _seen(lvlm, sample)
    return Findings(**found)


def _attention(lvlm: LVLM) -> str:
    """The attention that is watched."""
    if lvlm.brought:
        return "the model's own"
    config: Any = lvlm.decoder.config
    return config._attn_implementation


def _protected(lvlm: LVLM) -> dict[int, str]:
    """layer that stays -> why."""
    told = getattr(lvlm, "protection", {})
    return {layer: told.get(layer, UNTOLD) for layer in lvlm.protected}


def _seen(lvlm: LVLM, sample: Sample) -> dict[str, Any]:
    """Visual positions of a test picture, and the rule of places."""
    [size] = sample.image_sizes
    rule, note = _places(lvlm, sample)
    return {
        "visual": len(sample.visual),
        "textual": len(sample.textual),
        "picture": size,
        "places": rule,
        "places_note": note,
    }


def _places(lvlm: LVLM, sample: Sample) -> tuple[str | None, str]:
    """The rule of places, and how it was tried or why there is none."""
    if not len(sample.visual):
        return None, "no position of the sequence is visual: images enter beside it"
    rule = lvlm.family.geometry
    if rule == GENERIC.geometry:
        why = "no rule's rectangles answered to their own pixels"
        return None, "; ".join(filter(None, (why, lvlm.unplaced_because)))
    held = all(
        probing.places_hold(lvlm, probing.noise(*shape), probing.TRIED) for shape in probing.SHAPES
    )
    verdict = "answers" if held else "DOES NOT answer"
    tried = f"each place {verdict} to its own pixels, tried on two pictures"
    if rule == FOUND:
        return rule, f"by changing pictures of each size, for no rule holds; {tried}"
    return rule, tried


# Edits


def editable(lvlm: LVLM, target: str) -> Editable:
    """What can be edited of one part of the layers.

    target: "mlp" or "attention".
    """
    names: dict[str, None] = {}
    layers: dict[str, list[int]] = {"layers": [], "spread": [], "lacking": []}
    why = None
    for number, layer in enumerate(lvlm.layers):
        try:
            ends = endings(layer, target)
            for end in ends:
                check_floating(end.module, end.weight)
                names[_name_in(layer, end)] = None
        except InputError as error:
            layers["lacking"].append(number)
            why = str(error)
            continue
        kind = "layers" if len(ends) == 1 and end.weight == "weight" else "spread"
        layers[kind].append(number)
        if kind == "spread":
            why = why or _unfitted(layer, target)
    return Editable(tuple(names), **{kind: tuple(at) for kind, at in layers.items()}, why=why)


def _unfitted(layer: torch.nn.Module, target: str) -> str | None:
    """The sentence that a fit of a layer's part ends in."""
    try:
        projection(layer, target)
    except InputError as error:
        return str(error)
    return None


def _name_in(layer: torch.nn.Module, end: Ending) -> str:
    """The dotted name of a linear map, or of a weight of experts, within a layer."""
    path = next(name for name, module in layer.named_modules() if module is end.module)
    return path if end.weight == "weight" else f"{path}.{end.weight}"


def _hindrance(
    lvlm: LVLM,
    row: Compensation,
    edits: Mapping[str, Editable],
    sample: Sample,
) -> str | None:
    """Why a compensation cannot be used on a model with its usual targets; None where it can."""
    refusal = unfit(lvlm, row, sample)
    if refusal is not None:
        return refusal
    if row.edit_model is not None:
        try:
            lengthened(sample, (0,))
        except InputError as error:
            return str(error)
    targets, fits = NEEDS[row.name]
    for target in targets:
        edit = edits[target]
        can = {*edit.layers} if fits else {*edit.layers, *edit.spread}
        cannot = [layer for layer in range(lvlm.num_layers) if layer not in can]
        if not can:
            return edit.why
        if cannot:
            return f"not at layers {_numbers(cannot)}: {edit.why}"
    return None


def _edit_row(edit: Editable) -> str:
    """One part of the layers, for people."""
    names = ", ".join(edit.maps)
    if not edit.layers and not edit.spread:
        return f"none: {edit.why}"
    said = names
    if edit.spread:
        said += f"; of every expert of layers {_numbers(edit.spread)} alike"
    if edit.lacking:
        said += f"; not of layers {_numbers(edit.lacking)}: {edit.why}"
    elif not edit.spread:
        said += " of every layer"
    return said


# Words


def _versions() -> dict[str, str]:
    return {
        "svl_core": svl_core.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _joined(text: str, more: str | None) -> str:
    return f"{text} ({more})" if more else text


def _numbers(layers: Sequence[int]) -> str:
    """Layer numbers as ranges: 0-2, 5."""
    parts: list[list[int]] = []
    for layer in layers:
        if parts and layer == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], layer]
        else:
            parts.append([layer])
    return ", ".join("-".join(map(str, part)) for part in parts)
