"""Fixtures shared by all tests: a tiny LLaVA with random weights and a real processor, built
offline.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # tests never reach for the network
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for processes that tests start; see below
os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # threads that spin for each other take twenty times as long where others want the cores too

import pytest
import torch
from tiny import (
    picture,
    tiny_llava,
)  # noqa: F401  (tests may import these from here too)

# on models this small two threads mostly wait for each other: 40 times slower beside a busy browser
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny():
    """LVLM: LLaVA (CLIP), 6 layers, hidden 64, 36 visual positions, untied head, random weights."""
    from svl_core.lvlm.families import family_of
    from svl_core.lvlm.model import LVLM

    model, processor = tiny_llava()
    return LVLM(model, processor, family_of(model.config), "tiny")


@pytest.fixture(scope="session")
def image():
    return picture()


@pytest.fixture(scope="session")
def tiny_sample(tiny, image):
    return tiny.encode(image, "what is in the top left ?")


@pytest.fixture
def own_files(tmp_path):
    """A visitor's own set: three images and a list that asks of two of them."""
    paths = []
    for k in range(3):
        picture(seed=k + 1).save(tmp_path / f"own{k}.png")
        paths.append(str(tmp_path / f"own{k}.png"))
    listed = tmp_path / "asked.jsonl"
    listed.write_text(
        '{"image": "own1.png", "prompt": "how many apples ?"}\n{"image": "own0.png"}\n'
    )
    return paths, str(listed)
