"""Puts every entry of transformers' image-text-to-text mapping into a state, and writes the table
into svl_core/SUPPORT.md: `python tests/families/state_table.py [ENTRY ...]`.

An entry with a tiny model runs the whole line on it: probes where it has no row of its own, a
trace, a pruned model, a comparison, and a saved model that plain transformers loads again. One
without says what it waits for. Results are kept beside this file, so that single entries can be run
anew.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "benchmarks"), str(HERE.parents[1])]

import builders  # noqa: E402
import torch  # noqa: E402
import unlisted  # noqa: E402
import zoo  # noqa: E402
import zoo_a_to_g  # noqa: E402
import zoo_h_to_z  # noqa: E402
import zoo_torchvision  # noqa: E402
from marks import rewrite  # noqa: E402
from tiny import picture  # noqa: E402
from transformers.models.auto.modeling_auto import (  # noqa: E402
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as MAPPING,
)

import svl_core as svl  # noqa: E402
from svl_core.errors import SVLError  # noqa: E402
from svl_core.lvlm import kinds, packages, probing, skeleton  # noqa: E402
from svl_core.lvlm.families import GENERIC, family_of  # noqa: E402
from svl_core.lvlm.model import LVLM  # noqa: E402

PAGE = HERE.parents[1] / "svl_core" / "SUPPORT.md"
RESULTS = HERE / "states.json"
BEGIN, END = "<!-- states: tests/families/state_table.py -->", "<!-- end of states -->"
FULL, UNPLACED, REFUSED, UNTRIED = "full", "full without places", "refused", "not tried"
STATES = {
    FULL: "the whole line runs, and visual positions have places on the image",
    UNPLACED: "the whole line runs, but no rule for places holds",
    REFUSED: "told in one sentence before any work",
    UNTRIED: "no tiny model of it is tested yet",
}
ZOO = zoo.ZOO | zoo_a_to_g.ZOO | zoo_h_to_z.ZOO | zoo_torchvision.ZOO
TYPES = {"blip_2": "blip-2"}  # a builder's name -> its entry, where they differ


def built_by() -> dict:
    """entry -> what builds its config and processor."""
    others = (*unlisted.SERVED, *unlisted.REFUSED)
    found = {TYPES.get(each.__name__, each.__name__): each for each in others}
    for builder in builders.BUILDERS.values():
        found.setdefault(builder()[0].model_type, builder)
    return found | ZOO


def loaded(entry: str, builder) -> LVLM:
    """The tiny model, as `svl.load` would give it, or its refusal."""
    config, processor = builder()
    model_class, _ = kinds.class_of(config, entry)
    probing.refuse_without_layers(skeleton.empty(model_class, config), entry)
    model = builders.weighted(config)
    model.generation_config.update(do_sample=False, **builders.ids(processor.tokenizer))
    model = model.eval().requires_grad_(False)
    lvlm = LVLM(model, processor, family_of(model.config), entry)
    return probing.probe(lvlm) if lvlm.family is GENERIC else lvlm


def run(entry: str, builder) -> tuple[str, str]:
    """(state, why or how). Raises whatever is not a refusal: that is a fault."""
    try:
        lvlm = loaded(entry, builder)
    except SVLError as error:
        return REFUSED, str(error)
    sample = lvlm.encode(picture(150, 90), "what is in the top left ?")
    trace = svl.trace(lvlm, [sample])
    drop = min(2, lvlm.num_layers - len(lvlm.protected) - 1)
    scores = svl.redundancy(trace, svl.importance(trace))
    pruned = svl.prune(lvlm, svl.plan(scores, min(drop, scores.most)))
    report = svl.compare(lvlm, pruned, sample, max_new_tokens=2)
    assert report.kl >= 0 and pruned.num_layers < lvlm.num_layers
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        pruned.save(Path(folder) / "out")
        again = type(lvlm.model).from_pretrained(Path(folder) / "out").eval()
        expected = pruned.model(**sample.inputs).logits
        assert torch.equal(again(**sample.inputs).logits, expected), "reloaded logits differ"
    own = "a row of its own" if lvlm.family.name != GENERIC.name else "general rules"
    notes = [own]
    if lvlm.family.geometry != "unplaced" and lvlm.family.in_sequence:
        notes.append(lvlm.family.geometry)
    if lvlm.family.geometry == "unplaced" and lvlm.unplaced_because:
        notes.append(lvlm.unplaced_because)
    if not lvlm.family.in_sequence:
        notes.append("no visual positions in the sequence")
    if not lvlm.family.batched:
        notes.append("one sample a pass")
    if stand_in := getattr(lvlm.processor.image_processor, "read_with", None):
        notes.append(stand_in)
    if lvlm.protection:
        notes.append("stays: " + ", ".join(dict.fromkeys(lvlm.protection.values())))
    placed = lvlm.family.geometry != "unplaced"
    return (FULL if placed else UNPLACED), "; ".join(notes)


def without_builder(entry: str) -> tuple[str, str]:
    """The state of an entry without a tiny model, as far as its classes tell."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    config = CONFIG_MAPPING[entry]
    parts = getattr(config, "sub_configs_defaults", {}).values()
    encoders = [getattr(each, "config_class", each) for each in (config, *parts)]
    if any(getattr(each, "is_encoder_decoder", False) for each in encoders):
        return REFUSED, "an encoder-decoder: only decoders that read image and question are pruned"
    halves = IMAGE_PROCESSOR_MAPPING_NAMES.get(entry, {})
    if halves and "pil" not in halves and not packages.present("torchvision"):
        return UNTRIED, "its image processor needs torchvision"
    return UNTRIED, "no tiny model is written yet"


def table(results: dict) -> str:
    counts = {state: sum(found[0] == state for found in results.values()) for state in STATES}
    lines = [f"{len(results)} entries: " + ", ".join(f"{n} {state}" for state, n in counts.items())]
    lines += ["", "| entry | state | how, or why |", "|---|---|---|"]
    for entry, (state, why) in sorted(results.items()):
        lines.append(f"| `{entry}` | {state} | {why.replace('|', '/')} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("entries", nargs="*", help="run these alone (default: all)")
    asked = parser.parse_args().entries
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    builders_of = built_by()
    failed = []
    for entry in asked or MAPPING:
        builder = builders_of.get(entry)
        try:
            found = run(entry, builder) if builder else without_builder(entry)
        except Exception as error:  # a fault of ours, or of the tiny model
            failed.append(entry)
            print(entry, type(error).__name__, " ".join(str(error).split())[:300], flush=True)
            continue
        print(entry, *found, flush=True)
        results[entry] = list(found)
        RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    rewrite(PAGE, BEGIN, END, table(results))
    if failed:
        raise SystemExit(f"Found faults with {', '.join(failed)}; their rows stay as they were.")


if __name__ == "__main__":
    main()
