"""What transformers' torch image processors call of torchvision, in torch alone: for tiny models of
families whose pictures are read by torchvision only, where it cannot be installed beside torch.

In tests only. `lent` enters it into `sys.modules` for as long as a block runs, and
`image_processor` makes a family's own image processor that borrows it for each picture; outside of
these everything is as without torchvision, for transformers and for the other tests. Where the
package itself is installed, it is used.
"""

import contextlib
import enum
import importlib
import importlib.machinery
import importlib.util
import re
import sys
import types

import numpy as np
import torch
import transformers.image_processing_backends as backends
import transformers.image_utils as image_utils

INSTALLED = importlib.util.find_spec("torchvision") is not None
READ_WITH = "its pictures read with a stand-in for torchvision"


class InterpolationMode(enum.Enum):
    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


SMOOTH = (InterpolationMode.BILINEAR, InterpolationMode.BICUBIC)
OF_PILLOW = {
    image_utils.PILImageResampling.NEAREST: InterpolationMode.NEAREST_EXACT,
    image_utils.PILImageResampling.BOX: InterpolationMode.BOX,
    image_utils.PILImageResampling.BILINEAR: InterpolationMode.BILINEAR,
    image_utils.PILImageResampling.HAMMING: InterpolationMode.HAMMING,
    image_utils.PILImageResampling.BICUBIC: InterpolationMode.BICUBIC,
    image_utils.PILImageResampling.LANCZOS: InterpolationMode.LANCZOS,
}


def resize(image, size, interpolation=InterpolationMode.BILINEAR, max_size=None, antialias=True):
    """(..., C, H, W) of any dtype at `size` (height, width); whole numbers stay whole."""
    if max_size is not None or len(size) != 2:
        raise NotImplementedError("a stand-in for torchvision: height and width only")
    interpolation = OF_PILLOW.get(interpolation, interpolation)
    smooth = interpolation in SMOOTH
    options = {"antialias": antialias, "align_corners": False} if smooth else {}
    flat = image.reshape(-1, *image.shape[-3:])
    made = torch.nn.functional.interpolate(
        flat.float(), size=list(size), mode=interpolation.value, **options
    )
    if not image.is_floating_point():
        made = made.round().clamp(0, 255)
    return made.to(image.dtype).reshape(*image.shape[:-2], *size)


def pad(image, padding, fill=0, padding_mode="constant"):
    """padding: left, top, right, bottom, in pixels. fill: one number, or one for each channel."""
    if padding_mode != "constant":
        raise NotImplementedError("a stand-in for torchvision: padding with a constant only")
    left, top, right, bottom = padding
    *lead, height, width = image.shape
    shape = (*lead, height + top + bottom, width + left + right)
    colours = torch.as_tensor(fill or 0, dtype=image.dtype, device=image.device)
    made = colours.reshape(-1, 1, 1).expand(shape).clone()
    made[..., top : top + height, left : left + width] = image
    return made


def crop(image, top, left, height, width):
    return image[..., top : top + height, left : left + width]


def normalize(image, mean, std, inplace=False):
    if not image.is_floating_point():
        raise TypeError("a stand-in for torchvision: floating point only")
    mean, std = (
        torch.as_tensor(value, dtype=image.dtype, device=image.device).reshape(-1, 1, 1)
        for value in (mean, std)
    )
    return image.sub_(mean).div_(std) if inplace else (image - mean) / std


def grayscale_to_rgb(image):
    return image if image.shape[-3] != 1 else image.expand(*image.shape[:-3], 3, *image.shape[-2:])


def to_dtype(image, dtype=torch.float32, scale=False):
    """scale: between 0..255 of bytes and 0..1 of floating point."""
    if scale and dtype.is_floating_point and image.dtype is torch.uint8:
        return image.to(dtype) / 255
    if scale and dtype is torch.uint8 and image.is_floating_point():
        return (image * 255).round().clamp(0, 255).to(dtype)
    return image.to(dtype)


def pil_to_tensor(picture):
    """(C, H, W) of a pillow picture."""
    pixels = np.array(picture)
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


FUNCTIONS = (resize, pad, crop, normalize, grayscale_to_rgb, to_dtype, pil_to_tensor)


def _modules() -> dict[str, types.ModuleType]:
    """The modules of the package, by name."""
    names = (
        "torchvision",
        "torchvision.transforms",
        "torchvision.transforms.functional",
        "torchvision.transforms.v2",
        "torchvision.transforms.v2.functional",
    )
    made = {name: types.ModuleType(name) for name in names}
    for name, module in made.items():
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        module.__path__ = []
        module.InterpolationMode = InterpolationMode
        owner, _, leaf = name.rpartition(".")
        if owner:
            setattr(made[owner], leaf, module)
        if leaf == "functional":
            vars(module).update({each.__name__: each for each in FUNCTIONS})
    return made


MODULES = _modules()
# What transformers' own modules would hold if torchvision had been there when they were read.
HELD = (
    (backends, "tvF", MODULES["torchvision.transforms.v2.functional"]),
    (backends, "pil_torch_interpolation_mapping", OF_PILLOW),
    (image_utils, "pil_torch_interpolation_mapping", OF_PILLOW),
)
MISSING = object()
OF_A_PROCESSOR = re.compile(
    r"transformers\.models\.(?!auto\.)\w+\.((image|video)_)?processing_(?!pil_)\w+$"
)
_read: dict[str, types.ModuleType] = {}
"""transformers' modules that were read while it was lent."""


@contextlib.contextmanager
def lent():
    """Within this block torchvision can be imported, and transformers' processors call it."""
    if INSTALLED or "torchvision" in sys.modules:
        yield
        return
    before = [(module, name, getattr(module, name, MISSING)) for module, name, _ in HELD]
    known = set(sys.modules)
    sys.modules.update(MODULES)
    sys.modules.update(_read)
    for module, name, value in HELD:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in before:
            delattr(module, name) if value is MISSING else setattr(module, name, value)
        new = set(sys.modules) - known
        _read.update({name: sys.modules[name] for name in new if OF_A_PROCESSOR.match(name)})
        for name in (*MODULES, *_read):
            _forget(name)


def _forget(name: str) -> None:
    """Takes a module out of those that are imported, and off the package that holds it."""
    sys.modules.pop(name, None)
    owner, _, leaf = name.rpartition(".")
    if owner.startswith("transformers"):
        vars(sys.modules[owner]).pop(leaf, None)


def image_processor(model: str, name: str):
    """The class `name` of transformers' image processor of `model`, which borrows torchvision
    whenever it reads pictures.
    """
    with lent():
        home = importlib.import_module(f"transformers.models.{model}.image_processing_{model}")
    stock = getattr(home, name)

    class Borrowing(stock):
        read_with = "" if INSTALLED else READ_WITH

        def __call__(self, *args, **kwargs):
            with lent():
                return super().__call__(*args, **kwargs)

    Borrowing.__name__ = Borrowing.__qualname__ = name
    return Borrowing
