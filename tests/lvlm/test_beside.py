"""Attention functions of ours go by names that models take for those which they stand beside."""

import copy
import pickle

import pytest
import torch
from state_table import loaded
from tiny import picture
from zoo_h_to_z import ZOO

import svl_core as svl
from svl_core.errors import SVLError
from svl_core.lvlm import probing
from svl_core.lvlm.beside import Beside


def test_it_equals_both_names_and_is_looked_up_as_its_own():
    name = Beside("ours", "sdpa")
    assert name == "ours" and name == "sdpa" and "sdpa" == name
    assert name in ("eager", "sdpa") and name != "eager" and "eager" != name
    assert not name != "sdpa"
    assert {"ours": 1, "sdpa": 2}[name] == 1 and {name: 1}["ours"] == 1
    for again in (copy.deepcopy(name), pickle.loads(pickle.dumps(name))):
        assert again == "sdpa" and str.__eq__(again, "ours") and again.inner == "sdpa"


def test_a_trace_of_keys_chosen_by_an_indexer_is_the_models_own():
    """More positions than the indexer leaves: the model masks the others by its setting's name."""
    lvlm = loaded("mistral_large4", ZOO["mistral_large4"])
    sample = lvlm.encode(picture(100, 60), "what is in the top left ?")
    assert sample.length > lvlm.text_config.index_topk
    trace = svl.trace(lvlm, [sample])
    entered = []
    hook = lvlm.layers[-1].register_forward_pre_hook(lambda module, args: entered.append(args[0]))
    with torch.inference_mode():
        lvlm.model(**sample.inputs)
    hook.remove()
    assert torch.equal(trace.samples[0].features[-2], entered[0][0])
    found = trace.samples[0].attention
    given = found.text_to_text_seen + found.text_to_visual_seen
    assert given.max() == lvlm.text_config.index_topk  # keys that one query sees


def test_a_model_that_goes_another_way_while_it_is_watched_is_refused(monkeypatch):
    """As it would by a name that it does not take for its own setting's."""
    lvlm = loaded("mistral_large4", ZOO["mistral_large4"])
    sample = lvlm.encode(picture(100, 60), "what is in the top left ?")
    probing._attention(lvlm, sample)
    monkeypatch.setattr(probing, "WATCHED", "svl_probe")
    with pytest.raises(SVLError, match="logits differ by"):
        probing._attention(lvlm, sample)
