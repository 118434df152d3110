"""Hyper-connections: decoder layers hand on several residual streams and mix them, (B, S, N, d) in
some models and side by side in others. All of them together are what a layer takes and gives.
"""

import numpy as np
import pytest
import torch
from state_table import loaded
from tiny import picture
from zoo_h_to_z import ZOO

import svl_core as svl
from svl_core.errors import InputError
from svl_core.lvlm.families import positioned, residual

STREAMS = {"hy_v4_vl": 4, "qwen4_exp": 2}  # an entry -> how many its tiny model has
QUESTION = "what is in the top left ?"


@pytest.fixture(scope="module", params=[entry for entry in STREAMS if entry in ZOO])
def read(request):
    """(streams, model, sample, its trace)"""
    lvlm = loaded(request.param, ZOO[request.param])
    sample = lvlm.encode(picture(100, 60), QUESTION)
    return STREAMS[request.param], lvlm, sample, svl.trace(lvlm, [sample])


def outputs(lvlm, sample):
    """What each layer gives, by plain torch hooks: (L, S, N d)."""
    kept = []

    def keep(module, args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        kept.append(hidden[0].reshape(sample.length, -1))

    handles = [layer.register_forward_hook(keep) for layer in lvlm.layers]
    with torch.inference_mode():
        lvlm.model(**sample.inputs)
    for handle in handles:
        handle.remove()
    return torch.stack(kept)


def test_a_trace_holds_all_streams(read):
    streams, lvlm, sample, trace = read
    assert lvlm.hidden_size == trace.hidden_size == streams * 64
    assert torch.equal(trace.samples[0].features[1:], outputs(lvlm, sample))


def test_redundancy_is_the_cosine_of_all_streams(read):
    """ShortGPT's by hand: the mean cosine of what enters and leaves, over all positions."""
    _, _, _, trace = read
    states = trace.samples[0].features.double().numpy()
    products = (states[1:] * states[:-1]).sum(-1)
    lengths = np.linalg.norm(states, axis=-1)
    cosines = (products / lengths[1:] / lengths[:-1]).mean(1)
    scores = svl.redundancy(trace, svl.importance(trace), criterion="shortgpt")
    np.testing.assert_allclose(scores.scores, cosines, atol=1e-6)


def test_the_last_layer_reads_as_what_the_model_says(read):
    _, lvlm, sample, _ = read
    found = svl.lens(lvlm, sample)
    assert (found.rank[-1] == 0).all()


def test_fitted_compensations_are_refused(read):
    streams, lvlm, _, trace = read
    plan = svl.plan(svl.redundancy(trace, svl.importance(trace)), 1)
    wanted = f"layers mix {streams} residual streams; expected one for 'scp'; choose 'none'"
    with pytest.raises(InputError, match=wanted):
        svl.prune(lvlm, plan, compensation="scp", calibration=trace)


def test_positions_are_covered_in_all_streams(read):
    """A layer whose visual tokens stay as they came, whatever the streams' form (ShortV)."""
    _, lvlm, sample, trace = read
    scores = svl.redundancy(trace, None, "shortv", lvlm=lvlm, samples=[sample])
    assert np.isfinite(scores.scores).all() and len(scores.scores) == lvlm.num_layers


def test_forms_of_streams(read):
    """Three positions of N streams of two channels each."""
    streams, lvlm, _, _ = read
    hidden = torch.arange(6.0 * streams).reshape(1, 3, streams, 2)
    joined = residual(hidden, lvlm.text_config)
    assert joined.shape == (1, 3, 2 * streams) and torch.equal(joined[0, 1], hidden[0, 1].flatten())
    assert torch.equal(residual(joined, lvlm.text_config), joined)
    view = positioned(hidden, lvlm.text_config)
    view[..., 1, :] = 0.0
    assert (hidden[0, 1] == 0).all() and (hidden[0, 2] != 0).all()
