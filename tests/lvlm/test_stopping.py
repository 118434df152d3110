"""A pass ends at the next layer after its stop was wished for, in that thread alone."""

import threading

import pytest
import torch

from svl_core.errors import Cancelled
from svl_core.lvlm.stopping import reaching, stoppable
from svl_core.progress import Run


def test_a_pass_ends_at_the_next_layer(tiny, tiny_sample):
    cancel, reached = threading.Event(), []

    def watch(number):
        def hook(module, args):
            reached.append(number)
            if number == 2:
                cancel.set()

        return hook

    handles = [layer.register_forward_pre_hook(watch(k)) for k, layer in enumerate(tiny.layers)]
    try:
        with stoppable(tiny, Run(cancel=cancel)), pytest.raises(Cancelled), torch.inference_mode():
            tiny.model(**tiny_sample.inputs)
        assert reached == [0, 1, 2]  # layer 2 was reached, and its own check stopped it
        with torch.inference_mode():
            tiny.model(**tiny_sample.inputs)  # nothing is left behind
        assert reached[3:] == list(range(tiny.num_layers))
        elsewhere = threading.Thread(target=lambda: tiny.model(**tiny_sample.inputs))
        with stoppable(tiny, Run(cancel=cancel)):
            elsewhere.start()
            elsewhere.join()
        assert len(reached) == 3 + 2 * tiny.num_layers
    finally:
        for handle in handles:
            handle.remove()


def test_a_pass_ends_where_what_is_wanted_is_known(tiny, tiny_sample):
    """The layer's input is what a whole pass gives it, no later layer runs, and a pass of another
    thread meanwhile is not ended.
    """
    with torch.inference_mode():
        whole = tiny.model(**tiny_sample.inputs, output_hidden_states=True)
    ran, elsewhere = [], []

    def watch(module, args, output):
        ran.append(threading.current_thread())
        if len(ran) == 1:
            other = threading.Thread(
                target=lambda: elsewhere.append(tiny.model(**tiny_sample.inputs).logits)
            )
            other.start()
            other.join()

    handle = tiny.layers[1].register_forward_hook(watch)
    try:
        args, kwargs = reaching(tiny, tiny.layers[2], tiny_sample)
    finally:
        handle.remove()
    assert torch.equal(
        args[0] if args else kwargs["hidden_states"], whole.hidden_states[2]
    ) and torch.equal(elsewhere[0], whole.logits)
    assert len(ran) == 2 and not tiny.layers[2]._forward_pre_hooks
