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

    def __init__(self, recipe: Recipe, stage: str, start: int = 0):
        self.recipe = recipe
        self.stage = stage
        self.start = start

    def __iter__(self):
        torch.set_num_threads(1)
        self.tokenizer = build.tokenizer()
        self.rng = np.random.default_rng([self.recipe.seed, self.stage == "align", self.start])
        self.ids = {
            name: self.tokenizer(f" {name}", add_special_tokens=False).input_ids[0]
            for name in questions.all_names() + ("nothing",)
        }
        self.yardstick = (
            easy_vqa.grouped("train")
            if self.recipe.easy_vqa_share and self.stage != "align"
            else []
        )
        while True:
            yield self.align() if self.stage == "align" else self.packed()

    def picture(self):
        """One scene as (scene, image, name target of each patch (36,), colour target of each patch
        (36,)).
        """
        n = (
            int(self.rng.integers(2, 8))
            if self.stage == "align"
            else 2
            if self.rng.random() < self.recipe.pair_share
            else None
        )
        scene = scenes.random_scene(self.rng, wild=self.rng.random() < 0.8, n=n)
        image = scenes.render(
            scene,
            build.IMAGE_SIDE if self.rng.random() < 0.7 else scenes.SIZE,
        )
        names = np.full((3, 3), self.ids["nothing"])
        colours = np.full((3, 3), IGNORE)
        for item in scene.items:
            names[item.row, item.column] = self.ids[item.name]
            if item.colour:
                colours[item.row, item.column] = list(scenes.COLOURS).index(item.colour)
        return (
            scene,
            image,
            names.repeat(2, 0).repeat(2, 1).ravel(),
            colours.repeat(2, 0).repeat(2, 1).ravel(),
        )

    def tinted(self, images) -> torch.Tensor:
        """Pixels with random brightness, contrast and colour balance for each image."""
        n = len(images)
        values = build.pixels(images)
        gain = torch.from_numpy(
            self.rng.uniform(0.86, 1.14, (n, 1, 1, 1)) * self.rng.uniform(0.94, 1.06, (n, 3, 1, 1))
        ).float()
        return (
            values * gain + torch.from_numpy(self.rng.uniform(-0.12, 0.12, (n, 1, 1, 1))).float()
        ).clamp_(-1, 1)

    def align(self) -> dict[str, torch.Tensor]:
        made = [self.picture() for _ in range(self.recipe.align_batch)]
        return {
            "pixel_values": self.tinted([m[1] for m in made]),
            "names": torch.tensor(np.stack([m[2] for m in made])),
            "colours": torch.tensor(np.stack([m[3] for m in made])),
        }

    def pairs(self, scene):
        """Questions on a scene, endlessly, slow kinds more often."""
        kinds = list(WEIGHTS)
        weights = np.array(list(WEIGHTS.values()))
        while True:
            qa = questions.ask(
                scene,
                self.rng,
                str(self.rng.choice(kinds, p=weights / weights.sum())),
            )
            if qa:
                yield qa.question, qa.answer

    def disguise(self, question: str) -> str:
        """Case needs no practice (the tokenizer lower-cases); punctuation is dropped at times."""
        return question[:-1] if self.rng.random() < 0.2 else question

    def packed(self) -> dict[str, torch.Tensor]:
        size = self.recipe.text_length
        prefix = 1 + VISUAL
        tok = self.tokenizer
        n = self.recipe.batch
        ids = np.full((n, size), tok.pad_token_id)
        positions = np.zeros((n, size), np.int64)
        groups = np.full((n, size), -1)
        labels = np.full((n, size), IGNORE)
        weights = np.zeros((n, size), np.float32)
        images = []
        names = []
        colours = []
        for row in range(n):
            if self.yardstick and self.rng.random() < self.recipe.easy_vqa_share:
                image, asked = self.yardstick[int(self.rng.integers(len(self.yardstick)))]
                images.append(image())
                (
                    names.append(np.full(VISUAL, IGNORE)),
                    colours.append(np.full(VISUAL, IGNORE)),
                )
                stream = iter([asked[k] for k in self.rng.permutation(len(asked))])
            else:
                scene, image, name, colour = self.picture()
                (
                    images.append(image),
                    names.append(name),
                    colours.append(colour),
                )
                stream = self.pairs(scene)
            at = 0
            group = 0
            for question, answer in stream:
                head = [
                    tok.convert_tokens_to_ids(build.USER),
                    *tok(
                        f" {self.disguise(question)}",
                        add_special_tokens=False,
                    ).input_ids,
                    tok.convert_tokens_to_ids(build.ASSISTANT),
                ]
                tail = [
                    *tok(f" {answer}", add_special_tokens=False).input_ids,
                    tok.eos_token_id,
                ]
                end = at + len(head) + len(tail)
                if end > size:
                    break
                (
                    ids[row, at:end],
                    positions[row, at:end],
                    groups[row, at:end],
                ) = (
                    head + tail,
                    prefix + np.arange(end - at),
                    group,
                )
                # A position is trained on the token that follows it.
                answer_at = slice(at + len(head) - 1, end - 1)
                labels[row, answer_at], weights[row, answer_at] = (
                    tail,
                    1 / len(tail),
                )
                at = end
                group = group + 1
        return {
            "pixel_values": self.tinted(images),
            "names": torch.tensor(np.stack(names)),
            "colours": torch.tensor(np.stack(colours)),
            "ids": torch.tensor(ids),
            "positions": torch.tensor(positions),
            "groups": torch.tensor(groups),
            "labels": torch.tensor(labels),
            "weights": torch.tensor(weights),
        }


