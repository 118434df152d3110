"""Visual detail of every family: fewer visual tokens, still each in its place; nothing changes at
full detail.
"""

import copy
import dataclasses
import hashlib
from concurrent.futures import ThreadPoolExecutor

import builders
import numpy as np
import pytest
import torch
from perturbation import hits
from tiny import picture

from svl_core.errors import InputError
from svl_core.lvlm.detail import RULES
from svl_core.lvlm.families import FAMILIES
from svl_core.lvlm.vision import forward, see
from svl_core.recipe import BALANCED, FULL, QUICK

PROMPT = "what is in the top left ?"
SHAPES = ((240, 161), (600, 60), (50, 420), (48, 32), (301, 299))
"""Width and height of pictures: no multiple of a patch, flat, tall, tiny, nearly square."""
SEVERAL = ((200, 200), (110, 300))
ONE_SIZE = ("llava", "paligemma", "paligemma2", "gemma3n", "mllama", "gemma3")
QUICK_TIER = ("llava", "smolvlm", "qwen2.5-vl", "gemma3 with crops")
NAMES = [*builders.BUILDERS, "gemma3 with crops"]


@pytest.fixture(
    params=[
        pytest.param(name, marks=() if name in QUICK_TIER else pytest.mark.slow) for name in NAMES
    ]
)
def family(request):
    """LVLM of each family, and Gemma3 once more with pan and scan."""
    name = request.param
    if name in builders.BUILDERS:
        return builders.build(name)
    lvlm = builders.build("gemma3")
    processor = copy.copy(lvlm.processor)
    crops = {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 16}
    processor.images_kwargs = {**processor.images_kwargs, **crops}
    return dataclasses.replace(lvlm, processor=processor, name=name)


def pictures(shapes):
    return [picture(*shape, seed=seed) for seed, shape in enumerate(shapes)]


def count(lvlm, images, **options):
    return len(lvlm.encode(images, PROMPT, **options).visual)


def same(one, other):
    """Whether two samples are equal in all that a model or a figure gets of them."""
    return (
        one.key == other.key
        and set(one.inputs) == set(other.inputs)
        and all(torch.equal(one.inputs[name], other.inputs[name]) for name in one.inputs)
        and np.array_equal(one.geometry.rects, other.geometry.rects, equal_nan=True)
    )


def test_rows_name_rules_that_there_are():
    named = {row.detail.rule for row in FAMILIES}
    assert named == {*RULES, "one"}
    for row in FAMILIES:
        assert row.detail.balanced >= row.detail.quick


def test_which_families_have_several_sizes(family):
    assert family.reader.sizes.one == (family.name in ONE_SIZE)


@pytest.mark.parametrize("shapes", [*((shape,) for shape in SHAPES), SEVERAL], ids=str)
def test_tokens_are_counted_before_anything_is_read(family, shapes):
    images = pictures(shapes)
    counted = family.reader.sizes.extents(images)
    if family.name in ONE_SIZE:
        assert counted == {}
        return
    read = {detail: count(family, images, detail=detail) for detail in counted}
    assert {detail: extent.tokens for detail, extent in counted.items()} == read
    assert read[FULL] >= read[BALANCED] >= read[QUICK] > 0
    patches = [counted[detail].patches for detail in (FULL, BALANCED, QUICK)]
    assert patches == sorted(patches, reverse=True)


