"""The page while it is put together: components by name, what is redrawn when, and events.

A handler is a function `handler(page, *values)` that returns {component name: value}, or yields
several of them; the names that it leaves out stay as they are. It takes `request` or `event` where
it names them.
"""

from __future__ import annotations

import inspect
import io
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.utils import get_upload_folder
from PIL.Image import Image as Picture

from svl_core.errors import Cancelled, InputError
from svl_core.recipe import OPTIONS
from svl_core.service import tasks
from svl_core.service.derived import scores_of
from svl_core.service.errors import DISK_FULL, FULL_SHARE, out_of_memory
from svl_core.service.stores import Analysis
from svl_core.service.tasks import within
from svl_core.service.waiting import address_of
from svl_core.service.workspace import Workspace
from svl_core.ui import controls, headings, parts, prepared, views
from svl_core.ui.controls import Control
from svl_core.ui.drawing import Update, View
from svl_core.ui.errors import polite
from svl_core.ui.figure import ANALYSED, Figure, Shown
from svl_core.ui.gradio_patches import update_marks
from svl_core.ui.state import seal
from svl_core.ui.state.settings import Settings
from svl_core.ui.state.strip import strip_value

QUICK = {"concurrency_limit": 8, "show_progress": "hidden"}
SETTINGS = "settings"  # as an input: all controls, as one `Settings`
STATUS = "status"
STRIP = "strip"

CLICK = (
    "() => {{ setTimeout(() => (document.querySelector('#{0} a') ??"
    " document.querySelector('#{0}')).click(), 300) }}"
)


