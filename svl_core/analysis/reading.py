"""Hidden states read by a model's own head: the likeliest words, and how one word stands among all.

The states of any number of layers and positions are read a few at a time, so that never more logits
than `head.AT_ONCE` are in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from svl_core.errors import InputError
from svl_core.lvlm.decoding import image_token_ids
from svl_core.lvlm.encoding import printable
from svl_core.lvlm.head import logits_of, rows_at_once
from svl_core.lvlm.model import LVLM
from svl_core.notebook import Shown
from svl_core.progress import QUIET, Run

READING = "reading the layers"


@dataclass(
    frozen=True,
    eq=False,
    repr=False,
)
class Readings(Shown):
    """What the head says of n hidden states. Placeholders of images are never a word.

    top_ids: (n, k) int64, the likeliest tokens, the first one first.
    top_probabilities: (n, k) float32, 0..1, of them.
    probability: (n,) float32, 0..1, of the word that is looked for; NaN where none is.
    rank: (n,) int64, how many tokens are likelier than it; of equals the lower id counts as
        likelier, as the greedy choice has it. -1 where none is looked for.
    entropy: (n,) float32, of the whole distribution, in nats.
    """

    top_ids: np.ndarray
    top_probabilities: np.ndarray
    probability: np.ndarray
    rank: np.ndarray
    entropy: np.ndarray

    def __post_init__(self):
        count = len(self.top_ids)
        for field in fields(self):
            values = getattr(self, field.name)
            if len(values) != count:
                raise ValueError(f"Found {len(values)} rows of {field.name}; expected {count}.")
            values.setflags(write=False)


@torch.inference_mode()
def read(
    lvlm: LVLM,
    hidden: torch.Tensor,
    wanted: Sequence[int] | None = None,
    top: int = 5,
    run: Run = QUIET,
) -> Readings:
    """What a model's head says of hidden states, as if each were the last layer's output.

    lvlm: the model, full or pruned.
    hidden: (n, d), or (N, n, d) where layers hand on N streams; see `head.logits_of`.
    wanted: for each of them the token whose probability and rank are looked for.
    top: how many of the likeliest tokens are kept.
    run: progress and cancellation.

    Raises InputError for a `top` below 1, Cancelled.
    """
    if top < 1:
        raise InputError(f"Found {top} words a place; expected at least 1; raise it.")
    count = hidden.shape[-2]
    step = rows_at_once(lvlm)
    forbidden = list(image_token_ids(lvlm))
    parts = []
    for start in range(0, count, step):
        run.step(start / count, READING)
        rows = slice(
            start,
            min(
                start + step,
                count,
            ),
        )
        looked_for = None if wanted is None else wanted[rows]
        logits = logits_of(lvlm, hidden[..., rows, :])
        parts.append(
            _reading(
                logits.float(),
                looked_for,
                top,
                forbidden,
            )
        )
    return Readings(
        *(
            np.concatenate(column)
            for column in zip(
                *parts,
                strict=True,
            )
        )
    )


def _reading(
    logits: torch.Tensor, wanted: Sequence[int] | None, top: int, forbidden: Sequence[int]
) -> tuple[np.ndarray, ...]:
    """The fields of `Readings` of some rows. logits: (n, vocab) float32."""
    shares = logits.log_softmax(-1)
    certain = shares.exp()
    entropy = -torch.where(
        certain > 0,
        certain * shares,
        0.0,
    ).sum(-1)
    words = logits.clone()
    words[:, [token for token in forbidden if token < logits.shape[1]]] = float("-inf")
    top_ids = _likeliest(
        words,
        min(
            top,
            logits.shape[1],
        ),
    )
    top_shares = certain.gather(1, top_ids)
    if wanted is None:
        probability = torch.full_like(entropy, torch.nan)
        rank = torch.full_like(
            entropy,
            -1,
            dtype=torch.int64,
        )
    else:
        column = torch.tensor(
            list(wanted),
            device=logits.device,
        )[:, None]
        probability = certain.gather(1, column)[:, 0]
        rank = _rank_of(words, column)
    found = (top_ids, top_shares, probability, rank, entropy)
    return tuple(values.cpu().numpy() for values in found)


def _likeliest(
    words: torch.Tensor,
    count: int,
) -> torch.Tensor:
    """(n, count): the ids of the highest logits; the first one is the greedy choice's also where
    several are equal.
    """
    ids = words.topk(count).indices
    first = words.argmax(-1, keepdim=True)
    others = torch.where(
        ids == first,
        ids[:, :1],
        ids,
    )
    return torch.cat([first, others[:, 1:]], dim=1)


def _rank_of(
    words: torch.Tensor,
    column: torch.Tensor,
) -> torch.Tensor:
    """(n,): how many logits stand before that of the token in `column` (n, 1)."""
    own = words.gather(1, column)
    earlier = (
        torch.arange(
            words.shape[1],
            device=words.device,
        )
        < column
    )
    before = (words > own) | ((words == own) & earlier)
    return before.sum(-1)


def words_of(
    lvlm: LVLM,
    ids: np.ndarray,
) -> np.ndarray:
    """Token ids of any shape as readable words, in the same shape; a leading space shows where a
    word begins.

    Ids that the tokenizer does not have, at the end of a padded vocabulary, are "".
    """
    different, places = np.unique(
        ids,
        return_inverse=True,
    )
    known = len(lvlm.tokenizer)
    spelt = [
        _word(
            lvlm,
            int(token),
        )
        if token < known
        else ""
        for token in different
    ]
    return np.array(
        spelt,
        dtype=object,
    )[places].reshape(ids.shape)


def _word(
    lvlm: LVLM,
    token: int,
) -> str:
    return printable(lvlm.tokenizer, [token])[0]
