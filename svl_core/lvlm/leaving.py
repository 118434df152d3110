"""What the layers of a model hand on, kept at a few positions of a pass."""

from __future__ import annotations

import torch

from svl_core.lvlm.families import residual, stacks_streams
from svl_core.lvlm.hooks import OutputAction, ThreadHooks, hidden_of
from svl_core.lvlm.model import LVLM


class Leaving:
    """What every layer hands on at some positions of passes over one sequence.

    lvlm: the model.
    """

    def __init__(self, lvlm: LVLM):
        self._lvlm = lvlm
        self._states: dict[int, torch.Tensor] = {}

    def watching(
        self,
        where: slice | torch.Tensor,
    ) -> ThreadHooks:
        """Hooks that keep the states of the pass within this block.

        where: which of its positions.
        """
        self._states = {}
        hooks = ThreadHooks()
        for number, layer in enumerate(self._lvlm.layers):
            hooks.on_output(
                layer,
                self._keeping(
                    number,
                    where,
                ),
            )
        return hooks

    def stacked(self) -> torch.Tensor:
        """(L, n, d), or (N, L, n, d) where layers hand on N streams.

        A layer that the model passes over (cross-attention without an image) hands its input on.
        """
        rows: list[torch.Tensor] = []
        for number in range(self._lvlm.num_layers):
            before = rows[-1] if rows else None
            state = self._states.get(number, before)
            assert state is not None, "the first layer always runs"
            rows.append(state)
        return torch.stack(rows, dim=-3)

    def _keeping(
        self,
        number: int,
        where: slice | torch.Tensor,
    ) -> OutputAction:
        def action(args, kwargs, output):
            hidden = hidden_of(output)
            if not stacks_streams(self._lvlm.text_config):
                hidden = residual(hidden, self._lvlm.text_config)
            hidden = hidden[..., 0, where, :]
            self._states[number] = hidden.to(
                self._lvlm.device,
                copy=True,
            )

        return action
