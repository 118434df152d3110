"""Trains the bundled model from scratch on CPU: `python -m svl_core.demo.train --out
assets/demo_lvlm`.

Two stages, like any LVLM's. 1) Alignment: the vision tower and projector learn to name what each
patch shows, in the language model's own embedding space. 2) Questions: the whole model learns to
answer; all questions on an image share one sequence, with attention blocked between them and
positions restarted after the image, so the image is paid for once. Muon moves the matrices, AdamW
the rest. Checkpoints are written as it goes; the same command resumes.

On a machine of several cores, processes that share each step are quicker than threads, each with a
batch of its own: `torchrun --nproc-per-node 2 -m svl_core.demo.train ...`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from transformers import AttentionInterface, AutoTokenizer, LlavaForConditionalGeneration
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from svl_core.demo import build, easy_vqa, questions, scenes
from svl_core.demo.worlds import PATCH, WORLDS

IGNORE = -100
# How often each kind is drawn: the slow ones more.
WEIGHTS = {
    "what-at": 1.0,
    "where": 1.6,
    "is-at": 1.6,
    "which": 1.0,
    "exists-object": 0.8,
    "exists-category": 1.0,
    "count-all": 1.6,
    "count-category": 2.8,
    "count-object": 2.4,
    "relation": 2.4,
    "side": 1.6,
    "colour": 0.6,
    "caption": 3.6,
    "where-category": 1.2,
    "next": 2.4,
    "which-next": 2.0,
    "compare": 2.0,
}
SYSTEM_SHARE = 0.1
"""Of the questions, those behind a system turn, where the world has them."""

SEEN_SHARE = 0.3
"""Of a patch, what an object's box must cover for the patch to be named after it."""

GROUND_SHARE = 0.15
"""Of the patches that show ground alone, those that are to be named `nothing`."""


@dataclass(frozen=True)
class Recipe:
    """Settings of one training run."""

    world: str = "grid"  # a key of WORLDS
    align_steps: int = 1000
    align_batch: int = 48
    steps: int = 7200
    batch: int = 24  # images a step
    text_length: int = 160  # positions for the questions packed behind each image
    lr: float = 1.2e-3
    warmup: int = 100
    decay_share: float = 0.1  # linear decay to zero over the last share of the steps
    weight_decay: float = 0.02
    # of the scenes of stage 2, those with two objects only: relations are learnt there first
    pair_share: float = 0.15
    easy_vqa_share: float = 0.12
    align_weight: float = 0.2  # of the naming loss during stage 2
    minutes: float = 0.0  # stage 2 ends when its steps or these are over; 0: its steps alone
    precision: str = "float32"  # of the matrix products: float32 or bfloat16
    seed: int = 1