class Page:
    """The page's components by name, over the workspace whose models and results it shows."""

    def __init__(self, blocks: gr.Blocks, workspace: Workspace) -> None:
        self.blocks, self.workspace = blocks, workspace
        self.components: dict[str, Component] = {}
        self.shown: dict[str, Shown] = {}
        self.controls: dict[str, Control] = {}
        first = workspace.models.first
        self.opening = prepared.opening() if first == prepared.MODEL else None
        self.sections: dict[str, gr.Column] = {}  # steps that are built when they come near
        self.settling: list[str] = []  # sliders that tell when they came to rest, by elem_id
        # options of events that run a model; those of the second kind wait for one another only
        limit = {"concurrency_limit": workspace.limits.heavy_jobs}
        self.heavy = {"concurrency_id": "model", **limit}
        self.evidence = {"concurrency_id": "evidence", **limit}

    # -------------------------------------------------------------------------- layout
    def __getitem__(self, name: str) -> Component:
        if name not in self.components:
            raise LookupError(
                f"Found no component {name!r} on the page; expected one that a step has laid out;"
                " correct the name, or lay it out first."
            )
        return self.components[name]

    def add(self, name: str, component: Component) -> Component:
        """Names a component. Raises LookupError for a name that is taken."""
        if name in self.components:
            raise LookupError(
                f"Found a second component {name!r}; expected one of each name; rename it."
            )
        self.components[name] = component
        return component

    def show(self, shown: Shown) -> Component:
        """Lays out what events redraw, a figure with its heading, reading and reasons."""
        figure = shown if isinstance(shown, Figure) else None
        if figure:
            headings.figure_head(figure.heading, figure.reading, figure.key, figure.why)
        component = self.add(shown.name, shown.make(shown.name))
        self.shown[shown.name] = shown
        if figure:
            for beside in figure.beside:
                self.show(beside)
        return component

    def control(self, name: str, **given: Any) -> Component:
        """Lays out the control of a field of `Settings`, see `controls.make`."""
        control = controls.make(name, **given)
        self.controls[name] = control
        if control.settles:
            self.settle(control.component)
        return self.add(name, control.component)

    def settle(self, slider: gr.Slider) -> None:
        """Has the page tell when a slider came to rest."""
        self.settling.append(slider.elem_id)

    def settled(self, slider: gr.Slider) -> Callable:
        """The event of a slider that came to rest, moved by mouse, touch or keyboard."""
        return getattr(self["bridge"], f"settle_{slider.elem_id.replace('-', '_')}")

    # ------------------------------------------------------------------------- drawing
    def view(
        self,
        state: Mapping,
        settings: Settings,
        strip: dict | None = None,
        focus: Mapping | None = None,
        truth: Mapping | None = None,
        at_hand: Analysis | None = None,
        picked: Mapping | None = None,
    ) -> View:
        """This state of the page, to draw from."""
        return View(
            self.workspace,
            state,
            settings,
            strip,
            focus,
            truth,
            picked=picked,
            at_hand=at_hand,
        )

    def redrawn(self, event: str) -> list[str]:
        """Names of all that an event redraws."""
        names = [name for name, shown in self.shown.items() if event in shown.redrawn]
        bounded = [name for name, control in self.controls.items() if control.bounded]
        return names + (bounded if event == ANALYSED else [])

    def redraw(self, event: str, view: View, late: bool | None = None) -> Update:
        """All that an event redraws. late: only what is drawn behind the rest, or only the rest."""
        update: Update = {
            name: shown.draw(view)
            for name, shown in self.shown.items()
            if event in shown.redrawn and late in (None, shown.late)
        }
        if event == ANALYSED:
            bounded = [control for control in self.controls.values() if control.bounded]
            update |= {control.name: control.bounded(view) for control in bounded}
        return update

    # ------------------------------------------------------------------------ settings
    @property
    def recipe_controls(self) -> list[str]:
        """Names of the controls that make a pruned model."""
        return [name for name in self.controls if name in OPTIONS]

    def values_of(self, settings: Settings) -> Update:
        """The value of every control."""
        return {name: getattr(settings, name) for name in self.controls}

    def settings_of(self, values: Sequence) -> Settings:
        """The controls' values, in their order, as one value. Raises InputError."""
        given = {}
        for control, value in zip(self.controls.values(), values, strict=True):
            read = control.reads if value is not None else None
            given[control.name] = read(value) if read else value
        return Settings.of(**given)

    # ------------------------------------------------------------------------- uploads
    def hold_upload(self, path: str | None, request: gr.Request | None) -> None:
        """An uploaded file stays as long as its visitor; the page's own pictures are nobody's."""
        if path and self.workspace.uploads.brought(path):
            self.workspace.uploads.hold(session_of(request), Path(path))

    def new_file(self, name: str, content: bytes, request: gr.Request | None) -> Path:
        """Writes a file for the visitor, whole or not at all; it goes when the visitor does.

        Raises InputError where the visitor, or all of them, have as much as is kept.
        """
        limits, uploads, address = (
            self.workspace.limits,
            self.workspace.uploads,
            address_in(request),
        )
        if uploads.ledger.stored + len(content) > limits.stored_bytes:
            raise InputError(DISK_FULL)
        files, stored = uploads.ledger.of(address)
        if files >= limits.address_files or stored + len(content) > limits.address_bytes:
            raise InputError(FULL_SHARE)
        path = Path(get_upload_folder()) / secrets.token_hex(16) / name
        uploads.make(session_of(request), address, path, content, limits.session_files)
        return path

    def kept(self, update: Update, request: gr.Request | None) -> Update:
        """The update with its pictures as files that go when the visitor does."""
        return {
            name: self._picture_file(name, value, request) if isinstance(value, Picture) else value
            for name, value in update.items()
        }

    def _picture_file(self, name: str, picture: Picture, request: gr.Request | None) -> str:
        kind, content = self[name].format, io.BytesIO()
        picture.save(content, kind)
        return str(self.new_file(f"image.{kind}", content.getvalue(), request))

    # -------------------------------------------------------------------------- events
    def on(
        self,
        trigger: Callable,
        handler: Callable,
        inputs: Sequence[str],
        outputs: Sequence[str],
        **options: Any,
    ):
        """Attaches a handler by the names of what it reads and writes; it is no public endpoint.

        inputs: names of components; "settings" stands for all controls, handed over as one value.
        outputs: names of components that the handler may return; another one raises LookupError.
        options: of the event, as gradio takes them.
        """
        return trigger(
            mapped(self, handler, inputs, outputs),
            self._components_of(inputs),
            [self[name] for name in outputs],
            api_visibility="private",
            **{"show_progress": "hidden", **options},
        )

    def _components_of(self, inputs: Sequence[str]) -> list[Component]:
        components: list[Component] = []
        for name in inputs:
            if name == SETTINGS:
                components += [control.component for control in self.controls.values()]
            else:
                components.append(self[name])
        return components

    def halt(self, trigger: Callable, lane: str = "", replaced: bool = False):
        """Ends this session's running work of a lane, so that new work need not wait for it."""
        handler = partial(stop, lane=lane, replaced=replaced)
        return self.on(trigger, handler, [], [STATUS], queue=False)

    def add_file(self, name: str, label: str) -> None:
        """Lays out the hidden button `<name>-file`, by which the browser fetches what the button
        `name` writes.
        """
        file = f"{name}-file"
        self.add(file, gr.DownloadButton(label, visible="hidden", elem_id=file))

    def writes_file(self, name: str, handler: Callable, inputs: Sequence[str]) -> None:
        """A click on the button `name` writes its file, which the browser then fetches."""
        file, options = f"{name}-file", {**QUICK, "show_progress": "full"}
        written = self.on(self[name].click, handler, inputs, [file], **options)
        self.download(written, file)

    def download(self, event, name: str) -> None:
        """After `event`, has the browser fetch the file of the hidden button `name`."""
        event.success(None, js=CLICK.format(name), show_progress="hidden", api_visibility="private")

    def run(
        self,
        work: Callable,
        request: gr.Request | None,
        lane: str = "",
        undone: Update | None = None,
        place: str = STATUS,
    ) -> Iterator[Update]:
        """Runs `work(task)` off the page's thread and yields what it emits, its result last.

        lane: what else may run at the same time.
        undone: what the page shows again where the work fails or is stopped, but not where newer
            work of its lane replaces it.
        place: the component that shows how far the work is; the pill goes away in the end.

        Raises gr.Error, in one sentence, for what the work raises.
        """
        workspace = self.workspace
        on_status = place == STATUS
        markup = views.status if on_status else views.progress
        ended: Update = {STATUS: ""} if on_status else {}

        def show(text: str, share: float | None) -> Update:
            return {place: markup(text, share)}

        try:
            session = session_of(request)
            for update in workspace.work(work, session, lane, show, tasks.PACE_S):
                yield update or {}
            if ended:
                yield ended
        except Cancelled as stopped:
            replaced = getattr(stopped, "replaced", False)
            yield ended | ({} if replaced else undone or {})
        except Exception as error:
            if out_of_memory(error):
                error.__traceback__ = None  # its frames hold what filled the memory
                workspace.relieve()
            yield ended | (undone or {})
            raise polite(error, workspace.limits.details) from None


