"""What an answer costs, counted: numbers worked out by hand for tiny models, and what thinning,
tying, experts and bridges change.
"""

import builders
import pytest
import torch
from tiny import tiny_llava

from svl_core.analysis.trace import trace
from svl_core.lvlm import work
from svl_core.lvlm.families import family_of
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.skeleton import empty
from svl_core.lvlm.vision import see
from svl_core.lvlm.work import count_work, matrices, vision_patches
from svl_core.pruning.plan import manual_plan
from svl_core.pruning.prune import prune
from svl_core.pruning.tokens import keep_visual, thin
from svl_core.pruning.view import pruned_view
from svl_core.recipe import Recipe

# the tiny LLaVA: 64 wide, 4 heads and 2 of keys of 16 numbers, MLPs of 128
LAYER = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128
# its tower: 2 layers, 32 wide, MLPs of 64, behind patches of 3 x 16 x 16
TOWER = 2 * (4 * 32 * 32 + 2 * 32 * 64) + 32 * 3 * 16 * 16
PROJECTOR = 32 * 64 + 64 * 64
PATCHES = 36


def words(lvlm) -> int:
    return lvlm.model.get_input_embeddings().num_embeddings


def test_by_hand(tiny, tiny_sample):
    found = count_work(tiny, tiny_sample)
    length = tiny_sample.length
    attention = 6 * length**2 * 4 * 16
    image = PATCHES * (TOWER + PROJECTOR)
    assert found.prefill == image + length * 6 * LAYER + attention + 64 * words(tiny)
    cache = 6 * 2 * length * 2 * 16
    assert found.decode == 4 * (6 * LAYER + 64 * words(tiny) + cache)
    assert found.decode_products == 6 * 7 + 1
    assert found.prefill_products == 6 * 7 + 1 + 2 + (1 + 2 * 6)


def test_dropped_layers_cost_nothing(tiny, tiny_sample):
    more, less = (count_work(m, tiny_sample) for m in (tiny, pruned_view(tiny, [0, 1, 4, 5])))
    length = tiny_sample.length
    assert more.prefill - less.prefill == 2 * (length * LAYER + length**2 * 64)
    assert more.decode - less.decode == 4 * 2 * (LAYER + 2 * length * 32)
    assert more.decode_products - less.decode_products == 2 * 7


def test_a_tied_head_is_read_and_the_table_of_words_is_not(tiny, tiny_sample):
    model, processor = tiny_llava(tie=True)
    tied = LVLM(model, processor, family_of(model.config), "tied")
    assert tied.num_parameters < tiny.num_parameters
    assert count_work(tied, tiny_sample) == count_work(tiny, tiny_sample)


def test_half_precision_reads_half(tiny, tiny_sample):
    model, processor = tiny_llava()
    half = LVLM(model.to(torch.bfloat16), processor, family_of(model.config), "half")
    assert count_work(half, tiny_sample).decode == count_work(tiny, tiny_sample).decode / 2
    assert count_work(half, tiny_sample).prefill == count_work(tiny, tiny_sample).prefill


def test_a_seen_image_costs_what_it_did(tiny, tiny_sample):
    """Its time counts as the answer's, though nobody waits for it again."""
    again = see(tiny, tiny_sample)
    assert again.features is not None
    assert count_work(tiny, again) == count_work(tiny, tiny_sample)


def test_an_embedded_image_is_not_seen_again(tiny, tiny_sample):
    thin = keep_visual(tiny, tiny_sample, 0.5)
    assert thin.length == tiny_sample.length - PATCHES // 2
    found = count_work(tiny, thin)
    assert vision_patches(tiny, thin) == 0
    length = thin.length
    assert found.prefill == length * 6 * LAYER + length**2 * 6 * 64 + 64 * words(tiny)
    assert found.prefill_products == found.decode_products


