"""The probes of an unknown model: each catches its fault, on a stand-in whose cost does not grow
with the model.
"""

import copy
import dataclasses

import builders
import numpy as np
import pytest
import torch
from perturbation import hits
from tiny import picture, tiny_llava
from transformers import AttentionInterface
from transformers.models.clip.modeling_clip import CLIPEncoderLayer
from transformers.models.llama import modeling_llama
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaDecoderLayer

from svl_core.errors import InputError, SVLError
from svl_core.lvlm import families, features, geometry, probing, vision
from svl_core.lvlm.model import LVLM

KINDS = {  # of 6 layers
    "llava": [0, 1, 2, 5],  # all equal
    "gemma3": [0, 1, 2, 5],  # sliding attention, but for 2 and 5
    "qwen3.5": [0, 1, 2, 5],  # linear attention, but for 2 and 5
    "mllama": [0, 1, 2, 4, 5],  # 1 and 4 are cross-attention
}


def unknown(model, processor):
    return LVLM(model, processor, families.GENERIC, "unknown")


@pytest.fixture
def model():
    """A LLaVA of 6 layers that nobody knows."""
    return unknown(*tiny_llava())


@pytest.fixture
def calls(monkeypatch):
    """{class: calls of its layers}."""
    counted = {LlamaDecoderLayer: 0, CLIPEncoderLayer: 0}

    def counting(kind):
        forward = kind.forward

        def counted_forward(self, *args, **kwargs):
            counted[kind] += 1
            return forward(self, *args, **kwargs)

        monkeypatch.setattr(kind, "forward", counted_forward)

    for kind in counted:
        counting(kind)
    return counted


def deep(layers):
    """A LLaVA with so many decoder layers and vision blocks."""
    from transformers import LlavaForConditionalGeneration

    model, processor = tiny_llava()
    config = model.config
    config.text_config.num_hidden_layers = config.vision_config.num_hidden_layers = layers
    torch.manual_seed(0)
    return unknown(LlavaForConditionalGeneration(config).float().eval(), processor)


# What it costs


def test_the_cost_hardly_grows_with_the_depth(calls):
    """All layers run three times, for a question without a picture; the vision tower's first block
    runs once.
    """
    spent = []
    for layers in (8, 16):
        for kind in calls:
            calls[kind] = 0
        assert probing.probe(deep(layers)).family.geometry == "square"
        spent.append(dict(calls))
    assert spent[1][LlamaDecoderLayer] - spent[0][LlamaDecoderLayer] == 3 * (16 - 8)
    assert spent[0][CLIPEncoderLayer] == spent[1][CLIPEncoderLayer] == 1


def test_the_whole_model_gives_the_same(calls):
    lvlm = deep(8)
    light = probing.probe(lvlm)
    seen = dict(calls)
    whole = probing._probed(lvlm, next(probing._samples(lvlm)), 1)
    assert light.family == whole.family and light.model is lvlm.model
    assert calls[CLIPEncoderLayer] > 100 * seen[CLIPEncoderLayer]


def test_a_picture_of_few_positions_is_asked_about():
    """Of a strip and a square, the shorter; tiles follow the shape."""
    smol = dataclasses.replace(builders.build("smolvlm"), family=families.GENERIC)
    chosen = next(probing._samples(smol))
    lengths = [
        smol.encode(probing.noise(*size), probing.QUESTION).length for size in probing.PICTURES
    ]
    assert chosen.length == min(lengths) < max(lengths)


@pytest.mark.parametrize("name", KINDS)
def test_two_layers_of_each_kind_and_the_last(name):
    assert probing._two_of_each_kind(builders.build(name)) == KINDS[name]


def test_a_kind_that_only_a_setting_tells(model):
    model.layers[3].self_attn.temperature = 0.5
    model.layers[4].mlp.act_fn = torch.nn.Identity()
    assert probing._two_of_each_kind(model) == [0, 1, 3, 4, 5]


# What it catches


def refused(lvlm, step):
    with pytest.raises(InputError, match=f'fails the probe "{step}"'):
        probing.probe(lvlm)