def stop(
    page: Page, request: gr.Request | None = None, *, lane: str = "", replaced: bool = False
) -> Update:
    """Ends this session's work of one lane; what is on the page stays.

    replaced: other work of that lane follows at once.
    """
    page.workspace.stop(session_of(request), lane, replaced)
    return {STATUS: ""}


def stop_all(page: Page, request: gr.Request | None = None) -> Update:
    """Ends all of this session's work."""
    page.workspace.stop_all(session_of(request))
    return {STATUS: ""}


def address_in(request: gr.Request | None) -> str:
    """What stands for the address that a request comes from."""
    client = getattr(request, "client", None)
    return address_of(getattr(client, "host", None))


def session_of(request: gr.Request | None) -> str:
    """The key of a visitor's session; a call without a session shares nothing."""
    session = getattr(request, "session_hash", None)
    return session or f"once-{secrets.token_hex(8)}"


# ------------------------------------------------------------------------------ handlers
class UnknownOutput(LookupError):
    """A handler returned a name that its event does not write."""


def mapped(
    page: Page, handler: Callable, inputs: Sequence[str], outputs: Sequence[str]
) -> Callable:
    """A gradio handler around `handler`: {name: value} -> one value for each output, in order."""
    wanted = inspect.signature(handler).parameters
    details = page.workspace.limits.details

    def call(values: Sequence, request: gr.Request, event: gr.EventData):
        extra = {"request": request, "event": event}
        given = {name: value for name, value in extra.items() if name in wanted}
        return handler(page, *_arguments(page, inputs, values), **given)

    def stepped(values: Sequence, request: gr.Request, event: gr.EventData):
        with within(page.workspace.limits.request_s):
            updates = iter(call(values, request, event))
        with closing(updates):
            while True:
                with within(page.workspace.limits.request_s):
                    update = next(updates, None)
                    if update is None:
                        return
                    shown = ordered(page, handler, outputs, page.kept(update, request))
                yield shown

    def generated(request: gr.Request, event: gr.EventData, *values):
        try:
            yield from stepped(values, request, event)
        except UnknownOutput:
            raise
        except Exception as error:
            raise polite(error, details) from None

    def returned(request: gr.Request, event: gr.EventData, *values):
        try:
            with within(page.workspace.limits.request_s):
                update = page.kept(call(values, request, event), request)
        except Exception as error:
            raise polite(error, details) from None
        return ordered(page, handler, outputs, update)

    return generated if inspect.isgeneratorfunction(_inner(handler)) else returned


