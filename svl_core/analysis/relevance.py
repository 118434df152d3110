"""Which patches a word depends on: gradient x input on the visual embeddings, and what covering the
most relevant ones does to the word.

The embeddings are what enters the first decoder layer at the visual positions. One backward pass
gives the gradient of the word's logit there (Shrikumar et al., arXiv 1605.01713; "saliency" in most
tools). Whether the map means anything is asked by occlusion, printed with every figure of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from svl_core.analysis.lens import check_whole, checked_answer
from svl_core.analysis.reading import words_of
from svl_core.errors import InputError
from svl_core.lvlm.decoding import Decoding
from svl_core.lvlm.families import positioned, shared_from
from svl_core.lvlm.hooks import InputAction, ThreadHooks, hidden_input
from svl_core.lvlm.model import LVLM
from svl_core.lvlm.recomputing import can_recompute, kept_bytes, may_keep, recomputed
from svl_core.lvlm.sample import Sample
from svl_core.lvlm.vision import forward
from svl_core.notebook import Shown
from svl_core.progress import QUIET, Run

SHARE = 0.1  # of the patches, covered where no number is given
LEAST = 0.01  # of a drop in probability that counts as one
DRAWS = 20  # random choices of patches that the most relevant ones are held against


@dataclass(
    frozen=True,
    eq=False,
    repr=False,
)
class Relevance(Shown):
    """How much each of V patches speaks for one token of an answer.

    token: the token, readable.
    place: which token of the answer it is.
    logit: of the token, as the model gives it.
    values: (V,) float64 gradient x input: above 0 the patch speaks for the token, below 0 against
        it; in units of the logit.
    """

    token: str
    place: int
    logit: float
    values: np.ndarray

    def __post_init__(self):
        if self.values.ndim != 1:
            raise ValueError(f"Found values of shape {self.values.shape}; expected one a patch.")
        self.values.setflags(write=False)

    def brief(self) -> dict[str, Any]:
        return {
            "token": self.token,
            "logit": self.logit,
            "values": self.values,
            "place_bias": self.place_bias,
        }

    @property
    def place_bias(self) -> float:
        """Rank correlation, -1..1, of how relevant a patch is, for or against, with its place in
        the sequence: near 0 where the place does not matter, near -1 where early patches win. NaN
        for fewer than three patches.
        """
        if len(self.values) < 3:
            return float("nan")
        order = np.argsort(np.argsort(np.abs(self.values)))
        return float(
            np.corrcoef(
                order,
                np.arange(len(order)),
            )[0, 1]
        )


@dataclass(
    frozen=True,
    eq=False,
    repr=False,
)
class Occlusion(Shown):
    """What covering patches does to the probability of one token.

    covered: k, how many patches were covered.
    whole: the token's probability, 0..1, on the whole image.
    without_relevant: with the k most relevant patches covered.
    without_random: (draws,) with k patches covered that were drawn at random.
    """

    covered: int
    whole: float
    without_relevant: float
    without_random: np.ndarray

    def __post_init__(self):
        self.without_random.setflags(write=False)

    def brief(self) -> dict[str, Any]:
        return {
            "covered": self.covered,
            "drop": self.drop,
            "random_drop": self.random_drop,
            "holds": self.holds,
        }

    @property
    def drop(self) -> float:
        """What the probability loses with the most relevant patches."""
        return self.whole - self.without_relevant

    @property
    def random_drop(self) -> float:
        """What it loses with random ones, mean of the draws."""
        return self.whole - float(self.without_random.mean())

    @property
    def holds(self) -> bool:
        """Whether the most relevant patches matter, by a hundredth at least, and more than every
        random choice did: by chance alone that happens once in draws + 1 times.
        """
        more = self.without_relevant < self.without_random.min()
        return bool(more and self.drop >= LEAST)

    def in_words(self) -> str:
        """A sentence for the figure of the map."""
        count = len(self.without_random)
        verdict = f"They matter no more than some of {count} random choices."
        if self.holds:
            verdict = f"They matter more than {count} random choices."
        elif self.drop < LEAST:
            verdict = "Covering them hardly changes the word."
        return (
            f"With the {self.covered} most relevant patches covered the word's probability goes"
            f" from {self.whole:.1%} to {self.without_relevant:.1%}; with random ones to"
            f" {self.without_random.mean():.1%} on average. {verdict}"
        )


def relevance(
    lvlm: LVLM,
    sample: Sample,
    answer: Sequence[int],
    place: int = 0,
    *,
    keep: int | None = None,
    run: Run = QUIET,
) -> Relevance:
    """How much each patch speaks for one token of an answer: gradient x input, by one backward
    pass.

    The gradient is linear in how the embeddings could change from where they are; it does not know
    what a patch would do if it were gone. What enters beside the first layer's input is not in it
    (Qwen3-VL's features of further depths). Where every layer's activations are too much to keep,
    each layer is computed again on the way back, which takes about the time of one more pass.

    lvlm: the model, full or pruned.
    sample: the question with its image.
    answer: token ids, read as given; those behind `place` do not matter.
    place: which of them, from 0.
    keep: bytes of activations that may be kept for the way back, judged by an estimate; by default
        a quarter of the free memory. Models of no known family, and those that are spread over
        devices, always keep all, and so does PaliGemma for a later token than the first.
    run: cancellation, within a layer's time, forwards and backwards.

    Raises InputError for a sample without visual positions, an empty answer, a place beyond it, and
    weights in 4 or 8 bits; Cancelled.
    """
    said = _checked(sample, answer, place)
    if lvlm.quantized:
        raise InputError(
            "Found weights in 4 or 8 bits; expected ones that a gradient goes through; load the"
            " model without --quantize."
        )
    anew = _asks_for_memory(
        lvlm,
        sample,
        place,
        keep,
    )
    if anew:
        lvlm = recomputed(lvlm)
    entered: list[torch.Tensor] = []

    def entering(
        args: tuple,
        kwargs: Mapping,
    ) -> None:
        hidden = hidden_input(args, kwargs)
        if not entered:
            entered.append(hidden.requires_grad_())

    with ThreadHooks() as hooks:
        hooks.on_input(lvlm.layers[0], entering)
        for layer in lvlm.layers:
            hooks.on_input(layer, _stopping(run))
        logits = _predicted(
            lvlm,
            sample,
            said[:place],
            differentiable=True,
            uncached=anew,
        )
    logit = logits[said[place]]
    [gradient] = torch.autograd.grad(logit, entered)
    products = gradient.double() * entered[0].detach().double()
    by_position = (
        positioned(products, lvlm.text_config)
        .sum(-1)
        .flatten(
            0,
            -2,
        )
        .sum(0)
    )  # of all streams of the batch of one
    return Relevance(
        token=str(
            words_of(
                lvlm,
                np.array([said[place]]),
            )[0]
        ),
        place=place,
        logit=float(logit.detach()),
        values=by_position.cpu().numpy()[sample.visual],
    )


def occlusion(
    lvlm: LVLM,
    sample: Sample,
    answer: Sequence[int],
    found: Relevance,
    *,
    covered: int | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    run: Run = QUIET,
) -> Occlusion:
    """What a token's probability loses where the patches that speak most for it are covered.

    A covered patch gives the first layer the mean of all the image's patches. One pass over the
    prompt each: 2 + `draws` of them.

    lvlm, sample, answer: those of `found`.
    found: the map to check.
    covered: how many patches; by default a tenth of them, rounded up.
    draws: how many random choices of as many patches.
    seed: of these.
    run: progress and cancellation.

    Raises InputError as `relevance` does, and for a number of patches or draws out of range;
    Cancelled.
    """
    said = _checked(sample, answer, found.place)
    patches = len(sample.visual)
    count = int(np.ceil(SHARE * patches)) if covered is None else covered
    if not 1 <= count <= patches or draws < 1:
        raise InputError(
            f"Found {count} patches to cover in {draws} draws; expected 1 to {patches} patches and"
            " at least one draw; correct them."
        )
    generator = np.random.default_rng(seed)
    choices = [
        np.arange(0),
        np.argsort(
            -found.values,
            kind="stable",
        )[:count],
    ]
    for _ in range(draws):
        choices.append(
            generator.choice(
                patches,
                count,
                replace=False,
            )
        )
    shares = []
    for number, choice in enumerate(choices):
        run.step(number / len(choices), "covering patches")
        shares.append(
            _share_without(
                lvlm,
                sample,
                said,
                found.place,
                choice,
            )
        )
    whole, without_relevant, *without_random = shares
    return Occlusion(
        covered=count,
        whole=whole,
        without_relevant=without_relevant,
        without_random=np.array(without_random),
    )


def _checked(
    sample: Sample,
    answer: Sequence[int],
    place: int,
) -> tuple[int, ...]:
    """The answer's tokens. Raises InputError."""
    said = checked_answer(answer, place)
    check_whole(sample)
    if not len(sample.visual):
        raise InputError(
            "Found no visual positions; expected an image that enters the sequence; ask about a"
            " picture, or choose a model of another family."
        )
    return said


def _asks_for_memory(
    lvlm: LVLM,
    sample: Sample,
    place: int,
    keep: int | None,
) -> bool:
    """Whether layers are computed again on the way back; parameters as of `relevance`."""
    if not can_recompute(lvlm) or (place and _is_prefix(sample)):
        return False
    bound = may_keep(lvlm.device) if keep is None else keep
    return kept_bytes(lvlm, sample.length + place) > bound


def _is_prefix(sample: Sample) -> bool:
    """Whether all positions of the prompt see each other, so that an answer reads otherwise in one
    pass with it than behind it: the positions' types do not tell the image from the words
    (PaliGemma).
    """
    types = sample.inputs.get("token_type_ids")
    if types is None:
        return False
    visual = types[0, torch.from_numpy(np.array(sample.visual))]
    return bool((visual == types[0, -1]).all())


def _stopping(run: Run) -> InputAction:
    """Ends a pass at the next layer, and its backward pass likewise."""

    def action(
        args: tuple,
        kwargs: Mapping,
    ) -> None:
        run.check()
        hidden = hidden_input(args, kwargs)
        if hidden.requires_grad:
            hidden.register_hook(lambda gradient: run.check())

    return action


def _predicted(
    lvlm: LVLM,
    sample: Sample,
    before: Sequence[int],
    differentiable: bool = False,
    uncached: bool = False,
) -> torch.Tensor:
    """(vocab,) logits behind the prompt and the tokens `before`.

    differentiable: gradients can flow through the pass. uncached: it is one without a cache.
    """
    in_place = (
        shared_from(
            lvlm.family,
            lvlm.model.config,
        )
        is None
    )
    if uncached or (differentiable and before and in_place):
        return _uncached(lvlm, sample, before)
    decoding = Decoding(
        lvlm,
        sample.inputs,
        features=sample.features,
        differentiable=differentiable,
    )
    if before:
        fed = torch.tensor(
            [before],
            device=decoding.logits.device,
        )
        decoding.feed(fed)
    return decoding.logits[0]


def _uncached(
    lvlm: LVLM,
    sample: Sample,
    before: Sequence[int],
) -> torch.Tensor:
    """The same in one pass without a cache, for models that write into theirs, through which no
    gradient goes, and for layers that are computed again, which would write twice.
    """
    length = sample.length
    count = len(before)
    device = lvlm.device
    inputs = dict(sample.inputs)
    fed = torch.tensor(
        [before],
        dtype=torch.int64,
        device=device,
    )
    inputs["input_ids"] = torch.cat(
        [inputs["input_ids"], fed],
        dim=1,
    )
    for name, value in sample.inputs.items():
        by_position = value.ndim > 1 and value.shape[1] == length
        if name == "input_ids" or not by_position:
            continue
        # A word of the answer is of the kind of the prompt's last one.
        more = value[:, -1:].expand(
            -1,
            count,
            *value.shape[2:],
        )
        if name == "position_ids":
            more = more + torch.arange(
                1,
                count + 1,
                device=device,
            )
        inputs[name] = torch.cat(
            [value, more],
            dim=1,
        )
    last = torch.tensor(
        [length + count - 1],
        device=device,
    )
    out = forward(
        lvlm,
        inputs,
        sample.features,
        use_cache=False,
        logits_to_keep=last,
    )
    return out.logits[0, -1]


def _share_without(
    lvlm: LVLM,
    sample: Sample,
    said: Sequence[int],
    place: int,
    choice: np.ndarray,
) -> float:
    """The probability of a token with some patches covered."""
    covered = torch.from_numpy(sample.visual[choice])
    visual = torch.from_numpy(np.array(sample.visual))
    first = [True]

    def covering(
        args: tuple,
        kwargs: Mapping,
    ) -> None:
        if not first:
            return
        first.clear()
        hidden = positioned(hidden_input(args, kwargs), lvlm.text_config)
        mean = hidden[..., visual, :].mean(
            -2,
            keepdim=True,
        )
        hidden[..., covered, :] = mean.expand_as(hidden[..., covered, :])

    with ThreadHooks() as hooks:
        hooks.on_input(lvlm.layers[0], covering)
        logits = _predicted(lvlm, sample, said[:place])
    return float(logits.double().softmax(-1)[said[place]])
