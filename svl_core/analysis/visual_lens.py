"""The logit lens on the image: what each patch reads as, layer by layer.

The model's head reads the hidden states at the visual positions, as it does those of the answer
(`analysis/lens.py`). As a rule a model is not trained to predict anything there: the words show in
which direction of the vocabulary a patch's features lie, which from the middle layers on often is
the name of what the patch shows (Neo et al., "Towards Interpreting Visual Information Processing in
Vision-Language Models", arXiv 2410.07149).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from svl_core.analysis.lens import check_same, check_whole
from svl_core.analysis.reading import read, words_of
from svl_core.analysis.trace import Trace
from svl_core.errors import InputError
from svl_core.lvlm.families import stacks_streams
from svl_core.lvlm.leaving import Leaving
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.sample import Sample
from svl_core.lvlm.vision import forward
from svl_core.notebook import Shown
from svl_core.progress import QUIET, Run

SHORTEST = 3  # letters of a token that may stand for a name whose rest comes in further tokens


@dataclass(
    frozen=True,
    eq=False,
    repr=False,
)
class VisualLens(Shown):
    """What P of a sample's V patches read as behind each of L layers.

    layer_ids: for each layer its number in the original model.
    patches: (P,) int64, which of the sample's V visual positions.
    ids: (L, P, k) int64, the likeliest tokens, the first one first.
    words: (L, P, k) these as readable words.
    shares: (L, P, k) float32, 0..1, their probabilities.
    entropy: (L, P) float32, of the whole prediction, in nats.
    """

    layer_ids: tuple[int, ...]
    patches: np.ndarray
    ids: np.ndarray
    words: np.ndarray
    shares: np.ndarray
    entropy: np.ndarray

    def __post_init__(self):
        places = (len(self.layer_ids), len(self.patches))
        self.patches.setflags(write=False)
        for name in ("ids", "words", "shares", "entropy"):
            values = getattr(self, name)
            if values.shape[:2] != places:
                raise ValueError(
                    f"Found {name} of shape {values.shape}; expected {places} layers and patches."
                )
            values.setflags(write=False)

    def brief(self) -> dict[str, Any]:
        return {"layers": len(self.layer_ids), "patches": len(self.patches), "words": self.words}

    def of_patch(
        self,
        patch: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """One patch's words and their probabilities, (L, k) each.

        patch: which of the sample's visual positions. Raises InputError for one that was not read.
        """
        places = np.flatnonzero(self.patches == patch)
        if not len(places):
            raise InputError(
                f"Found patch {patch}; expected one of the {len(self.patches)} that were read;"
                " read it too."
            )
        return self.words[:, places[0]], self.shares[:, places[0]]


@dataclass(
    frozen=True,
    eq=False,
    repr=False,
)
class NamedPatches(Shown):
    """The first layer behind which each of P patches names one of some objects.

    patches: (P,) int64, which of the sample's visual positions.
    names: the names that were looked for.
    left_out: names that were not, for no token of the model stands for them.
    layer: (P,) float64, the layer by its number in the original model; NaN where a patch never
        names one of them.
    name: (P,) int64, which of `names` it is there; -1 where none.
    """

    patches: np.ndarray
    names: tuple[str, ...]
    left_out: tuple[str, ...]
    layer: np.ndarray
    name: np.ndarray

    def __post_init__(self):
        for values in (self.patches, self.layer, self.name):
            if values.shape != self.patches.shape:
                raise ValueError(
                    f"Found {values.shape} values for {self.patches.shape} patches; expected one"
                    " each."
                )
            values.setflags(write=False)

    def brief(self) -> dict[str, Any]:
        return {
            "patches": len(self.patches),
            "named": int((self.name >= 0).sum()),
            "names": self.names,
            "left_out": self.left_out,
        }


def visual_lens(
    lvlm: LVLM,
    sample: Sample,
    patches: Sequence[int] | None = None,
    *,
    traced: Trace | None = None,
    top: int = 3,
    run: Run = QUIET,
) -> VisualLens:
    """What each image patch reads as, layer by layer.

    The head is run once for each layer and patch, in parts: one patch costs as much as one answer
    token, all patches of a large model on a processor take minutes.

    lvlm: the model, full or pruned.
    sample: the question with its image.
    patches: indices among the sample's visual positions; by default all of them.
    traced: this model's trace of the sample, whose features are then read; otherwise the prompt is
        read again.
    top: how many words are kept for each layer and patch.
    run: progress and cancellation.

    Raises InputError for a sample without visual positions (no image, or one that enters through
    cross-attention), a patch that is none of them, a trace of another model or sample, and a `top`
    below 1; Cancelled.
    """
    chosen = _chosen(sample, patches)
    positions = torch.from_numpy(sample.visual[chosen])
    states = _states(lvlm, sample, positions, traced)
    layers = lvlm.num_layers
    found = read(
        lvlm,
        states.flatten(
            -3,
            -2,
        ),
        top=top,
        run=run,
    )
    ids = found.top_ids.reshape(
        layers,
        len(chosen),
        -1,
    )
    return VisualLens(
        layer_ids=lvlm.layer_ids,
        patches=chosen,
        ids=ids,
        words=words_of(lvlm, ids),
        shares=found.top_probabilities.reshape(ids.shape),
        entropy=found.entropy.reshape(layers, -1),
    )


def named_patches(
    lvlm: LVLM,
    seen: VisualLens,
    names: Sequence[str],
) -> NamedPatches:
    """The first layer behind which the likeliest word of a patch is the name of an object.

    A name counts in the spelling given, with and without a space before it. One that the tokenizer
    cuts into several tokens counts by its first token, if that has at least three letters: such a
    token may begin other words too.

    lvlm: the model that `seen` is of.
    seen: what its patches read as.
    names: the objects, or the words of an answer.

    Raises InputError where no name is left to look for.
    """
    tokens = {
        name: _first_tokens(
            lvlm,
            name,
        )
        for name in dict.fromkeys(names)
    }
    kept = tuple(name for name, found in tokens.items() if found)
    left_out = tuple(name for name, found in tokens.items() if not found)
    if not kept:
        raise InputError(
            f"Found the names {list(names)}, none of which begins with a token of at least"
            f" {SHORTEST} letters; expected one that does; name other objects."
        )
    name_of = {token: number for number, name in enumerate(kept) for token in tokens[name]}
    first = seen.ids[:, :, 0]
    named = np.vectorize(
        lambda token: name_of.get(
            token,
            -1,
        ),
        otypes=[np.int64],
    )(first)
    is_named = named >= 0
    places = is_named.argmax(0)
    ever = is_named.any(0)
    layers = np.array(
        seen.layer_ids,
        np.float64,
    )[places]
    at_first = np.take_along_axis(named, places[None], 0)[0]
    return NamedPatches(
        patches=seen.patches.copy(),
        names=kept,
        left_out=left_out,
        layer=np.where(
            ever,
            layers,
            np.nan,
        ),
        name=np.where(ever, at_first, -1),
    )


def _first_tokens(
    lvlm: LVLM,
    name: str,
) -> set[int]:
    """The ids of tokens that stand for a name: its first one, with and without a space before."""
    found = set()
    for spelt in (name, f" {name}"):
        ids = lvlm.tokenizer.encode(
            spelt,
            add_special_tokens=False,
        )
        words = [
            word.strip()
            for word in words_of(
                lvlm,
                np.array(
                    ids,
                    np.int64,
                ),
            )
        ]
        # Some tokenizers give the space a token of its own.
        first = next((place for place, word in enumerate(words) if word), None)
        if first is None:
            continue
        whole = words[first] == name
        begins = len(words[first]) >= SHORTEST and name.startswith(words[first])
        if whole or begins:
            found.add(int(ids[first]))
    return found


def _chosen(
    sample: Sample,
    patches: Sequence[int] | None,
) -> np.ndarray:
    """(P,) int64 indices among the sample's visual positions. Raises InputError."""
    check_whole(sample)
    count = len(sample.visual)
    if not count:
        raise InputError(
            "Found no visual positions; expected an image that enters the sequence; ask about a"
            " picture, or choose a model of another family."
        )
    if patches is None:
        return np.arange(count)
    chosen = np.array(patches, np.int64)
    if not len(chosen) or chosen.min() < 0 or chosen.max() >= count:
        raise InputError(
            f"Found the patches {list(patches)}; expected indices from 0 to {count - 1}, at least"
            " one; correct them."
        )
    return chosen


@torch.inference_mode()
def _states(
    lvlm: LVLM,
    sample: Sample,
    positions: torch.Tensor,
    traced: Trace | None,
) -> torch.Tensor:
    """(L, P, d), or (N, L, P, d): what each layer hands on at some positions of the prompt."""
    if traced is not None:
        check_same(lvlm, sample, traced)
        if not stacks_streams(lvlm.text_config):
            return traced.samples[0].features[1:, positions]
    watched = Leaving(lvlm)
    # A number instead of the tensor would let Gemma4 skip positions in its last layers.
    last = torch.tensor(
        [sample.length - 1],
        device=lvlm.device,
    )
    with watched.watching(positions):
        forward(
            lvlm,
            sample.inputs,
            sample.features,
            use_cache=False,
            logits_to_keep=last,
        )
    return watched.stacked()