def test_patches_are_those_of_the_vision_tower(family):
    """Counted by the pixels that the tower gets."""
    image = picture(240, 161)
    for detail, extent in family.reader.sizes.extents([image]).items():
        pixels = family.encode(image, PROMPT, detail=detail).inputs["pixel_values"]
        patch = np.ravel(getattr(family.model.config.vision_config, "patch_size", None))[0]
        if pixels.shape[-1] % patch or pixels.ndim < 4:  # flattened patches already
            seen = pixels.shape[-2]
        else:
            tiles = pixels.shape[:-3].numel()
            seen = tiles * (pixels.shape[-1] // patch) * (pixels.shape[-2] // patch)
        assert extent.patches == seen, detail


@pytest.mark.parametrize("detail", [BALANCED, QUICK])
def test_changing_a_rectangle_changes_its_own_position_most(family, detail):
    if family.name in ONE_SIZE:
        pytest.skip("one size, see test_families")
    reading = family.reading(detail)
    for shapes in (*((shape,) for shape in SHAPES), SEVERAL):
        assert all(hits(reading, pictures(shapes), positions=5)), shapes


def test_places_cover_the_whole_picture(family):
    if not family.family.in_sequence or family.family.name == "LLaVA":
        pytest.skip("no places, or a centre crop")
    for detail in (FULL, BALANCED, QUICK):
        for shape in SHAPES:
            rects = family.encode(picture(*shape), PROMPT, detail=detail).geometry.rects
            covered = np.zeros((40, 40), bool)
            for x0, y0, x1, y1 in rects[~np.isnan(rects).any(axis=1)] * 40:
                rows = slice(int(np.floor(y0)), int(np.ceil(y1)))
                covered[rows, int(np.floor(x0)) : int(np.ceil(x1))] = True
            assert covered.all(), (detail, shape)


def test_the_model_reads_every_detail(family):
    """One pass each, with finite predictions, which are those of images seen before."""
    for detail in (BALANCED, QUICK):
        for images in (picture(240, 161), pictures(SEVERAL)):
            sample = family.encode(images, PROMPT, detail=detail)
            seen = see(family, sample)
            with torch.inference_mode():
                logits = family.model(**sample.inputs).logits
                again = forward(family, seen.inputs, seen.features).logits
            assert torch.isfinite(logits).all() and torch.equal(logits, again)


def test_keys_tell_details_apart_and_are_as_before_at_full(family):
    image = picture(240, 161)
    digest = hashlib.sha256(repr((family.name, family.revision, [image.size])).encode())
    digest.update(image.tobytes())
    before = hashlib.sha256(f"{digest.hexdigest()} {PROMPT}".encode()).hexdigest()
    samples = {d: family.encode(image, PROMPT, detail=d) for d in (FULL, BALANCED, QUICK)}
    assert samples[FULL].key == family.encode(image, PROMPT).key == before
    assert samples[FULL].image_key == digest.hexdigest() and samples[FULL].detail == FULL
    sizes = family.reader.sizes
    for detail in (BALANCED, QUICK):
        if sizes.one:
            assert same(samples[detail], samples[FULL]) and samples[detail].detail == FULL
        else:
            assert samples[detail].key != samples[FULL].key
            assert samples[detail].detail == sizes.levels[detail].name
    levels = {level.amount for level in sizes.levels.values()}
    for keys in ("key", "image_key"):
        assert len({getattr(sample, keys) for sample in samples.values()}) == len(levels)
    assert {sample.image_sizes for sample in samples.values()} == {((240, 161),)}


def test_nobody_else_reads_otherwise(family):
    """Readers of different details at the same time get what each would get alone."""
    image = picture(240, 161)
    details = (FULL, BALANCED, QUICK)
    alone = {detail: family.encode(image, PROMPT, detail=detail) for detail in details}
    settings = repr(family.processor.image_processor)
    asked = details * 4
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda d: family.encode(image, PROMPT, detail=d), asked))
    for detail, sample in zip(asked, found, strict=True):
        assert same(sample, alone[detail])
    assert repr(family.processor.image_processor) == settings


def test_a_limit_gives_the_highest_detail_within_it(family):
    image = picture(240, 161)
    full, quick = count(family, image), count(family, image, detail=QUICK)
    assert count(family, image, max_visual_tokens=max(full, 1)) == full
    if family.name in ONE_SIZE:
        if full:
            refuses(family, image, full)
        return
    sizes = family.reader.sizes
    amounts = list(sizes.rule.lower(sizes.setup, sizes.rule.most(sizes.setup)))
    tokens = [sizes.rule.extents(sizes.setup, amount, [image]).tokens for amount in amounts]
    for most in {full - 1, (full + quick) // 2, quick + 1, quick}:
        found = count(family, image, max_visual_tokens=most)
        highest = next((number for number in tokens if number <= most), None)
        assert found == highest <= most
    assert count(family, image, detail=QUICK, max_visual_tokens=full) == quick
    two = [image, picture(120, 300)]
    refuses(family, two, sizes.rule.extents(sizes.setup, amounts[-1], two).tokens)


def refuses(family, images, least):
    """Fewer visual tokens than `least` are refused in a sentence whose advice works."""
    said = f"Found a limit of {least - 1} .*; expected at least {least}, .*--max-visual-tokens"
    with pytest.raises(InputError, match=said):
        family.encode(images, PROMPT, max_visual_tokens=least - 1)
    assert count(family, images, max_visual_tokens=least) == least
