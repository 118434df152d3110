"""`LVLM`: a loaded vision-language model with its processor, whole or pruned; every step of the
line starts from it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from svl_core.errors import InputError
from svl_core.files import expanded, new_folder
from svl_core.lvlm import (
    checkpoint,
    exported,
    families,
    generation,
    halves,
    hub,
    protection,
    skeleton,
)
from svl_core.lvlm.arithmetic import Arithmetic, known_dtype, name_of, products_per_second
from svl_core.lvlm.card import write_card
from svl_core.lvlm.chat import Chat
from svl_core.lvlm.checkpoint import StoredDtypes
from svl_core.lvlm.detail import TYPICAL, Choice
from svl_core.lvlm.encoding import Reader, asked
from svl_core.lvlm.forecast import pass_cost
from svl_core.lvlm.geometry import Sized
from svl_core.lvlm.sample import Sample
from svl_core.notebook import Shown
from svl_core.recipe import AUTO, FULL, HALVES, OPTIONS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PLAN_FILE = "svl_plan.json"


@contextlib.contextmanager
def quiet():
    """Without transformers' progress bars and load reports: the core prints nothing."""
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    level = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@dataclass(frozen=True, eq=False, repr=False)
class LVLM(Shown):
    """A vision-language model of the transformers library in evaluation mode.

    A pruned one is an `LVLM` like any other.

    layer_ids: for each decoder layer present, its index in the original, unpruned model.
    provenance: how a pruned model was made ({} for an unpruned one); `save` writes it beside the
        weights.
    detail: how closely `encode` looks at pictures: "full", "balanced" or "quick"; "auto" chooses
        for each prompt, see `detail_for`.
    max_visual_tokens: of each prompt's pictures together, None for any number.
    stored: the dtypes that its weights came in, which `save` gives them again; None: those that
        they have.
    arithmetic: what it computes in, and why; None where `load` did not choose it.
    folder: where `load` found its files; None for a model made in memory.
    plain: whether answers are the plain arg max; else they follow those of the model's generation
        settings that change greedy decoding (a repetition penalty and the like), as
        `generate(do_sample=False)` does.
    find: gives a sample the places of its visual positions, where they are found by changing
        pictures rather than named by a rule (see `lvlm/finding.py`).
    unplaced_because: why visual positions have no place on the image, where that was tried.
    """

    model: PreTrainedModel
    processor: Any
    family: families.Family
    name: str
    revision: str | None = None
    layer_ids: tuple[int, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    detail: str = FULL
    max_visual_tokens: int | None = None
    stored: StoredDtypes | None = None
    arithmetic: Arithmetic | None = None
    folder: Path | None = None
    plain: bool = False
    find: Callable[[Sample], Sample] | None = None
    unplaced_because: str | None = None

    def __post_init__(self):
        ids = tuple(int(i) for i in self.layer_ids) or tuple(range(self.num_layers))
        if len(ids) != self.num_layers or list(ids) != sorted(set(ids)):
            raise ValueError(
                f"Found layer ids {ids} for {self.num_layers} layers; expected one each,"
                " increasing."
            )
        object.__setattr__(self, "layer_ids", ids)
        object.__setattr__(self, "provenance", MappingProxyType(dict(self.provenance)))
        for name in ("detail", "max_visual_tokens"):
            object.__setattr__(self, name, OPTIONS[name].checked(getattr(self, name)))

    def brief(self) -> dict[str, Any]:
        whole = self.layer_ids == tuple(range(self.num_layers))
        shown = {
            "name": self.name,
            "model": type(self.model).__name__,
            "layers": self.num_layers,
            "parameters": self.num_parameters,
            "dtype": name_of(self.dtype),
            "device": str(self.device),
        }
        if not whole:
            shown["layer_ids"] = self.layer_ids
        return {**shown, "skipped": self.skipped} if self.skipped else shown

    @property
    def decoder(self) -> torch.nn.Module:
        """The text decoder: the module that holds the layers."""
        return families.find_decoder(self.model)

    @property
    def layers(self) -> torch.nn.ModuleList:
        return families.decoder_layers(self.model)

    @property
    def brought(self) -> bool:
        """Whether a person loaded the model themselves (`svl.wrap`), in code of its own."""
        return hasattr(self.model, "brought_layers")

    @property
    def text_config(self):
        return self.model.config.get_text_config(decoder=True)

    @property
    def num_layers(self) -> int:
        """L, the number of decoder layers present."""
        return len(self.layers)

    @property
    def skipped(self) -> dict[str, tuple[int, ...]]:
        """Of halves of layers, attention and MLP, the layers that skip it, by their numbers in the
        original model; {} where none does.
        """
        layers = self.layers
        found = {}
        for half in HALVES:
            places = halves.skipped(layers, half)
            found[half] = tuple(self.layer_ids[place] for place in places)
        return found if any(found.values()) else {}

    @property
    def hidden_size(self) -> int:
        """d, the width of the residual stream; of all streams where layers mix several."""
        return self.text_config.hidden_size * families.mixed_streams(self.text_config)

    @property
    def device(self) -> torch.device:
        """Where inputs go: the device that runs the word embeddings."""
        return skeleton.running_device(self.model.get_input_embeddings())

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def computes_in(self) -> str:
        """The dtype in words, with the reason for it where `load` chose it, and what its generation
        settings do to its answers.
        """
        config = self.model.generation_config
        settings = generation.told(config, self.eos_token_ids, self.plain)
        return "; ".join(filter(None, (str(self.arithmetic or name_of(self.dtype)), settings)))

    @property
    def quantized(self) -> bool:
        """Whether weights are held in 4 or 8 bits."""
        return bool(getattr(self.model, "is_quantized", False))

    @property
    def num_parameters(self) -> int:
        """Parameters of the whole model; tied ones count once, 4-bit ones at their true number."""
        return families.count_parameters(self.model)

    @property
    def max_positions(self) -> int | None:
        """The context length in positions; None when the model states none."""
        return self.reader.max_positions

    @property
    def protected(self) -> tuple[int, ...]:
        """Indices (into the layers present) of layers that this model cannot lose."""
        return tuple(self.protection)

    @property
    def protection(self) -> dict[int, str]:
        """Why each protected layer stays, by its index."""
        return protection.reasons(self.model.config)

    def most_together(self, batch_size: int) -> int:
        """How many samples may share a pass, of `batch_size` at most."""
        return batch_size if self.family.batched else 1

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer."""
        ids = self.model.generation_config.eos_token_id
        ids = [ids] if isinstance(ids, int) else list(ids or [])
        if getattr(self.tokenizer, "eos_token_id", None) is not None:
            ids.append(self.tokenizer.eos_token_id)
        return tuple(dict.fromkeys(int(i) for i in ids))

    def steering(self, sample: Sample, limit: int) -> generation.Steering | None:
        """What the model's generation settings do to the answer to a sample; None for nothing.

        limit: the most tokens of the answer.
        """
        if self.plain:
            return None
        place = generation.Place(sample.length, limit, self.eos_token_ids, self.device)
        prompt = sample.inputs.get("input_ids")
        return generation.steering(self.model.generation_config, place, prompt)

    @property
    def reader(self) -> Reader:
        return Reader(
            self.processor,
            self.family,
            self.model.config,
            self.name,
            self.revision,
        )

    @property
    def tokenizer(self):
        return self.reader.tokenizer

    @property
    def supports_images(self) -> bool:
        """Whether it takes images; False for a plain causal language model, the control without
        them.
        """
        return self.reader.supports_images

    def encode(
        self,
        image,
        prompt: str | Chat | Sequence[Mapping[str, Any]] | Mapping[str, Any],
        *,
        detail: str | None = None,
        max_visual_tokens: int | None = None,
    ) -> Sample:
        """Encodes a question in the model's own chat template.

        image: whatever `open_image` takes, a sequence of such, or None where the family allows a
            prompt without image, and where the prompt brings its images along.
        prompt: a question, or a list of messages (see `lvlm/chat.py`), or a data set's row with
            such a list: perhaps a system turn (which some chat templates leave out, as the bundled
            model's does), then user and assistant in turns. Images given
            beside them go where the messages have a mark for them, else to the user's first turn;
            they stand ahead of their turn's words. A last turn of the assistant, a row's answer, is
            left out.
        detail: "full" (what the processor does by itself), "balanced", "quick" (the fewest visual
            tokens that are of use) or "auto" (see `detail_for`); by default the model's `detail`.
        max_visual_tokens: the highest detail up to that one which keeps within so many; by default
            the model's `max_visual_tokens`.

        Raises InputError for an empty prompt, messages that are no such list or that the model's
        chat template does not take, a missing or unreadable image, more visual tokens than may be
        at the least detail, and a prompt that leaves no room in the context.
        """
        chosen = self.detail if detail is None else OPTIONS["detail"].checked(detail)
        most = self.max_visual_tokens if max_visual_tokens is None else max_visual_tokens
        chat, images = asked(image, prompt)
        if chosen == AUTO:
            chosen = self.detail_for(images).detail
        sample = self.reader.encode(
            chat,
            images,
            self.device,
            self.dtype,
            chosen,
            OPTIONS["max_visual_tokens"].checked(most),
        )
        return sample if self.find is None else self.find(sample)

    def reading(self, detail: str, max_visual_tokens: int | None = None) -> LVLM:
        """The same model, which looks at pictures in another detail. Raises InputError."""
        return dataclasses.replace(self, detail=detail, max_visual_tokens=max_visual_tokens)

    def detail_for(self, pictures: Sequence[Sized] = TYPICAL) -> Choice:
        """What the detail "auto" stands for: on a processor the highest one at which one pass over
        the pictures takes a few seconds, by its forecast; "full" on a GPU.
        """
        if self.device.type != "cpu" or self.reader.sizes.one:
            return Choice(FULL, {})
        cost, speed = pass_cost(self.model), products_per_second(self.dtype)
        return self.reader.sizes.shortest(pictures, lambda extent: cost.operations(extent) / speed)

    def with_model(
        self,
        model: PreTrainedModel,
        layer_ids: Sequence[int],
        provenance: Mapping[str, Any],
    ) -> LVLM:
        """The same LVLM around another model (a pruned view of this one)."""
        return dataclasses.replace(
            self,
            model=model,
            layer_ids=tuple(layer_ids),
            provenance=provenance,
        )

    def save(
        self,
        folder: str | Path,
        dtype: str | torch.dtype = "auto",
        figures: Sequence[Mapping[str, Any]] = (),
    ) -> Path:
        """Writes a plain transformers checkpoint with its processor and a model card, and
        `svl_plan.json` when the model was pruned.

        The folder loads with `AutoModelForImageTextToText.from_pretrained` and gives the logits of
        this model in the dtype that it was saved in. Halves of layers that are skipped keep their
        weights and their shape there; what ends them is zero, so that they add nothing.

        folder: a new or empty one.
        dtype: "float32", "bfloat16", "float16", or "auto": that in which the weights came, fitted
            ones too.
        figures: for the card: `to_json()` of evaluations and comparisons of this model.

        Raises InputError when `folder` is a file, cannot be written or is not empty, for an unknown
        dtype, for figures of another plan, for weights that are not finite or in a quantised format
        that cannot be written, for quantised ones with halves of layers skipped, and for a model
        with a compensation that adds modules. After an error, or a stop, nothing is left.
        """
        asked = known_dtype(dtype)
        checkpoint.check_writable(self.model)
        if not self.provenance.get("compensation", {}).get("exportable", True):
            raise InputError(
                "Found modules that the compensation added; expected a plain model, for a"
                " checkpoint cannot hold them; prune with compensation 'lstsq', 'scp' or 'none' to"
                " save."
            )
        folder = expanded(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(
                f"Found something at {str(folder)!r} already; expected a new or empty folder;"
                " choose another name, or delete that one first if it is not needed."
            )
        self._check_finite()
        try:
            with new_folder(folder) as partial:
                self._write(partial, asked)
                write_card(self, partial, figures)
        except OSError as error:  # no permission, a full disk
            raise InputError(
                f"Found that {str(folder)!r} cannot be written ({error.strerror or error});"
                " expected a folder of yours with room; choose another name."
            ) from error
        except (ValueError, NotImplementedError, RuntimeError) as error:
            if not self.quantized or isinstance(error, InputError):
                raise
            reason = " ".join(str(error).split())[:200].rstrip(".")
            raise InputError(
                f"Found quantised weights that cannot be written ({reason}); expected a format that"
                " transformers saves; prune the unquantised model."
            ) from error
        return folder

    def push_to_hub(
        self,
        repository: str,
        *,
        private: bool = False,
        dtype: str | torch.dtype = "auto",
        figures: Sequence[Mapping[str, Any]] = (),
    ) -> str:
        """Saves the model and uploads it to the Hub; returns its address there.

        repository: USER/NAME; made where there is none.
        private: whether a new one is.
        dtype, figures: as for `save`.

        Raises InputError as `save` does, for a name that is none, without a login that may write
        there, and where the Hub cannot be reached; all but the last upload is tried first.
        """
        hub.check_push(repository)
        with tempfile.TemporaryDirectory(prefix="svl-push-") as place:
            saved = self.save(Path(place) / "model", dtype, figures)
            return hub.push(saved, repository, private=private)

    def _write(self, folder: Path, asked: torch.dtype | None) -> None:
        """Fills a folder with the checkpoint. asked: the dtype, None for the stored ones."""
        with quiet(), warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore",
                "Attempting to save a model with offloaded modules",
            )
            exported.whole(self.model).save_pretrained(folder)
            wanted = StoredDtypes(asked) if asked else self.stored
            if wanted is not None and not self.quantized:
                checkpoint.convert(folder, wanted, widen=asked is not None)
            self.processor.save_pretrained(folder)
        if self.provenance:
            record = {**self.record(), checkpoint.SUMS: checkpoint.sums(folder)}
            (folder / PLAN_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

    def _check_finite(self) -> None:
        """Raises InputError for weights that are not numbers: answers of them would be nothing."""
        for name, weight in self.model.named_parameters():
            if weight.is_meta or not weight.is_floating_point() or weight.isfinite().all():
                continue
            raise InputError(
                f"Found numbers in {name} ({name_of(weight.dtype)}) that are not finite; expected"
                " finite ones; lower the strength, raise the ridge, or compute in float32."
            )

    def record(self) -> dict[str, Any]:
        """What `svl_plan.json` holds: where the model comes from, which layers it has, and the
        versions used.
        """
        import transformers

        import svl_core

        return {
            "model": self.name,
            "revision": self.revision,
            "layer_ids": list(self.layer_ids),
            **self.provenance,
            "versions": {
                "svl_core": svl_core.__version__,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
        }
