"""The linear maps that end a layer's parts: by name, by shape, of every expert, or refused with
what can be edited instead.
"""

import pytest
import torch
from transformers import Lfm2Config, Qwen3MoeConfig
from transformers.models.falcon_h1.modeling_falcon_h1 import FalconH1MLP
from transformers.models.lfm2.modeling_lfm2 import Lfm2DecoderLayer, Lfm2MLP
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeDecoderLayer

from svl_core.errors import InputError
from svl_core.lvlm import roles
from svl_core.pruning.edits import apply_to

WIDTH = 16


def linear(into, out):
    return torch.nn.Linear(into, out, bias=False)


def parts(**modules):
    holder = torch.nn.Module()
    for name, module in modules.items():
        holder.add_module(name, module)
    return holder


def attention():
    """Even heads: each map is square, or nearly so."""
    return parts(a=linear(16, 16), b=linear(16, 16), c=linear(16, 16), d=linear(16, 16))


def test_by_role_whatever_its_name():
    end = linear(40, 16)
    layer = parts(mix=attention(), ff=parts(one=linear(16, 40), two=end, three=linear(16, 40)))
    assert roles.feed_forward_end(layer) is end
    fused = linear(40, 16)
    layer = parts(mix=attention(), ff=parts(both=linear(16, 80), back=fused))
    assert roles.feed_forward_end(layer) is fused
    # a short convolution, (d, 3 d) and (d, d), is none; nor a query in few dimensions and back
    layer = parts(conv=parts(into=linear(16, 48), out=linear(16, 16)), ff=layer.ff)
    assert roles.feed_forward_end(layer) is fused


def test_a_name_goes_before_a_role():
    end = linear(16, 16)
    layer = parts(mlp=parts(up_proj=linear(16, 16), down_proj=end))
    assert roles.feed_forward_end(layer) is end


@pytest.mark.parametrize(
    "layer",
    [
        parts(mix=attention()),
        parts(ff=parts(one=linear(16, 16), two=linear(16, 16))),  # nothing tells them apart
        parts(
            one=parts(up=linear(16, 40), down=linear(40, 16)),
            two=parts(up=linear(16, 24), down=linear(24, 16)),
        ),
    ],
)
def test_where_the_shapes_do_not_tell_it_is_said(layer):
    with pytest.raises(InputError, match=r"Found [02] linear maps that may end .* choose or comp"):
        roles.feed_forward_end(layer)


def test_what_can_be_edited_instead_is_named():
    end = linear(16, 16)
    layer = parts(self_attn=parts(o_proj=end))
    assert roles.attention_end(layer) is end
    with pytest.raises(InputError, match="choose lstsq or refit with --targets attention, or comp"):
        roles.feed_forward_end(layer)
    with pytest.raises(InputError, match="no linear map that ends an attention in Module"):
        roles.attention_end(parts(ff=linear(16, 16)))


def lfm2():
    config = Lfm2Config(
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=48,
        layer_types=["conv", "full_attention"],
    )
    return config


@pytest.mark.parametrize("number", [0, 1])
def test_lfm2(number):
    """Of its layers of both kinds: `feed_forward.w2`, the last map of its own forward."""
    layer = Lfm2DecoderLayer(lfm2(), number)
    assert isinstance(layer.feed_forward, Lfm2MLP)
    assert roles.feed_forward_end(layer) is layer.feed_forward.w2


def test_falcon_h1():
    config = type(
        "Config",
        (),
        {
            "hidden_size": WIDTH,
            "intermediate_size": 40,
            "mlp_bias": False,
            "hidden_act": "silu",
            "mlp_multipliers": (1.0, 1.0),
        },
    )()
    layer = parts(feed_forward=FalconH1MLP(config))
    assert roles.feed_forward_end(layer) is layer.feed_forward.down_proj


# Mixtures of experts


def mixture():
    config = Qwen3MoeConfig(
        hidden_size=WIDTH,
        moe_intermediate_size=24,
        intermediate_size=40,
        num_experts=4,
        num_experts_per_tok=2,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
    )
    torch.manual_seed(0)
    layer = Qwen3MoeDecoderLayer(config, 1).float().eval()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(0, 0.3)
    return layer


@torch.inference_mode()
def test_a_map_of_every_expert_is_a_map_of_their_sum():
    layer = mixture()
    hidden = torch.randn(1, 7, WIDTH)
    before = layer.mlp(hidden)
    edit = torch.randn(WIDTH, WIDTH, dtype=torch.float64)
    weight = layer.mlp.experts.down_proj
    kept = weight.clone()
    [ending] = roles.feed_forward_endings(layer)
    apply_to(ending, edit)
    assert torch.equal(weight, kept)  # a new one was assigned
    expected = before @ edit.float().T
    assert torch.allclose(layer.mlp(hidden), expected, atol=1e-4)


def test_experts_that_lie_the_other_way_round():
    """(E, f, d) with a bias, as in GPT-OSS: the same numbers, by a product written out."""
    experts = torch.nn.Module()
    experts.is_transposed = True
    experts.down_proj = torch.nn.Parameter(torch.randn(3, 5, WIDTH))
    experts.down_proj_bias = torch.nn.Parameter(torch.randn(3, WIDTH))
    layer = parts(mlp=parts(experts=experts))
    weight, bias = experts.down_proj.detach().clone(), experts.down_proj_bias.detach().clone()
    edit = torch.randn(WIDTH, WIDTH, dtype=torch.float64)
    [ending] = roles.feed_forward_endings(layer)
    apply_to(ending, edit)
    for number in range(3):
        for row in range(5):
            expected = edit.float() @ weight[number, row]
            assert torch.allclose(experts.down_proj[number, row], expected, atol=1e-4)
        assert torch.allclose(
            experts.down_proj_bias[number], edit.float() @ bias[number], atol=1e-4
        )


def test_shared_experts_go_with_the_others():
    layer = mixture()
    shared = parts(
        gate_proj=linear(WIDTH, 40), up_proj=linear(WIDTH, 40), down_proj=linear(40, WIDTH)
    )
    layer.mlp.add_module("shared_expert", shared)
    found = roles.feed_forward_endings(layer)
    assert [(one.module, one.weight) for one in found] == [
        (layer.mlp.experts, "down_proj"),
        (shared.down_proj, "weight"),
    ]


def test_no_single_map_of_a_mixture_can_be_fitted():
    with pytest.raises(
        InputError,
        match="mixture of experts in Qwen3MoeDecoderLayer.*'scp', lstsq or refit with --targets",
    ):
        roles.feed_forward_end(mixture())