class Batches(torch.utils.data.IterableDataset):
    """Endless training batches from one seeded generator; `start` skips to another part of the
    stream when resuming.
    """

    def __init__(
        self,
        recipe: Recipe,
        stage: str,
        start: int = 0,
    ):
        self.recipe = recipe
        self.world = WORLDS[recipe.world]
        self.stage = stage
        self.start = start

    def __iter__(self):
        torch.set_num_threads(1)
        self.tokenizer = build.tokenizer(self.world)
        worker = torch.utils.data.get_worker_info()
        number = worker.id if worker else 0
        seeds = [self.recipe.seed, self.stage == "align", self.start, number, _rank()]
        self.rng = np.random.default_rng(seeds)
        self.ids = {
            name: self.tokenizer(f" {name}", add_special_tokens=False).input_ids[0]
            for name in questions.all_names() + ("nothing",)
        }
        self.yardstick = []
        if self.recipe.easy_vqa_share and self.stage != "align":
            self.yardstick = easy_vqa.grouped("train")
        while True:
            yield self.align() if self.stage == "align" else self.packed()

    def picture(self):
        """One scene as (scene, image, name target of each patch, colour target of each patch)."""
        n = None
        if self.stage == "align":
            n = int(self.rng.integers(2, 8))
        elif self.rng.random() < self.recipe.pair_share:
            n = 2
        scene = scenes.random_scene(
            self.rng,
            wild=self.rng.random() < 0.8,
            n=n,
            world=self.world,
        )
        size = self.world.side if self.rng.random() < 0.7 else scenes.SIZE
        image = scenes.render(scene, size)
        names, colours = self.targets(scene)
        return scene, image, names, colours

    def targets(self, scene) -> tuple[np.ndarray, np.ndarray]:
        """What each patch shows, as (visual tokens,) name ids and colour numbers.

        IGNORE where an object covers a patch by less than `SEEN_SHARE`, and for most of the ground
        of a free world, of which there is much more than of anything else.
        """
        side = self.world.side
        count = side // PATCH
        names = np.full((count, count), self.ids["nothing"])
        if self.world.free:
            names[self.rng.random(names.shape) > GROUND_SHARE] = IGNORE
        colours = np.full((count, count), IGNORE)
        most = np.zeros((count, count))
        words = list(scenes.COLOURS)
        edges = np.arange(count + 1) * PATCH
        for item in scene.items:
            left, top, width, height = scenes.box(item, side)
            across = _covered(edges, left, left + width)
            down = _covered(edges, top, top + height)
            share = down[:, None] * across
            here = share > most
            most[here] = share[here]
            names[here] = self.ids[item.name]
            colours[here] = words.index(item.colour) if item.colour else IGNORE
        faint = (most > 0) & (most < SEEN_SHARE)
        names[faint] = IGNORE
        colours[faint] = IGNORE
        return names.ravel(), colours.ravel()

    def tinted(self, images) -> torch.Tensor:
        """Pixels with random brightness, contrast and colour balance for each image."""
        n = len(images)
        contrast = self.rng.uniform(0.86, 1.14, (n, 1, 1, 1))
        balance = self.rng.uniform(0.94, 1.06, (n, 3, 1, 1))
        brightness = self.rng.uniform(-0.12, 0.12, (n, 1, 1, 1))
        gain = torch.from_numpy(contrast * balance).float()
        offset = torch.from_numpy(brightness).float()
        tinted = build.pixels(images, self.world) * gain + offset
        return tinted.clamp_(-1, 1)

    def align(self) -> dict[str, torch.Tensor]:
        """A batch of stage 1: pictures and what each of their patches shows."""
        pictures = [self.picture() for _ in range(self.recipe.align_batch)]
        _, images, names, colours = zip(*pictures, strict=True)
        return self._pictures(images, names, colours)

    def _pictures(self, images, names, colours) -> dict[str, torch.Tensor]:
        """The part of a batch that is about its pictures."""
        return {
            "pixel_values": self.tinted(images),
            "names": torch.tensor(np.stack(names)),
            "colours": torch.tensor(np.stack(colours)),
        }

    def pairs(self, scene):
        """Questions on a scene, endlessly, slow kinds more often."""
        kinds = self.world.kinds
        weights = np.array([WEIGHTS[kind] for kind in kinds])
        shares = weights / weights.sum()
        while True:
            kind = str(self.rng.choice(kinds, p=shares))
            qa = questions.ask(
                scene,
                self.rng,
                kind,
                self.world,
            )
            if qa:
                yield qa.question, qa.answer

    def disguise(self, question: str) -> str:
        """Case needs no practice (the tokenizer lower-cases); punctuation is dropped at times."""
        return question[:-1] if self.rng.random() < 0.2 else question

    def packed(self) -> dict[str, torch.Tensor]:
        """A batch of stage 2: pictures with their questions packed behind them.

        Of n sequences of `text_length` positions: ids; positions, which restart at every question;
        groups, the question's number in its sequence (-1: padding); labels, the token that follows
        where it is the answer's (else IGNORE); weights, which share 1 among an answer's tokens.
        """
        n = self.recipe.batch
        size = self.recipe.text_length
        prefix = 1 + self.world.visual_tokens
        ids = np.full((n, size), self.tokenizer.pad_token_id)
        positions = np.zeros((n, size), np.int64)
        groups = np.full((n, size), -1)
        labels = np.full((n, size), IGNORE)
        weights = np.zeros((n, size), np.float32)
        images = []
        names = []
        colours = []
        for row in range(n):
            image, name, colour, pairs = self._asked()
            images.append(image)
            names.append(name)
            colours.append(colour)
            start = 0
            for group, (question, answer) in enumerate(pairs):
                head, tail = self._tokens(question, answer)
                end = start + len(head) + len(tail)
                if end > size:
                    break
                ids[row, start:end] = head + tail
                positions[row, start:end] = prefix + np.arange(end - start)
                groups[row, start:end] = group
                # A position is trained on the token that follows it.
                first = start + len(head) - 1
                answer_at = slice(first, end - 1)
                labels[row, answer_at] = tail
                weights[row, answer_at] = 1 / len(tail)
                start = end
        return {
            **self._pictures(images, names, colours),
            "ids": torch.tensor(ids),
            "positions": torch.tensor(positions),
            "groups": torch.tensor(groups),
            "labels": torch.tensor(labels),
            "weights": torch.tensor(weights),
        }

    def _asked(self):
        """One picture as (image, name targets, colour targets, its questions and answers)."""
        if self.yardstick and self.rng.random() < self.recipe.easy_vqa_share:
            index = int(self.rng.integers(len(self.yardstick)))
            open_image, pairs = self.yardstick[index]
            image = open_image()
            unknown = np.full(self.world.visual_tokens, IGNORE)
            order = self.rng.permutation(len(pairs))
            shuffled = [pairs[index] for index in order]
            return image, unknown, unknown, shuffled
        scene, image, name, colour = self.picture()
        return image, name, colour, self.pairs(scene)

    def _tokens(
        self,
        question: str,
        answer: str,
    ) -> tuple[list[int], list[int]]:
        """Token ids of a question with its marks, and of the answer with its end."""
        tokenizer = self.tokenizer
        asked = tokenizer(f" {self.disguise(question)}", add_special_tokens=False).input_ids
        said = tokenizer(f" {answer}", add_special_tokens=False).input_ids
        user = tokenizer.convert_tokens_to_ids(build.USER)
        assistant = tokenizer.convert_tokens_to_ids(build.ASSISTANT)
        head = [*self._system(), user, *asked, assistant]
        return head, [*said, tokenizer.eos_token_id]

    def _system(self) -> list[int]:
        """Token ids of a system turn, or of none: a known one, or the words of any sentence."""
        if not self.world.system or self.rng.random() > SYSTEM_SHARE:
            return []
        turns = build.SYSTEM_TURNS
        text = turns[int(self.rng.integers(len(turns)))]
        if self.rng.random() < 0.5:
            words = " ".join(turns).split()
            length = int(self.rng.integers(2, 16))
            text = " ".join(self.rng.choice(words, length))
        mark = self.tokenizer.convert_tokens_to_ids(build.SYSTEM)
        said = self.tokenizer(f" {text}", add_special_tokens=False).input_ids
        return [mark, *said]


