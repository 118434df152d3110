"""Which half of a layer is redundant: its attention and its MLP measured apart.

A decoder layer adds to the residual stream twice. Attention alone can often go where the whole
layer cannot (He et al., "What Matters in Transformers? Not All Attention is Needed", arXiv
2406.15786; FinerCut, arXiv 2405.18218, drops either half).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from svl_core.analysis.criterion import Measured, Request
from svl_core.analysis.half_scores import HALVES, SublayerScores
from svl_core.analysis.importance import DEFAULT_TOP_P, TokenImportance, TopP
from svl_core.analysis.lens import check_whole
from svl_core.analysis.tokens import token_positions
from svl_core.analysis.trace import Trace
from svl_core.errors import InputError
from svl_core.lvlm.families import mixed_streams, mlp_entrance, stacks_streams
from svl_core.lvlm.hooks import ThreadHooks, hidden_input, hidden_of
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.sample import Sample
from svl_core.lvlm.vision import forward
from svl_core.progress import QUIET, Run


def sublayers(
    lvlm: LVLM,
    trace: Trace,
    importance: TokenImportance | None = None,
    *,
    tokens: str = "important",
    top_p: TopP | float = DEFAULT_TOP_P,
    run: Run = QUIET,
) -> SublayerScores:
    """How redundant the attention and the MLP of each layer are, by cosine as SVL measures layers.

    The attention's half is all that happens before the norm in front of the MLP; the MLP's is the
    rest of the layer. One pass a sample.

    lvlm: the model.
    trace: its passes over the samples that are measured on.
    importance: TIS of these samples; see `token_positions`.
    tokens: the token set.
    top_p: which tokens count as important, a `TopP` or its share.
    run: progress and cancellation.

    Raises InputError for a trace of another model, one that does not hold its samples, an unknown
    token set, and layers whose halves are not known (several streams, names that no family has);
    Cancelled.
    """
    positions = token_positions(trace, importance, tokens, top_p)
    totals, measured = _sums(lvlm, trace, positions, run)
    total = totals.sum(0)
    counted = measured.sum(0)[:, None]
    with np.errstate(invalid="ignore"):
        cosine, step = total / counted
    parallel = mlp_entrance(lvlm.layers[0]) is None
    return SublayerScores(lvlm.layer_ids, cosine, step, tokens, parallel)


def _sums(
    lvlm: LVLM,
    trace: Trace,
    positions: Sequence[np.ndarray],
    run: Run,
) -> tuple[np.ndarray, np.ndarray]:
    """Of n samples the sums over the chosen tokens of cosines and of steps, (n, 2, L, 2), and in
    each layer how many tokens these are, (n, L): none where the model passed over it.

    positions: for each sample the chosen tokens.
    """
    if trace.layer_ids != lvlm.layer_ids or trace.model_name != lvlm.name:
        raise InputError(
            f"Found a trace of {trace.model_name} with {trace.num_layers} layers; expected one of"
            f" {lvlm.name} with {lvlm.num_layers}; trace it anew."
        )
    _check_halves(lvlm)
    count = len(trace.samples)
    totals = np.zeros((count, 2, lvlm.num_layers, len(HALVES)))
    measured = np.zeros((count, lvlm.num_layers))
    for number in range(count):
        run.step(number / count, f"{number + 1} of {count} samples")
        sample = trace.samples[number].sample
        if sample is None:
            raise InputError(
                "Found a trace without its samples; expected one as `trace` gives it; trace the"
                " samples anew."
            )
        check_whole(sample)
        at = torch.from_numpy(np.array(positions[number]))
        for layer, sums in _measured(
            lvlm,
            sample,
            at,
        ).items():
            totals[number, :, layer] = sums
            measured[number, layer] = len(at)
    return totals, measured


def half_cosines(
    request: Request,
    tokens: str,
) -> Measured:
    """For each of n samples the sum over its chosen tokens of the cosine of what enters and leaves
    each half of L layers: sums (n, 2 L), counts (n, 2 L), in the order of `units`.

    request: with the model; its trace holds the samples. What is known of the halves of its one
        sample on these tokens is not measured again.
    tokens: the token set.

    Raises InputError and Cancelled as `sublayers` does.
    """
    known = request.halves
    if known is not None and _is_of(known, request.trace, tokens):
        means = known.cosine.reshape(1, -1)
        return Measured(means, np.ones_like(means))
    totals, measured = _sums(
        request.model,
        request.trace,
        token_positions(
            request.trace,
            request.importance,
            tokens,
            request.top_p,
        ),
        request.run,
    )
    cosines = totals[:, 0]
    count = len(cosines)
    each = np.repeat(measured[:, :, None], len(HALVES), axis=2)
    return Measured(
        cosines.reshape(count, -1),
        each.reshape(count, -1),
    )


def _is_of(
    known: SublayerScores,
    trace: Trace,
    tokens: str,
) -> bool:
    """Whether what is known can be that of a trace's one sample, on these tokens."""
    if len(trace.samples) != 1 or known.tokens != tokens:
        return False
    return known.layer_ids == trace.layer_ids