class Trainee(torch.nn.Module):
    """The model with its two losses; the colour reader is training's own and is thrown away."""

    def __init__(self, model, bos: int):
        super().__init__()
        self.model = model
        self.bos = bos
        self.colour = torch.nn.Linear(model.config.text_config.hidden_size, len(scenes.COLOURS))

    def see(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(n, 36, d) what enters the decoder for the image."""
        core = self.model.model
        return core.multi_modal_projector(core.vision_tower(pixel_values).last_hidden_state[:, 1:])

    def naming(
        self, seen: torch.Tensor, names: torch.Tensor, colours: torch.Tensor
    ) -> torch.Tensor:
        flat = F.rms_norm(seen, seen.shape[-1:]).flatten(0, 1)
        loss = F.cross_entropy(
            flat @ self.model.get_input_embeddings().weight.T,
            names.flatten(),
            ignore_index=IGNORE,
        )
        return (
            loss + 0.5 * F.cross_entropy(self.colour(flat), colours.flatten(), ignore_index=IGNORE)
            if (colours >= 0).any()
            else loss
        )

    def answering(
        self, seen: torch.Tensor, batch: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        n, size = batch["ids"].shape
        embed = self.model.get_input_embeddings()
        first = embed(torch.full((n, 1), self.bos))
        hidden = torch.cat([first, seen, embed(batch["ids"])], 1)
        prefix = 1 + seen.shape[1]
        groups = torch.cat([torch.full((n, prefix), -2), batch["groups"]], 1)
        positions = torch.cat([torch.arange(prefix).expand(n, -1), batch["positions"]], 1)
        causal = torch.ones(prefix + size, prefix + size, dtype=torch.bool).tril()
        mask = causal & ((groups[:, None, :] == -2) | (groups[:, None, :] == groups[:, :, None]))
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
        return (loss * weights).sum() / weights.sum(), (
            (logits.argmax(-1) == labels) * weights
        ).sum() / weights.sum()


def optimizers(trainee: Trainee, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embeddings, norms, biases and the patch
    embedding.
    """
    matrices = []
    rest = []
    for name, parameter in trainee.named_parameters():
        (
            matrices
            if parameter.ndim == 2
            and "layers." in name
            or "projector.linear" in name
            and parameter.ndim == 2
            else rest
        ).append(parameter)
    return [
        torch.optim.Muon(
            matrices,
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
            momentum=0.95,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(rest, lr=recipe.lr, weight_decay=0.0, betas=(0.9, 0.97)),
    ]


def rate(step: int, total: int, recipe: Recipe) -> float:
    """Share of the full learning rate: warm-up, constant, linear decay."""
    return min(
        1.0,
        (step + 1) / recipe.warmup,
        max(0.0, (total - step) / max(1, recipe.decay_share * total)),
    )


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

    init: a trained model's folder to go on from; its alignment is done, so stage 2 starts at once.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    proc = build.processor()
    trainee = Trainee(
        build.untrained(proc.tokenizer, seed=recipe.seed),
        proc.tokenizer.bos_token_id,
    ).train()
    if init:
        trainee.model.load_state_dict(
            LlavaForConditionalGeneration.from_pretrained(init, dtype=torch.float32).state_dict()
        )
    tools = optimizers(trainee, recipe)
    state = {
        "stage": "answer" if init else "align",
        "step": 0,
        "seconds": 0.0,
    }
    if (out / "checkpoint.pt").exists():
        saved = torch.load(out / "checkpoint.pt", weights_only=True)
        trainee.load_state_dict(saved["trainee"])
        for tool, kept in zip(tools, saved["tools"]):
            tool.load_state_dict(kept)
        state = saved["state"]
        log(f"resumed at {state}")

    def checkpoint() -> None:
        torch.save(
            {
                "trainee": trainee.state_dict(),
                "tools": [tool.state_dict() for tool in tools],
                "state": state,
            },
            out / "checkpoint.tmp",
        )
        (out / "checkpoint.tmp").replace(out / "checkpoint.pt")

    for layer in trainee.model.get_decoder().layers:
        layer.compile(dynamic=False)
    for stage, total in (
        ("align", recipe.align_steps),
        ("answer", recipe.steps),
    ):
        if state["stage"] != stage:
            continue
        feed = iter(
            torch.utils.data.DataLoader(
                Batches(recipe, stage, state["step"]),
                batch_size=None,
                num_workers=1,
                prefetch_factor=4,
            )
        )
        began = time.monotonic()
        shown = {}
        for step in range(state["step"], total):
            batch = next(feed)
            share = rate(step, total, recipe)
            for tool in tools:
                for group in tool.param_groups:
                    group["lr"] = recipe.lr * share
            seen = trainee.see(batch["pixel_values"])
            naming = trainee.naming(seen, batch["names"], batch["colours"])
            if stage == "align":
                loss = naming
                shown = {"naming": naming.item()}
            else:
                answering, right = trainee.answering(seen, batch)
                loss = answering + recipe.align_weight * naming
                shown = {
                    "loss": answering.item(),
                    "right": right.item(),
                    "naming": naming.item(),
                }
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trainee.parameters(), 1.0)
            for tool in tools:
                tool.step()
                tool.zero_grad(set_to_none=True)
            now = time.monotonic()
            state["seconds"], began, state["step"] = (
                state["seconds"] + now - began,
                now,
                step + 1,
            )
            if step % 20 == 0 or step + 1 == total:
                with (out / "log.jsonl").open("a") as file:
                    file.write(
                        json.dumps(
                            {
                                "stage": stage,
                                "step": step,
                                "seconds": round(state["seconds"]),
                                **{k: round(v, 4) for k, v in shown.items()},
                            }
                        )
                        + "\n"
                    )
                bar = "#" * int(30 * (step + 1) / total)
                log(
                    f"\r{stage:6} [{bar:30}] {step + 1}/{total} {state['seconds'] / 60:.1f} min "
                    + " ".join(f"{k} {v:.3f}" for k, v in shown.items()),
                    end="",
                    flush=True,
                )
            if (step + 1) % checkpoint_every == 0:
                checkpoint()
        log("")
        state.update(
            stage="answer" if stage == "align" else "done",
            step=0 if stage == "align" else recipe.steps,
        )
        checkpoint()
    build.save(trainee.model.eval(), proc, out / "model")
    (out / "recipe.json").write_text(
        json.dumps(asdict(recipe) | {"seconds": round(state["seconds"])}, indent=1)
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
    parser.add_argument("--checkpoint-every", type=int, default=250, metavar="STEPS")
    for name, value in asdict(Recipe()).items():
        parser.add_argument("--" + name.replace("_", "-"), type=type(value), default=value)
    given = vars(parser.parse_args(argv))
    out = given.pop("out")
    init = given.pop("init")
    every = given.pop("checkpoint_every")
    train(out, Recipe(**given), init=init, checkpoint_every=every)
    return 0


if __name__ == "__main__":
    sys.exit(main())