def test_a_bridge_adds_its_two_maps_and_an_edit_nothing(tiny, tiny_sample):
    traced = trace(tiny, tiny_sample, mlp=True)
    chosen = manual_plan([2, 3], 6)
    plain, edited, bridged = (
        count_work(prune(tiny, chosen, name, traced), tiny_sample)
        for name in ("none", "lstsq", "bridge")
    )
    assert edited == plain
    maps = 2 * 64 * Recipe().rank
    assert bridged.decode - plain.decode == 4 * maps
    assert bridged.prefill - plain.prefill == tiny_sample.length * maps
    assert bridged.decode_products - plain.decode_products == 2


def test_two_of_eight_experts_are_a_quarter():
    from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

    base, processor = builders.qwen3_vl()
    config = Qwen3VLMoeConfig(
        vision_config=base.vision_config.to_dict(),
        text_config={
            **builders.TEXT,
            "vocab_size": base.text_config.vocab_size,
            "rope_parameters": base.text_config.rope_parameters,
            "head_dim": 16,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
        },
        image_token_id=base.image_token_id,
    )
    model = empty(Qwen3VLMoeForConditionalGeneration, config)
    lvlm = LVLM(model, processor, family_of(config), "experts")
    attention = 2 * 64 * 64 + 2 * 64 * 32
    experts = 8 * 3 * 64 * 32
    router = 8 * 64
    decoder = sum(matrix.size for matrix in matrices(lvlm) if matrix.part == work.DECODER)
    assert decoder == 6 * (attention + experts / 4 + router)


@pytest.mark.parametrize(
    "name, patches",
    [
        ("llava-next", 5 * (32 // 8) ** 2),  # four tiles and the whole
        ("smolvlm", 7 * (32 // 4) ** 2),
        ("internvl", 7 * (32 // 4) ** 2),
        ("qwen2-vl", 160),  # given as patches
    ],
)
def test_patches_of_tiles(name, patches, image):
    lvlm = builders.build(name)
    sample = lvlm.encode(image, "what is this ?")
    assert vision_patches(lvlm, sample) == patches
    assert len(sample.visual) != patches or name == "llava-next"


def thinned(tiny, sample, name, **settings):
    return thin(tiny, sample, Recipe(visual_tokens=name, **settings))


def test_work_of_layers_that_read_fewer_tokens(tiny, tiny_sample):
    """Two layers of all positions, four of 27 fewer; caches likewise."""
    whole, length = count_work(tiny, tiny_sample), tiny_sample.length
    fewer = length - 27
    sample = thinned(tiny, tiny_sample, "fastv", visual_share=0.25, visual_from=2)
    found = count_work(tiny, sample)
    attention = 4 * 64 * (length**2 - fewer**2)
    assert whole.prefill - found.prefill == 4 * LAYER * 27 + attention
    assert whole.decode - found.decode == 4 * (2 * 32 * 27) * 4
    assert whole.prefill_products == found.prefill_products
    beside = count_work(pruned_view(tiny, [0, 1, 2]), sample)
    one = count_work(pruned_view(tiny, [0, 1, 2]), tiny_sample)
    assert one.prefill - beside.prefill == LAYER * 27 + 64 * (length**2 - fewer**2)


def test_work_of_layers_that_skip_visual_tokens(tiny, tiny_sample):
    """Queries and outputs of two squares of 64, and an MLP of three maps of 64 x 128."""
    whole, visual = count_work(tiny, tiny_sample), len(tiny_sample.visual)
    attention = 2 * 64 * 64 * visual + 64 * visual**2
    mlp = 3 * 64 * 128 * visual
    for name, saved in (
        ("shortv", attention + mlp),
        ("skip-attention", attention),
        ("skip-mlp", mlp),
    ):
        found = count_work(tiny, thinned(tiny, tiny_sample, name, visual_layers=(1, 4)))
        assert whole.prefill - found.prefill == 2 * saved, name
        assert found.decode == whole.decode