def _check_halves(lvlm: LVLM) -> None:
    """Raises InputError for a model whose layers cannot be taken apart."""
    text = lvlm.text_config
    known = not stacks_streams(text) and mixed_streams(text) == 1
    for layer in lvlm.layers:
        parallel = hasattr(layer, "self_attn") and hasattr(layer, "mlp")
        known = known and (mlp_entrance(layer) is not None or parallel)
    if not known:
        raise InputError(
            f"Found layers of {lvlm.name} whose attention and MLP cannot be told apart; expected"
            " one after the other, or both beside each other; measure whole layers."
        )


class _Halves:
    """What enters, stands in the middle of, and leaves each layer, at some positions of a pass."""

    def __init__(
        self,
        lvlm: LVLM,
        at: torch.Tensor,
    ):
        self.entered: dict[int, torch.Tensor] = {}
        self.between: dict[int, torch.Tensor] = {}
        self.left: dict[int, torch.Tensor] = {}
        self._layers = lvlm.layers
        self._at = at

    def watch(
        self,
        hooks: ThreadHooks,
    ) -> None:
        """Registers the hooks of one pass."""
        for number, layer in enumerate(self._layers):
            hooks.on_input(
                layer,
                partial(
                    self._input,
                    self.entered,
                    number,
                ),
            )
            hooks.on_output(
                layer,
                partial(
                    self._output,
                    self.left,
                    number,
                ),
            )
            entrance = mlp_entrance(layer)
            if entrance is None:
                hooks.on_output(
                    layer.get_submodule("self_attn"),
                    partial(
                        self._output,
                        self.between,
                        number,
                    ),
                )
            else:
                hooks.on_input(
                    entrance,
                    partial(
                        self._input,
                        self.between,
                        number,
                    ),
                )

    def pairs(
        self,
        number: int,
    ) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
        """(what enters, what leaves) the attention and the MLP of a layer, (n, d) float64 each."""
        entered = self.entered[number]
        between = self.between[number]
        left = self.left[number]
        if mlp_entrance(self._layers[number]) is not None:
            return (entered, between), (between, left)
        # Beside each other: what stands "between" is what the attention adds.
        return (entered, entered + between), (entered, left - between)

    def _input(
        self,
        kept: dict[int, torch.Tensor],
        number: int,
        args: tuple,
        kwargs: Mapping,
    ) -> None:
        self._keep(
            kept,
            number,
            hidden_input(
                args,
                kwargs,
            ),
        )

    def _output(
        self,
        kept: dict[int, torch.Tensor],
        number: int,
        args: tuple,
        kwargs: Mapping,
        output: Any,
    ) -> None:
        self._keep(kept, number, hidden_of(output))

    def _keep(
        self,
        kept: dict[int, torch.Tensor],
        number: int,
        hidden: torch.Tensor,
    ) -> None:
        kept[number] = hidden[0, self._at].double()


@torch.inference_mode()
def _measured(
    lvlm: LVLM,
    sample: Sample,
    at: torch.Tensor,
) -> dict[int, np.ndarray]:
    """layer -> (2, 2): the sums of cosines and of steps over the positions, of both halves."""
    halves = _Halves(lvlm, at)
    # A number instead of the tensor would let Gemma4 skip positions in its last layers.
    last = torch.tensor(
        [sample.length - 1],
        device=lvlm.device,
    )
    with ThreadHooks() as hooks:
        halves.watch(hooks)
        forward(
            lvlm,
            sample.inputs,
            sample.features,
            use_cache=False,
            logits_to_keep=last,
        )
    sums = {}
    for number in halves.left:
        cosines = []
        steps = []
        for before, after in halves.pairs(number):
            cosine = torch.cosine_similarity(
                before,
                after,
                dim=1,
            )
            added = (after - before).norm(dim=1)
            cosines.append(float(cosine.sum()))
            steps.append(float((added / after.norm(dim=1)).sum()))
        sums[number] = np.array([cosines, steps])
    return sums
