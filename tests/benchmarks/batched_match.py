"""Many pruned models of one full model on the same answers at once: what they have in common is
computed once.

Each model is a sequence of decoder layers, some of them edited. Models that begin with the same
layers share their hidden states up to the first difference (the full model's own states where
nothing differs yet), and questions about one picture share its positions. A greedy answer equals
the true one exactly if, reading the true one token by token, the most likely next token is always
the true one: so one pass a batch replaces generation, and the marks are those of generation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from svl_core.errors import InputError
from svl_core.lvlm.decoding import greedy, image_token_ids
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.replay import record
from svl_core.lvlm.sample import Sample
from svl_core.progress import QUIET, Run

TAKEN = {
    "input_ids",
    "attention_mask",
    "pixel_values",
}  # inputs of models whose positions are a plain count and whose attention is causal
BLOCKED = -1e9  # what attention adds where a question must not look at another one


@dataclass(frozen=True, eq=False)
class _Row:
    """One sequence: a picture's positions and the questions about it, one behind the other.

    `questions` are indices of samples.
    """

    questions: tuple[int, ...]
    shared: int
    length: int


def batched_exact_match(
    full: LVLM,
    models: Sequence[LVLM],
    samples: Sequence[Sample],
    answers: Sequence[Sequence[int]],
    *,
    batch_positions: int = 1536,
    longest_row: int = 256,
    run: Run = QUIET,
) -> np.ndarray:
    """(models, samples) bool: whether the model's greedy answer to the sample is exactly the token
    ids of `answers` (the end token included).

    models: pruned views of `full` (or itself). batch_positions: positions in one forward pass;
    longest_row: positions up to which questions about one picture are put into one sequence, none
    seeing another. Raises InputError for a model whose inputs are not one picture, plainly counted
    and causal (the LLaVA family), for an empty answer; Cancelled.
    """
    if any(set(sample.inputs) - TAKEN for sample in samples) or hasattr(
        full.text_config, "layer_types"
    ):
        raise InputError(
            f"Found inputs or layers of {full.name} beyond plain causal positions; expected a model"
            " of the LLaVA family; use evaluate()."
        )
    if len(samples) != len(answers) or not all(answers):
        raise InputError(
            f"Found {len(answers)} answers for {len(samples)} samples; expected one of at least a"
            " token each; pass them in the same order."
        )
    tree = _tree(full, models)
    marks = np.zeros((len(models), len(samples)), bool)
    batches = _batches(_rows(samples, answers, longest_row), batch_positions)
    for done, rows in enumerate(batches):
        run.check("Stopped before all models were measured.")
        run.report(done / len(batches), f"batch {done + 1} of {len(batches)}, {len(models)} models")
        _Batch(full, rows, samples, answers).run(tree, marks)
    return marks


# The models as a tree of layers


@dataclass(eq=False)
class _Node:
    """`layer` of the full model, perhaps edited (`module`), after all nodes above it; `ends`:
    models that end here.
    """

    layer: int
    module: torch.nn.Module
    intact: bool
    children: dict
    ends: list[int]


def _tree(full: LVLM, models: Sequence[LVLM]) -> dict:
    """Nodes by key: models with equal layers from the start share them.

    Keys hold the layer and a digest of its edited tensors.
    """
    place, root = {ident: i for i, ident in enumerate(full.layer_ids)}, {}
    held = [
        {name: tensor.data_ptr() for name, tensor in layer.named_parameters()}
        for layer in full.layers
    ]
    for number, model in enumerate(models):
        children, node = root, None
        for ident, module in zip(model.layer_ids, model.layers, strict=True):
            layer = place[ident]
            edited = {
                name: tensor
                for name, tensor in module.named_parameters()
                if held[layer].get(name) != tensor.data_ptr()
            }
            key = (layer, *(_digest(name, tensor) for name, tensor in edited.items()))
            node = children.setdefault(key, _Node(layer, module, not edited, {}, []))
            children = node.children
        node.ends.append(number)
    return root


def _digest(name: str, tensor: torch.Tensor) -> str:
    return hashlib.sha256(
        name.encode() + tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
    ).hexdigest()


# The samples as rows and batches


def _rows(samples: Sequence[Sample], answers: Sequence[Sequence[int]], longest: int) -> list[_Row]:
    """Samples with equal pictures and equal positions before the prompt in rows together, as many
    as fit.
    """
    groups: dict[tuple, list[int]] = {}
    for i, sample in enumerate(samples):
        shared = int(sample.visual[-1]) + 1
        key = (
            _digest("", sample.inputs["pixel_values"]),
            *sample.inputs["input_ids"][0, :shared].tolist(),
        )
        groups.setdefault(key, []).append(i)
    rows = []
    for key, members in groups.items():
        shared = len(key) - 1
        row, length = [], shared
        for i in members:
            own = samples[i].length + len(answers[i]) - 1 - shared
            if row and length + own > longest:
                rows.append(_Row(tuple(row), shared, length))
                row, length = [], shared
            row.append(i)
            length += own
        rows.append(_Row(tuple(row), shared, length))
    return rows


def _batches(rows: Sequence[_Row], positions: int) -> list[list[_Row]]:
    """Rows of one or of several questions, lengths alike, as many in a batch as have `positions`
    positions with padding.
    """
    made: list[list[_Row]] = []
    for several in (False, True):
        batch: list[_Row] = []
        for row in sorted(
            (r for r in rows if (len(r.questions) > 1) == several), key=lambda r: r.length
        ):
            if batch and (len(batch) + 1) * row.length > positions:
                made.append(batch)
                batch = []
            batch.append(row)
        made += [batch] if batch else []
    return made


class _Batch:
    """The full model's pass over some rows, with what every layer was given, and where the answers
    are read off.
    """

    def __init__(
        self,
        full: LVLM,
        rows: Sequence[_Row],
        samples: Sequence[Sample],
        answers: Sequence[Sequence[int]],
    ):
        self.full, self.owner, self.questions = full, [], [i for row in rows for i in row.questions]
        size, device = max(row.length for row in rows), full.device
        ids = torch.full((len(rows), size), full.tokenizer.pad_token_id or 0)
        places, block = torch.arange(size).repeat(len(rows), 1), torch.full((len(rows), size), -1)
        at, targets, asked = [], [], 0
        for r, row in enumerate(rows):
            ids[r, : row.shared] = (
                samples[row.questions[0]].inputs["input_ids"][0, : row.shared].cpu()
            )
            block[r, : row.shared] = 0
            end = row.shared
            for number, i in enumerate(row.questions, 1):
                own = torch.cat(
                    [
                        samples[i].inputs["input_ids"][0, row.shared :].cpu(),
                        torch.tensor(list(answers[i][:-1]), dtype=torch.long),
                    ]
                )
                ids[r, end : end + len(own)], block[r, end : end + len(own)] = own, number
                places[r, end : end + len(own)] = row.shared + torch.arange(len(own))
                end += len(own)
                at += [(r, end - len(answers[i]) + k) for k in range(len(answers[i]))]
                targets += answers[i]
                self.owner += [asked] * len(answers[i])
                asked += 1
        self.at = torch.tensor(at, device=device).T
        self.targets, self.owner = (
            torch.tensor(targets, device=device),
            torch.tensor(self.owner, device=device),
        )
        inputs = {
            "input_ids": ids.to(device),
            "position_ids": places.to(device),
            "pixel_values": torch.cat(
                [samples[row.questions[0]].inputs["pixel_values"] for row in rows]
            ),
        }
        if any(len(row.questions) > 1 for row in rows):
            same = (block[:, :, None] == block[:, None, :]) | (block[:, None, :] == 0)
            seen = same & torch.ones(size, size, dtype=torch.bool).tril()
            inputs["attention_mask"] = torch.where(seen, 0.0, BLOCKED)[:, None].to(
                device, full.dtype
            )
        self.recorded = record(full, inputs)

    @torch.inference_mode()
    def run(
        self, tree: dict, marks: np.ndarray, hidden: torch.Tensor | None = None, depth: int = 0
    ) -> None:
        """Walks the tree depth first; `hidden` is what enters its nodes (None: the full model's own
        state at `depth`).
        """
        for node in tree.values():
            if hidden is None and node.intact and node.layer == depth:
                left, following = self.recorded.states[depth + 1], None
            else:
                left = following = self.recorded.step(
                    node.module,
                    node.layer,
                    self.recorded.states[depth] if hidden is None else hidden,
                )
            if node.ends:
                marks[np.ix_(node.ends, self.questions)] = self._marks(left)
            if node.children:
                self.run(node.children, marks, following, depth + 1)

    def _marks(self, hidden: torch.Tensor) -> np.ndarray:
        """(questions of the batch,) bool from the last layer's output."""
        model = self.full
        logits = model.model.get_output_embeddings()(
            model.decoder.norm(hidden[self.at[0], self.at[1]])
        )
        right = (greedy(logits, image_token_ids(model)) == self.targets).long()
        return (
            torch.ones(len(self.questions), dtype=torch.long, device=right.device)
            .scatter_reduce(0, self.owner, right, "amin")
            .bool()
            .cpu()
            .numpy()
        )
