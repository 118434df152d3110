"""The tiny model, with weights under which greedy answers vary from token to token and from
question to question.
"""

import copy

import pytest
import torch


@pytest.fixture(scope="session")
def tiny(tiny):
    model = copy.deepcopy(tiny.model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, parameter.shape[-1] ** -0.5, generator=generator)
        model.get_input_embeddings().weight.mul_(4)
    return tiny.with_model(model, tiny.layer_ids, {})


@pytest.fixture(scope="session")
def tiny_sample(tiny, image):
    return tiny.encode(image, "what is in the top left ?")
