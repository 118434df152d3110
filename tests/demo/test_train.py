"""Training: what the packed sequence computes is what inference computes, and a stopped run
resumes.
"""

import dataclasses
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.distributed as dist

from svl_core.demo import build, train

SMALL = train.Recipe(
    align_steps=2, align_batch=3, steps=3, batch=2, text_length=80, warmup=1, easy_vqa_share=0.0
)


FREE = dataclasses.replace(SMALL, world="free", text_length=120)


def drawn(recipe):
    return next(iter(train.Batches(recipe, "answer")))


@pytest.fixture(scope="module")
def batch():
    return drawn(SMALL)


@pytest.mark.parametrize("recipe", [SMALL, FREE], ids=["grid", "free"])
def test_a_packed_question_gets_the_logits_it_gets_alone(recipe):
    batch = drawn(recipe)
    world = train.WORLDS[recipe.world]
    count = world.visual_tokens
    words = build.tokenizer(world)
    model = build.untrained(words, layers=3, world=world).eval()
    trainee = train.Trainee(model, words.bos_token_id)
    caught = []
    model.lm_head.register_forward_hook(lambda module, args, out: caught.append(out.detach()))
    with torch.no_grad():
        trainee.answering(trainee.see(batch["pixel_values"]), batch)
        packed = torch.zeros(*batch["ids"].shape, len(words))
        packed[batch["labels"] != train.IGNORE] = caught.pop()
        for row in range(2):
            for group in (0, 1, 2):
                inside = batch["groups"][row] == group
                ids = torch.cat(
                    [
                        torch.tensor(
                            [words.bos_token_id]
                            + [words.convert_tokens_to_ids(build.IMAGE)] * count
                        ),
                        batch["ids"][row][inside],
                    ]
                )[None]
                alone = model(
                    input_ids=ids, pixel_values=batch["pixel_values"][row : row + 1]
                ).logits[0, 1 + count :]
                answer = batch["labels"][row][inside] != train.IGNORE
                assert answer.any()
                torch.testing.assert_close(
                    packed[row][inside][answer], alone[answer], atol=2e-4, rtol=1e-4
                )


def test_packed_text_reads_as_the_chat_template_writes_it(batch):
    words = build.processor().tokenizer
    inside = batch["groups"][0] == 0
    text = words.decode(batch["ids"][0][inside])
    question, answer = text.removeprefix("<user>").removesuffix("</s>").split("<assistant>")
    chat = words.apply_chat_template(
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
        tokenize=False,
        chat_template=build.TEMPLATE,
    )
    assert words(chat, add_special_tokens=False).input_ids[1:] == batch["ids"][0][inside].tolist()


def test_every_answer_weighs_the_same(batch):
    for row in range(2):
        for group in range(int(batch["groups"][row].max()) + 1):
            assert batch["weights"][row][batch["groups"][row] == group].sum() == pytest.approx(1)


@pytest.mark.slow
def test_a_stopped_run_resumes_and_writes_a_model(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "compile", lambda *a, **k: None)
    train.train(tmp_path, train.Recipe(**{**SMALL.__dict__, "steps": 1}), log=lambda *a, **k: None)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    state["state"].update(stage="answer", step=1)
    torch.save(state, tmp_path / "checkpoint.pt")
    train.train(tmp_path, SMALL, log=lambda *a, **k: None)
    steps = [
        (line["stage"], line["step"])
        for line in map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    ]
    assert steps[-1] == ("answer", 2) and ("answer", 0) in steps and ("align", 0) in steps
    assert (tmp_path / "model" / "model.safetensors").stat().st_size < 30e6
    train.train(
        tmp_path / "more",
        train.Recipe(**{**SMALL.__dict__, "steps": 1, "lr": 0.0}),
        init=tmp_path / "model",
        log=lambda *a, **k: None,
    )
    first, more = (
        safetensors.torch.load_file(folder / "model" / "model.safetensors")
        for folder in (tmp_path, tmp_path / "more")
    )
    assert all(
        torch.equal(first[name], more[name]) for name in first
    )  # at a rate of zero, going on changes nothing


@pytest.mark.slow
def test_realigning_teaches_the_eye_and_leaves_the_words(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "compile", lambda *a, **k: None)
    init = Path(__file__).parents[2] / "assets" / "demo_lvlm"
    recipe = dataclasses.replace(SMALL, steps=0)
    train.train(
        tmp_path,
        recipe,
        init=init,
        realign=True,
        log=lambda *a, **k: None,
    )
    first, more = (
        safetensors.torch.load_file(folder / "model.safetensors")
        for folder in (init, tmp_path / "model")
    )
    changed = {name for name in first if not torch.equal(first[name], more[name])}
    assert changed and all("vision_tower" in name or "projector" in name for name in changed)


@pytest.mark.parametrize(
    "minutes, seconds, by_steps, expected",
    [
        (0.0, 600.0, 0.25, 0.25),
        (20.0, 600.0, 0.25, 0.5),
        (20.0, 60.0, 0.25, 0.25),
    ],
)
def test_a_run_ends_by_its_steps_or_its_minutes(tmp_path, minutes, seconds, by_steps, expected):
    recipe = dataclasses.replace(SMALL, minutes=minutes)
    words = build.tokenizer()
    trainee = train.Trainee(build.untrained(words, layers=1), words.bos_token_id)
    training = train._Training(
        tmp_path,
        recipe,
        trainee,
        "answer",
        print,
    )
    training.state["seconds"] = seconds
    assert training.done("answer", by_steps) == expected
    assert training.done("align", by_steps) == by_steps
    assert train.rate(10_000, expected, recipe) == pytest.approx(
        min(1.0, (1 - expected) / recipe.decay_share)
    )


def _one_of_two(rank, meeting, out):
    """A process that shares a step: its gradients are its number, and it did not use `other`."""
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    parts = torch.nn.ModuleDict({"used": torch.nn.Linear(2, 1), "other": torch.nn.Linear(3, 1)})
    parts["used"].weight.grad = torch.full((1, 2), float(rank))
    if rank:
        parts["other"].bias.grad = torch.ones(1)
    train.averaged_gradients(parts)
    drawn = next(iter(train.Batches(SMALL, "align")))["pixel_values"].sum()
    torch.save([part.grad for part in parts.parameters()] + [drawn], f"{out}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_processes_that_share_a_step_average_their_gradients_and_draw_their_own(tmp_path):
    torch.multiprocessing.spawn(_one_of_two, (tmp_path / "meeting", tmp_path), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for one, other in zip(first[:-1], second[:-1], strict=True):
        assert torch.equal(one, other)
    weight, bias, other_weight, other_bias = first[:-1]
    assert weight.tolist() == [[0.5, 0.5]] and other_bias.tolist() == [0.5]
    assert not bias.any() and not other_weight.any()
    assert first[-1] != second[-1]