def test_a_layer_that_minds_its_number_is_caught(model, monkeypatch):
    """A stand-in whose layers are numbered anew would pass by itself."""
    forward = LlamaDecoderLayer.forward

    def by_number(self, hidden_states, *args, **kwargs):
        out = forward(self, hidden_states, *args, **kwargs)
        return out * (2 if self.self_attn.layer_idx == 3 else 1)

    monkeypatch.setattr(LlamaDecoderLayer, "forward", by_number)
    refused(model, "pruning equals skipping")


def test_an_attention_of_the_models_own_is_caught(model, monkeypatch):
    own = AttentionInterface()["sdpa"]
    monkeypatch.setattr(
        modeling_llama.ALL_ATTENTION_FUNCTIONS, "get_interface", lambda *args: own, raising=False
    )
    refused(model, "attention")


def test_a_cache_that_forgets_is_caught(model, monkeypatch):
    forward = LlamaAttention.forward

    def forgetful(self, *args, **kwargs):
        kept = kwargs.keys() & {"past_key_values", "cache"}
        return forward(self, *args, **kwargs | dict.fromkeys(kept))

    monkeypatch.setattr(LlamaAttention, "forward", forgetful)
    refused(model, "generation with a cache")


def test_padding_that_is_looked_at_makes_batches_of_one(model, monkeypatch):
    forward = modeling_llama.LlamaModel.forward

    def heedless(self, *args, attention_mask=None, **kwargs):
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(modeling_llama.LlamaModel, "forward", heedless)
    found = probing.probe(model)
    assert not found.family.batched and found.most_together(8) == 1
    assert model.most_together(8) == 8


def test_features_that_do_not_stand_for_the_picture_are_not_kept(model, monkeypatch):
    monkeypatch.setattr(
        vision, "renewed", lambda value: features.mapped(value, lambda tensor: tensor * 2)
    )
    assert not probing.probe(model).family.sees_once


def test_a_picture_that_nothing_follows_is_caught(model, monkeypatch):
    with torch.no_grad():
        model.model.model.multi_modal_projector.linear_1.weight.zero_()
    refused(model, "visual positions")


def test_few_layers_are_caught():
    refused(unknown(*tiny_llava(2)), "decoder layers")


def test_what_fails_light_is_tried_whole(monkeypatch):
    """Blocks that cannot hand on, and a stand-in that fails a probe: served all the same."""
    lvlm = deep(8)
    tried = []
    probed = probing._probed

    def failing(candidate, *rest):
        tried.append(candidate.num_layers)
        if candidate.num_layers < lvlm.num_layers:
            raise InputError("Found a fault of the stand-in alone.")
        return probed(candidate, *rest)

    def broken(*args):
        raise RuntimeError("These blocks take no such thing.")

    monkeypatch.setattr(probing, "_probed", failing)
    assert probing.probe(lvlm).family.geometry == "square" and tried == [4, 4, 8]
    monkeypatch.setattr(probing._HandingOn, "forward", broken)
    tried.clear()
    assert probing.probe(lvlm).family.geometry == "square" and tried == [4, 8]


# Places


@pytest.mark.parametrize("name", ["llava", "qwen2.5-vl", "smolvlm", "internvl"])
@pytest.mark.parametrize("at_once", [1, probing.TRIED])
def test_right_places_hold_and_mirrored_ones_do_not(name, at_once, monkeypatch):
    lvlm = builders.build(name)
    right = geometry.GEOMETRIES[lvlm.family.geometry]

    def mirrored(view):
        return [
            geometry.Places(np.stack([1 - r[:, 2], r[:, 1], 1 - r[:, 0], r[:, 3]], axis=1))
            for r in (places.rects for places in right(view))
        ]

    monkeypatch.setitem(geometry.GEOMETRIES, "mirrored", mirrored)
    wrong = dataclasses.replace(lvlm, family=dataclasses.replace(lvlm.family, geometry="mirrored"))
    for image in (picture(168, 392), picture(392, 168)):
        assert probing.places_hold(lvlm, image, at_once)
        assert not probing.places_hold(wrong, image, at_once)


