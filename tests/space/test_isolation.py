"""Interleaved sessions: each sees its own words only, leaves nothing behind, and the log holds none
of them.
"""

import io
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tiny import LAYERS
from visitor import Visitor

WORDS = ["zebrafish", "quokkasaur", "mangosteen", "trombonist"]


def picture_of(seed):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(
        file, "PNG"
    )
    return file.getvalue()


def test_no_session_receives_anything_of_another(public_site, tiny, capfd, caplog):
    before = {name: tensor.clone() for name, tensor in tiny.model.state_dict().items()}
    folder = Path(public_site[1].workspace.uploads._folder())

    def visit(k):
        visitor = Visitor(public_site[0])
        path = visitor.upload(picture_of(k), f"{WORDS[k]}.png")
        said = []
        for turn in range(2):
            said.append(visitor.ask(path, f"what is {WORDS[k]} {turn}"))
            said.append(visitor.compare(LAYERS, [1 + k], answer_length=4))
        return visitor, path, said

    with ThreadPoolExecutor(len(WORDS)) as pool:
        visits = list(pool.map(visit, range(len(WORDS))))
    for k, (visitor, _, said) in enumerate(visits):
        assert all(each["ok"] for each in said), [each["error"] for each in said]
        text = visitor.seen.decode()
        assert WORDS[k] in text
        for other, (_, foreign, _) in enumerate(visits):
            if other != k:
                assert (
                    WORDS[other] not in text
                    and foreign not in text
                    and Path(foreign).parent.name not in text
                )
        assert f"Dropped of layers 0 to {LAYERS - 1}" in text
    after = tiny.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before), (
        "a shared model was changed"
    )

    paths = [Path(path) for _, path, _ in visits]
    assert all(path.exists() and folder in path.parents for path in paths)
    for visitor, _, _ in visits:
        visitor.leave()
    assert gone(*paths), "an upload outlived its session"
    printed = "".join(capfd.readouterr()) + caplog.text
    assert not any(word in printed for word in WORDS)


def gone(*paths, patience=60):
    """Whether all files vanish in time."""
    until = time.monotonic() + patience
    while any(path.exists() for path in paths) and time.monotonic() < until:
        time.sleep(0.1)
    return not any(path.exists() for path in paths)


def test_the_shared_example_outlives_every_visitor_who_leaves(public_site):
    """Pages opened, closed and opened again: with another one open meanwhile, and with none."""
    workspace = public_site[1].workspace
    first, second = Visitor(public_site[0]), Visitor(public_site[0])
    own = Path(first.upload(picture_of(17)))
    for visitor in (first, second):
        assert (
            visitor.call("uploaded", visitor.data("uploaded"))["ok"]
            and visitor.ask(visitor.example(), "on the example")["ok"]
        )
    assert first.ask(str(own), "of my own")["ok"]
    example = Path(first.example())
    first.leave()
    assert gone(own) and example.exists()
    assert (
        second.ask(str(example), "still open")["ok"]
        and second.compare(LAYERS, [1], answer_length=2)["ok"]
    )
    second.leave()
    until = time.monotonic() + 60
    while {first.session, second.session} & set(
        workspace.uploads._held
    ) and time.monotonic() < until:
        time.sleep(0.1)
    assert not {first.session, second.session} & set(workspace.uploads._held)
    third = Visitor(public_site[0])
    assert third.example() == str(example) and third.ask(third.example(), "is it still there")["ok"]
    assert third.http.get(f"/gradio_api/file={example}").content == example.read_bytes()


def test_a_stranger_cannot_stop_or_reuse_what_is_not_theirs(public_site):
    owner, thief = Visitor(public_site[0]), Visitor(public_site[0])
    assert owner.ask(owner.upload(picture_of(9)), "mine alone")["ok"]
    said = thief.compare(LAYERS, [1])
    assert (
        not said["ok"] and "nothing analysed" in said["error"] and "mine alone" not in said["raw"]
    )
