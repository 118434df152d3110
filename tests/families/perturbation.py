"""Proof of places: changed pixels of one rectangle change that very position's features most."""

import numpy as np
import torch
from PIL import Image


class _Seen(Exception):
    pass


def entering(lvlm, sample):
    """What enters layer 0 at the visual positions, (V, d); the decoder does not run."""
    seen = []

    def hook(module, args, kwargs):
        seen.append(args[0] if args else kwargs["hidden_states"])
        raise _Seen

    handle = lvlm.layers[0].register_forward_pre_hook(hook, with_kwargs=True)
    try:
        with torch.inference_mode():
            lvlm.model(**sample.inputs, use_cache=False)
    except _Seen:
        pass
    finally:
        handle.remove()
    hidden = seen[0]
    if hidden.dim() == 4 and hidden.shape[1] == sample.length:  # streams that layers mix
        hidden = hidden.flatten(2)
    return hidden.reshape(-1, *hidden.shape[-2:])[0][torch.tensor(sample.visual)]


def hits(lvlm, images, positions=7):
    """For some positions of each image: whether its own rectangle moves it most among those of like
    size in its image (or one that looks at the same place), and whether what moves most of all
    overlaps the rectangle and belongs to the same image.
    """
    sample = lvlm.encode(images, "what is in the top left ?")
    rects, index = sample.geometry.rects, sample.geometry.image_index
    before, found = entering(lvlm, sample), []
    areas = (rects[:, 2] - rects[:, 0]) * (rects[:, 3] - rects[:, 1])
    for number, image in enumerate(images):
        placed = np.flatnonzero(~np.isnan(areas) & (index == number))
        full = placed[areas[placed] > 0.6 * np.median(areas[placed])]
        for position in full[np.unique(np.linspace(0, len(full) - 1, positions).astype(int))]:
            x0, y0, x1, y1 = (
                (rects[position] * np.array([*image.size, *image.size])).round().astype(int)
            )
            pixels = np.array(image)
            pixels[y0:y1, x0:x1] = 255 * (pixels[y0:y1, x0:x1] < 128)
            changed = lvlm.encode(
                [*images[:number], Image.fromarray(pixels), *images[number + 1 :]],
                "what is in the top left ?",
            )
            moved = torch.linalg.vector_norm(entering(lvlm, changed) - before, dim=1).numpy()
            alike = placed[np.abs(areas[placed] / areas[position] - 1) < 0.3]
            most = np.where(np.isnan(areas), 0, moved).argmax()
            (x, y, right, bottom), own = rects[most], rects[position]
            found.append(
                shared(rects[alike[moved[alike].argmax()]], own) > 0.25
                and index[most] == number
                and min(right, own[2]) > max(x, own[0])
                and min(bottom, own[3]) > max(y, own[1])
            )
    return found


def shared(one, other):
    """The area of two rectangles' intersection over that of their union."""
    width, height = (
        max(min(one[side + 2], other[side + 2]) - max(one[side], other[side]), 0) for side in (0, 1)
    )
    areas = sum((rect[2] - rect[0]) * (rect[3] - rect[1]) for rect in (one, other))
    return width * height / (areas - width * height)
