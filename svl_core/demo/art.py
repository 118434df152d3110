"""The drawings the demo world is made of: 96 everyday objects in nine styles.

Eight styles ship as sprite sheets in assets/objects: "noto" and "twemoji", which the page's
pictures are made of, and six more that are met in training only. The ninth, "openmoji", is fetched
once on request and kept in the user's cache. objects.json there names every object, its plural and
its category, in the order of the cells of every sheet (row-major).
"""

import functools
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, PngImagePlugin

from svl_core.errors import SVLError
from svl_core.files import bundled

ASSETS = bundled("objects")
STYLES = (
    "noto",
    "twemoji",
    "fluent",
    "outlined",
    "blob",
    "emojione",
    "streamline",
    "firefox",
    "openmoji",
)
FILL = 60  # px: the longer side of an OpenMoji drawing in its cell, about that of the other styles


class ArtError(SVLError, OSError):
    """Drawings are missing or damaged; the message says what was found, expected and to be done."""


@dataclass(frozen=True)
class ObjectKind:
    """One kind of object: English singular and plural, category, hex code point of its emoji."""

    name: str
    plural: str
    category: str
    codepoint: str


@dataclass(frozen=True)
class Category:
    """One category of objects: English singular and plural."""

    name: str
    plural: str


@functools.cache
def _index() -> dict:
    """The content of objects.json."""
    path = ASSETS / "objects.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise ArtError(
            f"The object list {path} cannot be read ({err}). Expected the JSON file that "
            "ships with the project: restore it with git checkout, or install the project again."
        ) from err


@functools.cache
def objects() -> tuple[ObjectKind, ...]:
    """All 96 kinds of object, in the order of the sheets' cells."""
    return tuple(ObjectKind(**entry) for entry in _index()["objects"])


@functools.cache
def categories() -> tuple[Category, ...]:
    """All categories; every object belongs to exactly one."""
    return tuple(Category(**entry) for entry in _index()["categories"])


@functools.cache
def sprites(style: str) -> tuple[Image.Image, ...]:
    """One RGBA image of 64x64 px per object, aligned with objects(); shared, so copy before
    drawing.

    style is one of STYLES. "openmoji" needs npm, the package resvg-py and a network the first time.
    """
    if style not in STYLES:
        raise ValueError(f"Unknown drawing style {style!r}: expected one of {', '.join(STYLES)}.")
    path = _openmoji_sheet() if style == "openmoji" else ASSETS / f"{style}.png"
    cell = _index()["cell"]
    count = len(objects())
    remedy = "Delete it and try again." if style == "openmoji" else "Restore it with git checkout."
    try:
        with Image.open(path) as image:
            sheet = image.convert("RGBA")
    except OSError as err:
        raise ArtError(f"The sprite sheet {path} cannot be read ({err}). {remedy}") from err
    if sheet.size != _sheet_size():
        raise ArtError(
            f"The sprite sheet {path} is {sheet.size} px, expected {_sheet_size()} px for "
            f"{count} objects. {remedy}"
        )
    drawings = []
    for number in range(count):
        x, y = _corner(number)
        drawings.append(sheet.crop((x, y, x + cell, y + cell)))
    return tuple(drawings)


def _corner(number: int) -> tuple[int, int]:
    """Where an object's cell begins in a sheet, px."""
    cell = _index()["cell"]
    row, column = divmod(number, _index()["columns"])
    return column * cell, row * cell


def _sheet_size() -> tuple[int, int]:
    """Width and height of a sheet in px."""
    cell = _index()["cell"]
    columns = _index()["columns"]
    rows = -(-len(objects()) // columns)
    return columns * cell, rows * cell


def _openmoji_sheet() -> Path:
    """Path of the cached OpenMoji sheet; drawn first where absent or of another object list."""
    source = _index()["sources"]["openmoji"]
    path = Path.home() / ".cache" / "svl-explorer" / "openmoji" / "openmoji.png"
    made_for = " ".join([source["version"], *(kind.codepoint for kind in objects())])
    try:
        with Image.open(path) as image:
            if image.info.get("made_for") == made_for:
                return path
    except OSError:
        pass  # absent or damaged: make it anew
    sheet = Image.new("RGBA", _sheet_size())
    drawings = _fetch_openmoji(f"{source['package']}@{source['version']}")
    for number, drawing in enumerate(drawings):
        sheet.paste(drawing, _corner(number))
    notes = PngImagePlugin.PngInfo()
    notes.add_text("made_for", made_for)
    notes.add_text("Copyright", "OpenMoji, CC-BY-SA 4.0")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{os.getpid()}.part")
    sheet.save(
        part,
        format="PNG",
        optimize=True,
        pnginfo=notes,
    )
    os.replace(part, path)
    return path


def _fetch_openmoji(package: str) -> list[Image.Image]:
    """Every object's drawing, 64x64 px RGBA, from the SVGs of an npm package.

    package: NAME@VERSION; it is downloaded.
    """
    try:
        import resvg_py
    except ImportError as err:
        raise ArtError(
            "The OpenMoji drawings are SVG files and the Python package resvg-py, which "
            "draws them, is not installed. Install it: pip install resvg-py"
        ) from err
    npm = shutil.which("npm")
    if npm is None:
        raise ArtError(
            "The OpenMoji drawings are not in the cache and npm, which fetches them, was not "
            "found on PATH. Install Node.js (it brings npm), or use another style."
        )
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [npm, "pack", package, "--silent"],
                cwd=folder,
                timeout=600,
                capture_output=True,
                text=True,
            )
        except subprocess.TimeoutExpired as err:
            raise ArtError(
                f"npm pack {package} took over {err.timeout:.0f} s. Check the network and "
                "try again, or use another style."
            ) from err
        archives = list(Path(folder).glob("*.tgz"))
        if done.returncode or len(archives) != 1:
            said = (done.stderr or done.stdout).strip()[-300:] or "nothing"
            raise ArtError(
                f"npm pack {package} ended with status {done.returncode} and {len(archives)} "
                f"archives, expected 0 and 1; it said: {said}. Check the network and try again."
            )
        wanted = {f"package/color/svg/{kind.codepoint.upper()}.svg" for kind in objects()}
        with tarfile.open(archives[0]) as archive:
            files = {}
            for member in archive:
                if member.name in wanted:
                    files[member.name] = archive.extractfile(member).read()
    drawings = []
    for kind in objects():
        svg = files.get(f"package/color/svg/{kind.codepoint.upper()}.svg")
        if svg is None:
            raise ArtError(
                f"{package} has no drawing of {kind.name} (color/svg/{kind.codepoint.upper()}"
                ".svg). Correct its codepoint or the version in objects.json."
            )
        png = resvg_py.svg_to_bytes(
            svg_string=svg.decode("utf-8"),
            width=288,
            height=288,
        )
        drawing = Image.open(io.BytesIO(bytes(png)))
        drawings.append(_fit(drawing.convert("RGBA")))
    return drawings


def _fit(drawing: Image.Image) -> Image.Image:
    """Trim an RGBA image's empty margin and centre it, scaled to FILL px, in a 64x64 px cell."""
    cell = _index()["cell"]
    drawing = drawing.crop(drawing.getchannel("A").getbbox())
    scale = FILL / max(drawing.size)
    width, height = drawing.size
    size = max(1, round(width * scale)), max(1, round(height * scale))
    out = Image.new("RGBA", (cell, cell))
    out.paste(
        drawing.resize(size, Image.Resampling.LANCZOS),
        tuple((cell - side) // 2 for side in size),
    )
    return out