def ordered(page: Page, handler: Callable, outputs: Sequence[str], update: Mapping) -> Any:
    """The values of an update in the order of the event's outputs.

    Raises UnknownOutput where the handler returns what is no component, or not among the outputs.
    """
    for name in update:
        if name not in outputs:
            inner = _inner(handler)
            known = name in page.components
            raise UnknownOutput(
                f"Found {name!r} in what {inner.__module__}.{inner.__qualname__} returns;"
                f" expected {'an output of its event' if known else 'a component of the page'};"
                f" {'add it to the outputs' if known else 'correct the name'}."
            )
    if isinstance(update.get(STRIP), dict) and "ids" in update[STRIP]:
        update = {**update, STRIP: seal.sealed(update[STRIP])}
    values = [_as_component(page, name, update.get(name, gr.skip())) for name in outputs]
    return values if len(values) > 1 else values[0]


def _as_component(page: Page, name: str, value: Any) -> Any:
    """A field's value as its control shows it."""
    control = page.controls.get(name)
    plain = not isinstance(value, dict)  # neither gr.skip() nor gr.update()
    if control and control.shows and plain:
        return control.shows(value)
    return parts.sent(page[name], value)


def _arguments(page: Page, inputs: Sequence[str], values: Sequence) -> list[Any]:
    left, given = iter(values), []
    for name in inputs:
        if name == SETTINGS:
            given.append(page.settings_of([next(left) for _ in page.controls]))
        else:
            given.append(update_marks.apply(next(left)))
    if STRIP in inputs:
        place = inputs.index(STRIP)
        named = dict(zip(inputs, given, strict=True))
        nothing_analysed = "state" in inputs and not named["state"]
        given[place] = (
            None
            if nothing_analysed
            else believed(page, given[place], named.get("state"), named.get(SETTINGS))
        )
    return given


def believed(
    page: Page, strip: Any, state: Mapping | None, settings: Settings | None
) -> dict | None:
    """A visitor's strip: as this server made it, but for the layers that go, which are checked.

    Raises InputError where it is none of this server's and the event knows no analysis, and for
    layers that cannot go.
    """
    if strip is None:
        return None
    if not seal.is_genuine(strip):
        if not state or settings is None:
            raise InputError(
                "Found layers that this page did not send; expected the layers of an analysis;"
                " press Analyze again."
            )
        found = page.workspace.analysis_of(state)
        scores = scores_of(found, settings, "svl")
        ids = found.trace.layer_ids
        drop = seal.dropped(strip, len(ids), [int(layer) for layer in scores.protected])
        return strip_value(ids, scores.ranking, scores.protected, drop)
    strip = {name: value for name, value in strip.items() if name != seal.SEAL}
    return {**strip, "drop": seal.dropped(strip, len(strip["ids"]), strip["protected"])}


def _inner(handler: Callable) -> Callable:
    while isinstance(handler, partial):
        handler = handler.func
    return handler


def picked(handler: Callable, kind: type) -> Callable:
    """`handler(page, value)` for what was picked in a view."""

    def handle(page: Page, event: gr.EventData) -> Update:
        return handler(page, kind(event.value))

    handle.__qualname__ = f"picked({handler.__qualname__})"
    return handle
