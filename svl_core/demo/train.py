"""Trains the bundled model from scratch on CPU: `python -m svl_core.demo.train --out
assets/demo_lvlm`.

Two stages, like any LVLM's. 1) Alignment: the vision tower and projector learn to name what each
patch shows, in the language model's own embedding space. 2) Questions: the whole model learns to
answer; all questions on an image share one sequence, with attention blocked between them and
positions restarted after the image, so the image is paid for once. Muon moves the matrices, AdamW
the rest. Checkpoints are written as it goes; the same command resumes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import LlavaForConditionalGeneration

from svl_core.demo import build, easy_vqa, questions, scenes

IGNORE = -100
# How often each kind is drawn: the slow ones more.
WEIGHTS = {
    "what-at": 1.0,
    "where": 1.6,
    "is-at": 1.6,
    "which": 1.0,
    "exists-object": 0.8,
    "exists-category": 1.0,
    "count-all": 0.5,
    "count-category": 2.4,
    "count-object": 2.0,
    "relation": 2.4,
    "side": 1.6,
    "colour": 0.6,
    "caption": 2.4,
}
VISUAL = (build.IMAGE_SIDE // build.PATCH) ** 2


@dataclass(frozen=True)
class Recipe:
    """Settings of one training run."""

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
        self.stage = stage
        self.start = start

    def __iter__(self):
        torch.set_num_threads(1)
        self.tokenizer = build.tokenizer()
        seeds = [self.recipe.seed, self.stage == "align", self.start]
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
        """One scene as (scene, image, name target of each patch (36,), colour target of each patch
        (36,)).
        """
        n = None
        if self.stage == "align":
            n = int(self.rng.integers(2, 8))
        elif self.rng.random() < self.recipe.pair_share:
            n = 2
        scene = scenes.random_scene(
            self.rng,
            wild=self.rng.random() < 0.8,
            n=n,
        )
        size = build.IMAGE_SIDE if self.rng.random() < 0.7 else scenes.SIZE
        image = scenes.render(scene, size)
        names = np.full((3, 3), self.ids["nothing"])
        colours = np.full((3, 3), IGNORE)
        words = list(scenes.COLOURS)
        for item in scene.items:
            names[item.row, item.column] = self.ids[item.name]
            if item.colour:
                colours[item.row, item.column] = words.index(item.colour)
        return scene, image, self._by_patch(names), self._by_patch(colours)

    @staticmethod
    def _by_patch(cells: np.ndarray) -> np.ndarray:
        """(3, 3) targets of the cells -> (36,) of the patches, two by two in a cell."""
        return cells.repeat(2, 0).repeat(2, 1).ravel()

    def tinted(self, images) -> torch.Tensor:
        """Pixels with random brightness, contrast and colour balance for each image."""
        n = len(images)
        contrast = self.rng.uniform(0.86, 1.14, (n, 1, 1, 1))
        balance = self.rng.uniform(0.94, 1.06, (n, 3, 1, 1))
        brightness = self.rng.uniform(-0.12, 0.12, (n, 1, 1, 1))
        gain = torch.from_numpy(contrast * balance).float()
        offset = torch.from_numpy(brightness).float()
        tinted = build.pixels(images) * gain + offset
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
        kinds = list(WEIGHTS)
        weights = np.array(list(WEIGHTS.values()))
        shares = weights / weights.sum()
        while True:
            kind = str(self.rng.choice(kinds, p=shares))
            qa = questions.ask(scene, self.rng, kind)
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
        prefix = 1 + VISUAL
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
            unknown = np.full(VISUAL, IGNORE)
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
        return [user, *asked, assistant], [*said, tokenizer.eos_token_id]


class Trainee(torch.nn.Module):
    """The model with its two losses; the colour reader is training's own and is thrown away."""

    def __init__(self, model, bos: int):
        super().__init__()
        self.model = model
        self.bos = bos
        width = model.config.text_config.hidden_size
        self.colour = torch.nn.Linear(width, len(scenes.COLOURS))

    def see(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(n, 36, d) what enters the decoder for the image."""
        core = self.model.model
        patches = core.vision_tower(pixel_values).last_hidden_state[:, 1:]
        return core.multi_modal_projector(patches)

    def naming(
        self,
        seen: torch.Tensor,
        names: torch.Tensor,
        colours: torch.Tensor,
    ) -> torch.Tensor:
        """Loss of naming what each patch shows, in the language model's embedding space.

        seen: (n, 36, d) as `see` gives it.
        names, colours: (n, 36) targets, IGNORE where there is none.
        """
        flat = F.rms_norm(seen, seen.shape[-1:]).flatten(0, 1)
        logits = flat @ self.model.get_input_embeddings().weight.T
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

        seen: (n, 36, d) as `see` gives it.
        batch: as `Batches.packed` gives it.
        """
        n, size = batch["ids"].shape
        embed = self.model.get_input_embeddings()
        first = embed(torch.full((n, 1), self.bos))
        questions = embed(batch["ids"])
        hidden = torch.cat([first, seen, questions], 1)
        prefix = 1 + seen.shape[1]
        of_prefix = torch.full((n, prefix), -2)
        groups = torch.cat([of_prefix, batch["groups"]], 1)
        counted = torch.arange(prefix).expand(n, -1)
        positions = torch.cat([counted, batch["positions"]], 1)
        length = prefix + size
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        of_picture = groups[:, None, :] == -2
        of_same_question = groups[:, None, :] == groups[:, :, None]
        mask = causal & (of_picture | of_same_question)
        out = self.model.get_decoder()(
            inputs_embeds=hidden,
            attention_mask=mask[:, None],
            position_ids=positions,
            use_cache=False,
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
    total: int,
    recipe: Recipe,
) -> float:
    """Share of the full learning rate: warm-up, constant, linear decay."""
    warm_up = (step + 1) / recipe.warmup
    decaying = max(1, recipe.decay_share * total)
    decay = (total - step) / decaying
    return min(1.0, warm_up, max(0.0, decay))


def train(
    out: Path,
    recipe: Recipe,
    *,
    init: Path | None = None,
    checkpoint_every: int = 250,
    log=print,
) -> None:
    """Run or resume both stages; writes `out/checkpoint.pt`, `out/log.jsonl` and, at the end, the
    model folder `out/model`.

    out: the folder; a checkpoint in it is gone on from.
    recipe: the settings.
    init: a trained model's folder to go on from; its alignment is done, so stage 2 starts at once.
    checkpoint_every: steps between two checkpoints.
    log: called as `print` is.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    proc = build.processor()
    model = build.untrained(proc.tokenizer, seed=recipe.seed)
    trainee = Trainee(model, proc.tokenizer.bos_token_id).train()
    if init:
        trained = LlavaForConditionalGeneration.from_pretrained(init, dtype=torch.float32)
        trainee.model.load_state_dict(trained.state_dict())
    training = _Training(
        out,
        recipe,
        trainee,
        "answer" if init else "align",
        log,
    )
    training.resume()
    for layer in trainee.model.get_decoder().layers:
        layer.compile(dynamic=False)
    for stage, total in (("align", recipe.align_steps), ("answer", recipe.steps)):
        if training.state["stage"] == stage:
            training.run(stage, total, checkpoint_every)
    build.save(
        trainee.model.eval(),
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
        self.optimizers = optimizers(trainee, recipe)
        self.state = {"stage": stage, "step": 0, "seconds": 0.0}

    def resume(self) -> None:
        """Goes on from the folder's checkpoint, where there is one."""
        if not (self.out / "checkpoint.pt").exists():
            return
        saved = torch.load(self.out / "checkpoint.pt", weights_only=True)
        self.trainee.load_state_dict(saved["trainee"])
        for optimizer, state in zip(self.optimizers, saved["tools"], strict=True):
            optimizer.load_state_dict(state)
        self.state = saved["state"]
        self.log(f"resumed at {self.state}")

    def checkpoint(self) -> None:
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
            num_workers=1,
            prefetch_factor=4,
        )
        feed = iter(loader)
        began = time.monotonic()
        for step in range(self.state["step"], total):
            share = rate(step, total, self.recipe)
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
        seen = self.trainee.see(batch["pixel_values"])
        naming = self.trainee.naming(
            seen,
            batch["names"],
            batch["colours"],
        )
        loss = naming
        values = {}
        if stage != "align":
            answering, right = self.trainee.answering(seen, batch)
            loss = answering + self.recipe.align_weight * naming
            values["loss"] = answering.item()
            values["right"] = right.item()
        values["naming"] = naming.item()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trainee.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return values

    def report(
        self,
        stage: str,
        step: int,
        total: int,
        values: dict[str, float],
    ) -> None:
        """A line in the log file, and the progress bar."""
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
        )
    given = vars(parser.parse_args(argv))
    out = given.pop("out")
    init = given.pop("init")
    every = given.pop("checkpoint_every")
    train(
        out,
        Recipe(**given),
        init=init,
        checkpoint_every=every,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
