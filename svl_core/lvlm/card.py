"""The card beside a saved model: where it comes from, under which licence, what was dropped and
fitted, what was measured, and how it is loaded.

It is written from the record that `svl_plan.json` holds too, and from the source's own card, whose
licence goes on.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from svl_core.errors import InputError
from svl_core.recipe import DEMO, HALVES

CARD = "README.md"
NOTICES = ("LICENSE*", "LICENCE*", "NOTICE*")
"""Files of a source that go along with what is made of it."""

CARRIED = ("license", "license_name", "license_link", "language")
"""What a source's card says that holds for what is made of it too."""

TAGS = ["short-lvlm", "layer-pruning", "pruned"]
NO_FIGURES = (
    "None was handed over. `svl evaluate` and `svl compare` measure, and `svl prune --figures"
    " FILE.json` writes what they found here."
)

Rows = list[tuple[str, str, str]]

ZEROS = (
    "of full shape, with zeros in the projections that end them, so that they add nothing; they are"
    " computed where transformers alone loads them, and skipped by `svl.load`"
)
"""What was measured, of the pruned model, and of the full one."""


class Described(Protocol):
    """What a card says of an `LVLM`."""

    @property
    def name(self) -> str: ...

    @property
    def folder(self) -> Path | None: ...

    @property
    def provenance(self) -> Mapping[str, Any]: ...

    @property
    def layer_ids(self) -> tuple[int, ...]: ...

    @property
    def num_parameters(self) -> int: ...

    @property
    def supports_images(self) -> bool: ...