@pytest.fixture
def padding():
    """A Qwen2-VL that nobody knows, whose processor pads pictures where the stock one stretches
    them.
    """
    from PIL import ImageOps
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    class Padding(Qwen2VLImageProcessorPil):
        max_patches = 400

        def __call__(self, images, **options):
            flat = [image for each in images for image in each]
            return super().__call__([self.fitted(image) for image in flat], **options)

        def fitted(self, image):
            scale = min(1, (400 / ((image.width // 8) * (image.height // 8))) ** 0.5)
            small = image.resize((int(image.width * scale), int(image.height * scale)))
            width, height = (-(-edge // 16) * 16 for edge in small.size)
            return ImageOps.expand(small, (0, 0, width - small.width, height - small.height))

    known = builders.build("qwen2-vl")
    processor = copy.copy(known.processor)
    stock = processor.image_processor
    processor.image_processor = Padding(
        patch_size=8, merge_size=2, temporal_patch_size=2, do_resize=False
    )
    processor.image_processor.size = {"max_height": 512, "max_width": 512}
    assert type(stock) is not Padding
    return unknown(known.model, processor)


@pytest.mark.parametrize("at_once", [1, probing.TRIED])
def test_padding_is_told_from_stretching(padding, at_once):
    """On flat and tiny pictures the rim is a large part (Kimi-K2.5); and the other way round."""
    assert probing._placed(padding, at_once).family.geometry == "padded_grid"
    stretching = dataclasses.replace(builders.build("qwen2-vl"), family=families.GENERIC)
    assert probing._placed(stretching, at_once).family.geometry == "merged_grid"


def test_padded_places_hold_on_every_shape(padding):
    family = dataclasses.replace(padding.family, geometry="padded_grid")
    placed = dataclasses.replace(padding, family=family)
    shapes = [(300, 30), (31, 211), (45, 37), (389, 167)]
    assert all(all(hits(placed, [picture(*shape)], positions=5)) for shape in shapes)


@pytest.fixture
def fitting():
    """Makes a LLaVA that nobody knows, whose processor stretches pictures to its square, or pads
    them to one first.
    """
    from PIL import ImageOps
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    class Padding(CLIPImageProcessorPil):
        def __call__(self, images, **options):
            flat = [image for each in images for image in each]
            return super().__call__([self.squared(image) for image in flat], **options)

        def squared(self, image):
            edge = max(image.size)
            left, top = ((edge - side) // 2 for side in image.size)
            right, foot = edge - image.width - left, edge - image.height - top
            return ImageOps.expand(image, (left, top, right, foot))

    def made(pads):
        known = builders.build("paligemma")
        if not pads:
            return dataclasses.replace(known, family=families.GENERIC)
        processor = copy.copy(known.processor)
        stock = processor.image_processor
        processor.image_processor = Padding(size=stock.size, do_center_crop=False)
        processor.image_processor.image_seq_length = stock.image_seq_length
        return unknown(known.model, processor)

    return made


@pytest.mark.parametrize("at_once", [1, probing.TRIED])
@pytest.mark.parametrize(("pads", "right"), [(False, "square"), (True, "padded_square")])
def test_squares_that_are_padded_are_told_from_stretched_ones(fitting, pads, right, at_once):
    """Each rule holds on its own processor in every large picture, and in neither on the other's:
    a cell of the wrong one covers more than two of the right one, and lies within them in the
    middle of the picture.
    """
    lvlm = fitting(pads)
    for rule in ("square", "padded_square"):
        tried = dataclasses.replace(lvlm, family=dataclasses.replace(lvlm.family, geometry=rule))
        held = [
            probing.places_hold(tried, probing.noise(*shape), at_once) for shape in probing.SHAPES
        ]
        assert held == [rule == right] * 2
    if at_once > 1:
        assert probing._placed(lvlm, at_once).family.geometry == right


def test_columns_are_not_taken_for_rows(monkeypatch):
    """The tried positions of a square lie where their mirror images lie, so that a rule whose rows
    are the model's columns would pass were they all changed at once.
    """
    from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

    forward = LlavaMultiModalProjector.forward
    columns = np.arange(36).reshape(6, 6).T.ravel()
    monkeypatch.setattr(
        LlavaMultiModalProjector, "forward", lambda self, seen: forward(self, seen)[:, columns]
    )
    lvlm = unknown(*tiny_llava())
    square = dataclasses.replace(lvlm, family=dataclasses.replace(lvlm.family, geometry="square"))
    for shape in probing.SHAPES:
        assert not probing.places_hold(square, probing.noise(*shape), probing.TRIED)


def test_masked_logits_are_left_out_of_a_comparison(model):
    """With the lowest number of all among them, any spread is infinite and any difference none."""
    expected = torch.tensor([[1.0, 2.0, 4.0, torch.finfo(torch.float32).min]])
    probing._equal(model, expected.clone(), expected)
    other = expected.clone()
    other[0, 1] = 2.5
    with pytest.raises(SVLError, match="logits differ by 0.33 of their spread"):
        probing._equal(model, other, expected)  # 0.5 of the deviation of 1, 2 and 4: 1.53
    unmasked = expected.clone()
    unmasked[0, 3] = 1.0
    with pytest.raises(SVLError, match="other logits are masked"):
        probing._equal(model, unmasked, expected)


def test_unknown_streams_are_refused(model, monkeypatch):
    """A layer gets (B, S, n, d), and the config names no number of streams that layers mix."""
    reached = probing.reaching

    def streams(lvlm, layer, sample):
        (hidden, *args), kwargs = reached(lvlm, layer, sample)
        return (hidden[:, :, None].expand(-1, -1, 4, -1), *args), kwargs

    monkeypatch.setattr(probing, "reaching", streams)
    with pytest.raises(InputError, match=r"reaching the decoder.*4 residual streams of which"):
        probing.probe(model)


def test_states_of_earlier_blocks_are_refused(model, monkeypatch):
    """Attention residuals: a layer gets (B, S, n, d) of n blocks beside its stream."""
    reached = probing.reaching

    def blocks(lvlm, layer, sample):
        (hidden, *args), kwargs = reached(lvlm, layer, sample)
        return (hidden, hidden[:, :, None].expand(-1, -1, 2, -1), *args), kwargs

    monkeypatch.setattr(probing, "reaching", blocks)
    with pytest.raises(InputError, match=r"what earlier blocks of layers gave \(attention residu"):
        probing.probe(model)


def test_a_fault_of_the_library_is_named(model, monkeypatch):
    """A class that reads what its decoder's output does not have (Llama 4 in transformers 5.24)."""
    forward = type(model.model).forward

    def faulty(self, *args, **kwargs):
        return forward(self, *args, **kwargs).image_outputs_of_none

    monkeypatch.setattr(type(model.model), "forward", faulty)
    told = (
        r'"a plain pass" \(LlavaForConditionalGeneration of transformers 5\S* itself ends it with'
    )
    with pytest.raises(InputError, match=told + " the AttributeError .*image_outputs_of_none"):
        probing.probe(model)


def test_a_class_without_generation_is_refused():
    from transformers import LlamaConfig, LlamaModel

    with pytest.raises(InputError, match=r'"generation" \(LlamaModel generates no text\)'):
        with torch.device("meta"):
            probing.refuse_without_layers(LlamaModel(LlamaConfig(num_hidden_layers=3)), "x")


def test_an_attention_that_cannot_be_watched_rightly(model):
    """Its statistics would leave the bias out, or have no layer."""
    attention = model.layers[0].self_attn
    tensors = [torch.zeros(1, 2, 3, 4)] * 3
    token = probing._WATCHING.set(set())
    try:
        for name in ("relative_bias", "sinks"):
            with pytest.raises(SVLError, match=f"with a {name} of its own"):
                probing._watched(attention, *tensors, None, **{name: torch.zeros(1)})
        with pytest.raises(SVLError, match="does not know the number of its layer"):
            probing._watched(torch.nn.Identity(), *tensors, None)
    finally:
        probing._WATCHING.reset(token)


def test_another_picture_is_tried_where_the_model_does_not_read_the_first():
    """LightOnOCR's vision side wants two rows of patches, and its processor gives a strip one."""
    from zoo import lighton_ocr

    config, processor = lighton_ocr()
    nobody = unknown(builders.weighted(config).eval(), processor)
    with pytest.raises(InputError, match="the model itself does not"):
        probing.entering(nobody, next(probing._samples(nobody)))
    assert probing.probe(nobody).family.geometry == "row_breaks"
