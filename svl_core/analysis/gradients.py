"""A criterion by gradients: how much the loss of the answers' tokens depends on a layer's weights.

The model is left alone: gradients are taken in a view whose parameters share its numbers, and each
is summed and let go as soon as it is there, so that never more than one weight's is in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch.nn import Parameter
from torch.nn.functional import cross_entropy

from svl_core.analysis.criterion import Measured, Request
from svl_core.analysis.skipping import answers_of, without
from svl_core.errors import InputError
from svl_core.lvlm.lengthening import lengthened
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.sample import Sample
from svl_core.lvlm.vision import forward
from svl_core.progress import Run


def gradient_magnitude(request: Request) -> Measured:
    """For each of n samples and L layers the mean size of the loss's gradient by the layer's
    weights: sums (n, L).

    The loss is the mean of -log p (nats) over the tokens of the sample's answer, and the mean of
    |dloss / dw| goes over all numbers w of the layer's parameters.

    Taken from the paper's abstract: gradients' magnitudes as a measure of all layers at once, from
    one backward pass. The paper's formula was not at hand, and no code of the authors is public:
    that these sizes are averaged over a layer, taken of each sample by itself and averaged then,
    and that all layers go by one ranking is this project's reading. Left out: the projection that
    the paper puts where the mean shifts most.

    Source: after GradMAP, arXiv 2602.14649. Raises InputError for weights without gradients
    (quantised, or kept elsewhere until they are used) and for inputs that an answer cannot
    lengthen; Cancelled.
    """
    samples = request.samples
    answers = answers_of(request)
    watched = Watched(request.model)
    count = len(samples)

    def found(number: int, run: Run) -> np.ndarray:
        run.step(number / count, f"gradients of sample {number + 1}")
        return watched.magnitudes(
            samples[number],
            answers[number],
        )

    rows = request.run.deal(range(count), found)
    sums = np.array(list(rows))
    return Measured(sums, np.ones(count))


class Watched:
    """A view of a model whose layers' gradients are summed as they come."""

    def __init__(self, lvlm: LVLM) -> None:
        self._view = without(lvlm, ())
        self._totals = np.zeros(lvlm.num_layers)
        self._sizes = np.ones(lvlm.num_layers)
        for module in self._view.model.modules():
            own = list(module.named_parameters(recurse=False))
            for name, shared in own:
                alone = Parameter(
                    shared.detach(),
                    requires_grad=False,
                )
                setattr(module, name, alone)
        for number, layer in enumerate(self._view.layers):
            parameters = list(layer.parameters())
            self._sizes[number] = sum(each.numel() for each in parameters)
            for parameter in parameters:
                _check(parameter)
                parameter.requires_grad_()
                parameter.register_post_accumulate_grad_hook(partial(self._add, number))

    def _add(
        self,
        number: int,
        parameter: torch.Tensor,
    ) -> None:
        """Counts a gradient of layer `number`, and lets it go."""
        gradient = parameter.grad
        parameter.grad = None
        if gradient is not None:
            size = torch.linalg.vector_norm(
                gradient,
                ord=1,
                dtype=torch.float64,
            )
            self._totals[number] += float(size)

    def magnitudes(
        self,
        sample: Sample,
        answer: Sequence[int],
    ) -> np.ndarray:
        """(L,) the mean size of the loss's gradient by each layer's weights.

        answer: the token ids that the loss is taken of.
        """
        self._totals[:] = 0
        inputs = lengthened(
            sample,
            answer,
            remedy="choose another criterion than 'gradient'",
        )
        with torch.inference_mode(False), torch.enable_grad():
            output = forward(
                self._view,
                inputs,
                sample.features,
                use_cache=False,
                logits_to_keep=len(answer),
            )
            logits = output.logits[0, -len(answer) :].double()  # some models give all
            wanted = torch.tensor(list(answer))
            loss = cross_entropy(logits, wanted.to(logits.device))
            loss.backward()
        return self._totals / self._sizes


def _check(parameter: Parameter) -> None:
    """Raises InputError for a parameter without gradients."""
    quantised = not parameter.is_floating_point()
    elsewhere = parameter.device.type == "meta"
    if quantised or elsewhere:
        found = "quantised weights" if quantised else "weights that are kept elsewhere until used"
        raise InputError(
            f"Found {found}; expected floating-point ones in place to take gradients of; load the"
            " model without, or choose another criterion than 'gradient'."
        )