def write_card(
    lvlm: Described,
    folder: Path,
    figures: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Writes a model's card into the folder of its checkpoint, with the source's notices beside it.

    A model that was never pruned keeps its source's card.
    figures: results of `evaluate` and `compare` as JSON.

    Raises InputError for figures of another plan, and OSError.
    """
    source = lvlm.folder
    for pattern in NOTICES:
        for notice in sorted(source.glob(pattern)) if source else ():
            shutil.copyfile(notice, folder / notice.name)
    if lvlm.provenance:
        (folder / CARD).write_text(card_of(lvlm, figures), encoding="utf-8")
    elif source and (source / CARD).is_file():
        shutil.copyfile(source / CARD, folder / CARD)


def card_of(
    lvlm: Described,
    figures: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The card of a pruned model: metadata of the Hub's kind, and a text. See `write_card`."""
    rows = measured(lvlm, figures)
    metadata = metadata_of(lvlm)
    return f"---\n{_as_yaml(metadata)}\n---\n{_text(lvlm, metadata, rows)}"


def metadata_of(lvlm: Described) -> dict[str, Any]:
    """What the Hub reads of a pruned model's card; what is not known is left out."""
    theirs = _source_card(lvlm.folder)
    metadata = {name: theirs[name] for name in CARRIED if theirs.get(name)}
    base = _base_model(lvlm, theirs)
    if base:
        metadata["base_model"] = base
    task = "image-text-to-text" if lvlm.supports_images else "text-generation"
    return metadata | {"library_name": "transformers", "pipeline_tag": task, "tags": TAGS}


def _source_card(folder: Path | None) -> dict[str, Any]:
    """The metadata of the card in a folder; {} where there is none that can be read."""
    from huggingface_hub import ModelCard

    if folder is None or not (folder / CARD).is_file():
        return {}
    try:
        content = (folder / CARD).read_text(encoding="utf-8")
        return ModelCard(content, ignore_metadata_errors=True).data.to_dict()
    except Exception:  # a card of somebody's own making: anything may stand there
        return {}


def _base_model(lvlm: Described, theirs: Mapping[str, Any]) -> Any:
    """The Hub's id of the model that this one was made of, where it has one."""
    source = str(lvlm.provenance.get("source", lvlm.name))
    return source if is_repository(source) else theirs.get("base_model")


def is_repository(name: str) -> bool:
    """Whether a name reads as USER/NAME, and means no folder here."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if name.count("/") != 1 or Path(name).exists():
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _as_yaml(metadata: Mapping[str, Any]) -> str:
    from huggingface_hub import ModelCardData

    return ModelCardData(**metadata).to_yaml()


# Figures


def measured(
    lvlm: Described,
    figures: Sequence[Mapping[str, Any]],
) -> Rows:
    """What results say of a pruned model. Raises InputError for another model's or another kind."""
    rows: Rows = []
    for result in figures:
        _check_plan(lvlm, result)
        if result.get("accuracy") is not None:
            rows += _accuracy(result)
        elif result.get("kl") is not None:
            rows += _fidelity(result)
        else:
            raise InputError(
                "Found figures that hold neither an accuracy nor a KL; expected what `svl evaluate"
                " --json` or `svl compare --json` wrote; give that."
            )
    return rows


def _check_plan(lvlm: Described, result: Mapping[str, Any]) -> None:
    """Raises InputError for figures of another plan than this model's."""
    theirs = result.get("plan")
    if not isinstance(theirs, Mapping):
        return
    record = lvlm.provenance
    ours = _without(record.get("plan", {})), _fitted(record)["name"]
    found = _without(theirs), theirs.get("compensation")
    if found != ours:
        raise InputError(
            f"Found figures of a model without layers {found[0]} (compensation {found[1]});"
            f" expected those of this one, without {ours[0]} ({ours[1]}); measure it by its plan."
        )


def _without(plan: Mapping[str, Any]) -> str:
    """What goes by a plan, in words."""
    text = f"{plan.get('drop')}"
    for half in HALVES:
        if plan.get(half):
            text += f" and the {half} of {plan[half]}"
    return text


def _accuracy(result: Mapping[str, Any]) -> Rows:
    """Of `evaluate`."""
    full = result.get("full")
    what = f"exact answers, {Path(str(result['data'])).name}, {result['n']} questions"
    rows = [(what, _share(result), _share(full) if full else "")]
    if result.get("accuracy_kept") is not None:
        rows.append(("accuracy kept", f"{result['accuracy_kept']:.1%}", ""))
    return rows


def _share(tally: Mapping[str, Any]) -> str:
    low, high = tally["interval"]
    return f"{tally['accuracy']:.1%} ({low:.1%} to {high:.1%})"


def _fidelity(result: Mapping[str, Any]) -> Rows:
    """Of `compare`."""
    rows = [("KL from the full model, nats a token, one question", f"{result['kl']:.3g}", "")]
    if result.get("agreement") is not None:
        agreement = f"{result['agreement']:.1%}"
        rows.append(("top-1 agreement along the full model's answer", agreement, ""))
    return rows


# Text


def _text(
    lvlm: Described,
    metadata: Mapping[str, Any],
    rows: Rows,
) -> str:
    """The card below its metadata."""
    record = lvlm.provenance
    source = str(record.get("source", lvlm.name))
    named = _in_words(source, metadata)
    dropped = record.get("dropped", [])
    layers = len(lvlm.layer_ids) + len(dropped)
    halves = sum(len(lacking) for lacking in record.get("skipped", {}).values())
    also = f" and {halves} halves of others" if halves else ""
    return (
        f"# {_short(source)} without {len(dropped)} of its {layers} decoder layers{also}\n\n"
        f"A pruned {named}, made with Short-LVLM Explorer"
        " ([the method](https://arxiv.org/abs/2507.23362)). The rest of the model is as it was,"
        f" apart from what was fitted.\n\n## What was done\n\n{_done(lvlm, dropped)}\n\n"
        "`svl_plan.json` holds every setting and the versions used; `svl prune --from"
        " svl_plan.json` makes the model again.\n\n"
        f"## What was measured\n\n{_measured(rows)}\n\n## How to load it\n\n{_loading(lvlm)}\n\n"
        f"## Licence\n\n{_licence(metadata, named)}\n"
    )


def _short(source: str) -> str:
    return "The bundled model" if source == DEMO else Path(source).name


def _in_words(source: str, metadata: Mapping[str, Any]) -> str:
    """What the source is called, with a link where it has a page."""
    if source == DEMO:
        return "bundled model of Short-LVLM Explorer (everyday objects)"
    if metadata.get("base_model") == source:
        return f"[{source}](https://huggingface.co/{source})"
    return f"`{Path(source).name}`"


def _fitted(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """What was compensated; nothing in a view that was made without a plan."""
    return record.get("compensation", {"name": "none"})


def _done(lvlm: Described, dropped: Sequence[int]) -> str:
    record = lvlm.provenance
    recipe, fitted = record.get("recipe", {}), _fitted(record)
    criterion = record.get("plan", {}).get("criterion", "manual")
    settings = [
        f"{name} {_plain(value)}"
        for name, value in fitted.items()
        if name in recipe and value is not None
    ]
    rows = [
        ("layers dropped (0-based, of the unpruned model)", _plain(dropped) or "none"),
        *_skipped(lvlm),
        ("ranked by", criterion),
        ("compensation", ", ".join([fitted["name"], *settings])),
    ]
    samples = len(fitted.get("samples", ()))
    if samples:
        rows.append(("fitted on", f"{samples} samples of '{Path(recipe['calibration']).name}'"))
    reading = record.get("reading", "")
    if not reading and recipe.get("visual_share", 1) != 1:
        reading = f"{recipe['visual_share']:.0%}"
    if reading:
        rows.append(
            ("visual tokens read in the plan", f"{reading}, which a checkpoint cannot hold")
        )
    full = record.get("parameters", {}).get("full")
    if full:
        counted = "parameters, without skipped halves" if record.get("skipped") else "parameters"
        rows.append((counted, f"{lvlm.num_parameters:,} of {full:,}"))
    return _table(("what", "how"), rows)


def _skipped(lvlm: Described) -> list[tuple[str, str]]:
    """The layers without a half of theirs, and what that means for who loads the checkpoint."""
    skipped = lvlm.provenance.get("skipped", {})
    rows = [
        (f"layers without {half}", _plain(layers)) for half, layers in skipped.items() if layers
    ]
    if rows:
        rows.append(("halves of layers in this checkpoint", ZEROS))
    return rows


def _plain(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _measured(rows: Rows) -> str:
    if not rows:
        return NO_FIGURES
    return _table(("figure", "pruned", "full"), rows)


def _table(
    heading: Sequence[str],
    rows: Sequence[Sequence[str]],
) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _loading(lvlm: Described) -> str:
    kind, processor = "AutoModelForImageTextToText", "AutoProcessor"
    if not lvlm.supports_images:
        kind, processor = "AutoModelForCausalLM", "AutoTokenizer"
    return (
        "With transformers alone; FOLDER is this folder or its name on the Hub:\n\n```python\n"
        f"from transformers import {kind}, {processor}\n\n"
        f'model = {kind}.from_pretrained("FOLDER")\n'
        f'processor = {processor}.from_pretrained("FOLDER")\n```\n\n'
        'With Short-LVLM, which knows which layers of the original these are: `svl.load("FOLDER")`.'
    )


def _licence(metadata: Mapping[str, Any], named: str) -> str:
    licence = metadata.get("license_name") or metadata.get("license")
    if licence:
        return f"That of the source, {named}: {_plain(licence)}."
    return (
        f"That of the source, {named}. Its card was not at hand when this was written: look there"
        " before you hand this on."
    )