def _rank() -> int:
    """This process's number among those that share a step; 0 where it is alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def _covered(
    edges: np.ndarray,
    start: float,
    end: float,
) -> np.ndarray:
    """Share 0..1 of each interval between neighbouring edges that lies within start..end."""
    inside = np.minimum(edges[1:], end) - np.maximum(edges[:-1], start)
    return np.clip(inside, 0, None) / np.diff(edges)


def packed_attention(
    module,
    query,
    key,
    value,
    attention_mask,
    prefix: int | None = None,
    **kwargs,
):
    """Attention of a picture and the questions packed behind it, (n, heads, positions, d) each.

    The picture's positions see none of the questions, so those keys are left out for them; written
    out, for on a CPU this is twice as fast as the library's fused attention under a mask.

    attention_mask: (n, 1, positions, positions), added to the scores.
    prefix: positions of the picture; None: an ordinary sequence.
    """
    if prefix is None:
        return sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            **kwargs,
        )
    scale = kwargs["scaling"]
    parts = []
    for rows, columns in (
        (slice(prefix), slice(prefix)),
        (slice(prefix, None), slice(None)),
    ):
        keys = key[:, :, columns].transpose(-1, -2)
        scores = query[:, :, rows] @ keys * scale
        scores = scores + attention_mask[:, :, rows, columns]
        weights = scores.float().softmax(-1).to(value.dtype)
        parts.append(weights @ value[:, :, columns])
    return torch.cat(parts, 2).transpose(1, 2), None


class Trainee(torch.nn.Module):
    """The model with its two losses; the colour reader is training's own and is thrown away."""

    def __init__(self, model, bos: int):
        super().__init__()
        self.model = model
        AttentionInterface.register("packed", packed_attention)
        model.get_decoder().set_attn_implementation("packed")
        self.bos = bos
        width = model.config.text_config.hidden_size
        self.colour = torch.nn.Linear(width, len(scenes.COLOURS))

    def see(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(n, visual tokens, d) what enters the decoder for the image."""
        core = self.model.model
        patches = core.vision_tower(pixel_values).last_hidden_state[:, 1:]
        return core.multi_modal_projector(patches)

    def naming(
        self,
        seen: torch.Tensor,
        names: torch.Tensor,
        colours: torch.Tensor,
        *,
        settled: bool = False,
    ) -> torch.Tensor:
        """Loss of naming what each patch shows, in the language model's embedding space.

        seen: (n, visual tokens, d) as `see` gives it.
        names, colours: (n, visual tokens) targets, IGNORE where there is none.
        settled: the words stay where they are, for a decoder that knows them reads on.
        """
        flat = F.rms_norm(seen, seen.shape[-1:]).flatten(0, 1)
        words = self.model.get_input_embeddings().weight
        logits = flat @ (words.detach() if settled else words).T
        loss = F.cross_entropy(
            logits,
            names.flatten(),
            ignore_index=IGNORE,
        )
        if not (colours >= 0).any():
            return loss
        read = self.colour(flat)
        return loss + 0.5 * F.cross_entropy(
            read,
            colours.flatten(),
            ignore_index=IGNORE,
        )

    def answering(
        self,
        seen: torch.Tensor,
        batch: dict[str, torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss of the answers' tokens and the share of them that is right, both weighted.

        seen: (n, visual tokens, d) as `see` gives it.
        batch: as `Batches.packed` gives it.
        """
        n, size = batch["ids"].shape
        embed = self.model.get_input_embeddings()
        device = seen.device
        first = embed(torch.full((n, 1), self.bos, device=device))
        questions = embed(batch["ids"])
        hidden = torch.cat([first, seen, questions], 1)
        prefix = 1 + seen.shape[1]
        of_prefix = torch.full((n, prefix), -2, device=device)
        groups = torch.cat([of_prefix, batch["groups"]], 1)
        counted = torch.arange(prefix, device=device).expand(n, -1)
        positions = torch.cat([counted, batch["positions"]], 1)
        length = prefix + size
        causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
        of_picture = groups[:, None, :] == -2
        of_same_question = groups[:, None, :] == groups[:, :, None]
        mask = causal & (of_picture | of_same_question)
        added = torch.zeros(mask.shape, dtype=seen.dtype, device=device)
        added = added.masked_fill(~mask, torch.finfo(seen.dtype).min)
        out = self.model.get_decoder()(
            inputs_embeds=hidden,
            attention_mask=added[:, None],
            position_ids=positions,
            use_cache=False,
            prefix=prefix,
        ).last_hidden_state[:, prefix:]
        wanted = batch["labels"] != IGNORE
        logits = self.model.lm_head(out[wanted])
        labels = batch["labels"][wanted]
        weights = batch["weights"][wanted]
        loss = F.cross_entropy(logits, labels, reduction="none")
        right = logits.argmax(-1) == labels
        total = weights.sum()
        mean_loss = (loss * weights).sum() / total
        share_right = (right * weights).sum() / total
        return mean_loss, share_right


def averaged_gradients(module: torch.nn.Module) -> None:
    """Replaces the gradients by their mean over the processes that share the step.

    A parameter that one process did not use counts as zero there.
    """
    gradients = []
    for parameter in module.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradients.append(parameter.grad)
    flat = parameters_to_vector(gradients)
    dist.all_reduce(flat)
    vector_to_parameters(flat / dist.get_world_size(), gradients)


def optimizers(
    trainee: Trainee,
    recipe: Recipe,
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embeddings, norms, biases and the patch
    embedding.
    """
    matrices = []
    rest = []
    for name, parameter in trainee.named_parameters():
        inside = "layers." in name or "projector.linear" in name
        group = matrices if inside and parameter.ndim == 2 else rest
        group.append(parameter)
    muon = torch.optim.Muon(
        matrices,
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        momentum=0.95,
        adjust_lr_fn="match_rms_adamw",
    )
    adam = torch.optim.AdamW(
        rest,
        lr=recipe.lr,
        weight_decay=0.0,
        betas=(0.9, 0.97),
    )
    return [muon, adam]


def rate(
    step: int,
    done: float,
    recipe: Recipe,
) -> float:
    """Share of the full learning rate: warm-up, constant, linear decay.

    done: share 0..1 of the stage that is over, by steps or by minutes.
    """
    warm_up = (step + 1) / recipe.warmup
    decay = (1 - done) / max(1e-9, recipe.decay_share)
    return min(1.0, warm_up, max(0.0, decay))


def begun_from(
    model: LlavaForConditionalGeneration,
    words,
    init: Path,
) -> None:
    """Gives the model a trained one's weights, also where that one is of the other world.

    Embeddings go by their token; a token that the trained model lacks begins as the mean of the
    pieces it had for it. Position embeddings of the picture are interpolated.

    words: the model's tokenizer.
    init: the trained model's folder.
    """
    trained = LlavaForConditionalGeneration.from_pretrained(init, dtype=torch.float32)
    weights = trained.state_dict()
    own = model.state_dict()
    old_words = AutoTokenizer.from_pretrained(init)
    if old_words.get_vocab() != words.get_vocab():
        embeddings = _by_token(trained, old_words, words)
        for name in ("model.language_model.embed_tokens.weight", "lm_head.weight"):
            weights[name] = embeddings
    for name, value in weights.items():
        if name.endswith("position_embedding.weight"):
            weights[name] = _stretched(value, len(own[name]))
        elif name.endswith("position_ids"):
            weights[name] = own[name]
    model.load_state_dict(weights)


def _by_token(
    trained: LlavaForConditionalGeneration,
    old_words,
    words,
) -> torch.Tensor:
    """(tokens of `words`, d) embeddings of a trained model, by the token's text."""
    known = trained.get_input_embeddings().weight.detach()
    old = old_words.get_vocab()
    rows = []
    for number in range(len(words)):
        token = words.convert_ids_to_tokens(number)
        pieces = [old[token]] if token in old else None
        if pieces is None:
            text = words.decode([number])
            pieces = old_words(f" {text}", add_special_tokens=False).input_ids
        rows.append(known[pieces].mean(0))
    return torch.stack(rows)


def _stretched(positions: torch.Tensor, count: int) -> torch.Tensor:
    """(1 + n x n, d) position embeddings of a class token and a picture for another n."""
    side = round((count - 1) ** 0.5)
    old_side = round((len(positions) - 1) ** 0.5)
    if side == old_side:
        return positions
    grid = positions[1:].T.reshape(1, -1, old_side, old_side)
    grid = F.interpolate(
        grid,
        (side, side),
        mode="bicubic",
        align_corners=False,
    )
    return torch.cat([positions[:1], grid.flatten(2)[0].T])


def train(
    out: Path,
    recipe: Recipe,
    *,
    init: Path | None = None,
    realign: bool = False,
    device: str = "cpu",
    workers: int = 1,
    checkpoint_every: int = 250,
    log=print,
) -> None:
    """Run or resume both stages; writes `out/checkpoint.pt`, `out/log.jsonl` and, at the end, the
    model folder `out/model`.

    out: the folder; a checkpoint in it is gone on from.
    recipe: the settings.
    init: a trained model's folder to go on from; its alignment is done, so stage 2 starts at once.
    realign: stage 1 comes first all the same, by which the picture is learnt at a ninth of the
        cost; the words of the trained model stay where they are.
    device: where the model is trained, as torch names it.
    workers: processes that draw the batches.
    checkpoint_every: steps between two checkpoints.
    log: called as `print` is.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    world = WORLDS[recipe.world]
    proc = build.processor(world)
    model = build.untrained(
        proc.tokenizer,
        seed=recipe.seed,
        world=world,
    )
    trainee = Trainee(model, proc.tokenizer.bos_token_id).train()
    if init:
        begun_from(model, proc.tokenizer, init)
    trainee.to(device)
    training = _Training(
        out,
        recipe,
        trainee,
        "answer" if init and not realign else "align",
        log,
    )
    training.settled = bool(init)
    training.device = device
    training.workers = workers
    training.resume()
    for layer in trainee.model.get_decoder().layers:
        layer.compile(dynamic=False)
    for stage, total in (("align", recipe.align_steps), ("answer", recipe.steps)):
        if training.state["stage"] == stage:
            training.run(stage, total, checkpoint_every)
    if _rank():
        return
    build.save(
        trainee.model.cpu().eval(),
        proc,
        out / "model",
    )
    written = asdict(recipe) | {"seconds": round(training.state["seconds"])}
    (out / "recipe.json").write_text(json.dumps(written, indent=1))


class _Training:
    """A training run in progress.

    state: the stage, its next step, and the seconds so far.
    """

    def __init__(
        self,
        out: Path,
        recipe: Recipe,
        trainee: Trainee,
        stage: str,
        log,
    ):
        self.out = out
        self.recipe = recipe
        self.trainee = trainee
        self.log = log
        self.device = "cpu"
        self.settled = False
        self.workers = 1
        self.optimizers = optimizers(trainee, recipe)
        self.state = {"stage": stage, "step": 0, "seconds": 0.0}

    def resume(self) -> None:
        """Goes on from the folder's checkpoint, where there is one."""
        if not (self.out / "checkpoint.pt").exists():
            return
        saved = torch.load(
            self.out / "checkpoint.pt",
            map_location=self.device,
            weights_only=True,
        )
        self.trainee.load_state_dict(saved["trainee"])
        for optimizer, state in zip(self.optimizers, saved["tools"], strict=True):
            optimizer.load_state_dict(state)
        self.state = saved["state"]
        self.log(f"resumed at {self.state}")

    def checkpoint(self) -> None:
        if _rank():
            return
        content = {
            "trainee": self.trainee.state_dict(),
            "tools": [optimizer.state_dict() for optimizer in self.optimizers],
            "state": self.state,
        }
        torch.save(content, self.out / "checkpoint.tmp")
        (self.out / "checkpoint.tmp").replace(self.out / "checkpoint.pt")

    def run(
        self,
        stage: str,
        total: int,
        checkpoint_every: int,
    ) -> None:
        """One stage, from its next step on. total: its steps."""
        loader = torch.utils.data.DataLoader(
            Batches(self.recipe, stage, self.state["step"]),
            batch_size=None,
            num_workers=self.workers,
            prefetch_factor=4,
        )
        feed = iter(loader)
        began = time.monotonic()
        for step in range(self.state["step"], total):
            done = self.done(stage, step / total)
            if done >= 1:
                break
            share = rate(step, done, self.recipe)
            values = self.step(stage, next(feed), share)
            ended = time.monotonic()
            self.state["seconds"] += ended - began
            self.state["step"] = step + 1
            began = ended
            if step % 20 == 0 or step + 1 == total:
                self.report(stage, step, total, values)
            if (step + 1) % checkpoint_every == 0:
                self.checkpoint()
        self.log("")
        if stage == "align":
            self.state.update(stage="answer", step=0)
        else:
            self.state.update(stage="done", step=self.recipe.steps)
        self.checkpoint()

    def done(self, stage: str, by_steps: float) -> float:
        """Share 0..1 of the stage that is over. by_steps: the share of its steps."""
        if stage == "align" or not self.recipe.minutes:
            return by_steps
        minutes = torch.tensor(self.state["seconds"] / 60)
        if dist.is_initialized():
            dist.broadcast(minutes, 0)  # so that all of them end at one step
        return max(by_steps, minutes.item() / self.recipe.minutes)

    def step(
        self,
        stage: str,
        batch: dict[str, torch.Tensor],
        share: float,
    ) -> dict[str, float]:
        """One step on a batch; returns its losses.

        share: of the full learning rate, 0..1.
        """
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.recipe.lr * share
        batch = {name: value.to(self.device) for name, value in batch.items()}
        with torch.autocast(
            torch.device(self.device).type,
            torch.bfloat16,
            enabled=self.recipe.precision == "bfloat16",
        ):
            loss, values = self.losses(stage, batch)
        loss.backward()
        if dist.is_initialized():
            averaged_gradients(self.trainee)
        torch.nn.utils.clip_grad_norm_(self.trainee.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return values

    def losses(
        self,
        stage: str,
        batch: dict[str, torch.Tensor],
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """What is minimised, and its parts for the log."""
        seen = self.trainee.see(batch["pixel_values"])
        naming = self.trainee.naming(
            seen,
            batch["names"],
            batch["colours"],
            settled=stage == "align" and self.settled,
        )
        if stage == "align":
            return naming, {"naming": naming.item()}
        answering, right = self.trainee.answering(seen, batch)
        loss = answering + self.recipe.align_weight * naming
        values = {
            "loss": answering.item(),
            "right": right.item(),
            "naming": naming.item(),
        }
        return loss, values

    def report(
        self,
        stage: str,
        step: int,
        total: int,
        values: dict[str, float],
    ) -> None:
        """A line in the log file, and the progress bar."""
        if _rank():
            return
        line = {
            "stage": stage,
            "step": step,
            "seconds": round(self.state["seconds"]),
            **{name: round(value, 4) for name, value in values.items()},
        }
        with (self.out / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        done = int(30 * (step + 1) / total)
        bar = "#" * done
        minutes = self.state["seconds"] / 60
        figures = " ".join(f"{name} {value:.3f}" for name, value in values.items())
        self.log(
            f"\r{stage:6} [{bar:30}] {step + 1}/{total} {minutes:.1f} min {figures}",
            end="",
            flush=True,
        )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m svl_core.demo.train",
        description="Train the bundled model from scratch; the same command resumes.",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/demo"),
        help="folder for checkpoints, the log and the model",
    )
    parser.add_argument(
        "--init",
        type=Path,
        metavar="FOLDER",
        help="go on from a trained model instead of from scratch",
    )
    parser.add_argument(
        "--realign",
        action="store_true",
        help="with --init: the alignment comes first all the same",
    )
    parser.add_argument(
        "--device",
        default="cpu",
        help="where the model is trained: cpu or cuda",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        help="processes that draw the batches",
    )
    parser.add_argument(
        "--checkpoint-every",
        type=int,
        default=250,
        metavar="STEPS",
    )
    for name, value in asdict(Recipe()).items():
        parser.add_argument(
            "--" + name.replace("_", "-"),
            type=type(value),
            default=value,
            choices=sorted(WORLDS) if name == "world" else None,
        )
    given = vars(parser.parse_args(argv))
    out = given.pop("out")
    init = given.pop("init")
    realign = given.pop("realign")
    every = given.pop("checkpoint_every")
    device = given.pop("device")
    workers = given.pop("workers")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:  # as torchrun says it
        dist.init_process_group("gloo")
    train(
        out,
        Recipe(**given),
        init=init,
        realign=realign,
        device=device,
        workers=workers,
        checkpoint_every=every,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
