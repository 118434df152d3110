"""The start of the page: `python app.py`, `svl page` and `python -m svl_core.page`.

    svl page [--model NAME] [--host HOST] [--port PORT] [--share] [--public]

Each option has an environment variable too: SVL_MODEL, SVL_HOST, SVL_PORT, SVL_SHARE, SVL_PUBLIC.
--public is for a server that strangers can reach: it turns every limit on and prints them;
SVL_LIMIT_<NAME> changes one.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence

ENV = os.environ
THREADS = {
    # torch's threads sleep while they wait for each other: spinning, on cores that others want too,
    # makes passes twenty times as long
    "OMP_WAIT_POLICY": "PASSIVE",
    # numpy's cannot be told to sleep, and a second one makes its small decompositions no faster,
    # but up to ten times as costly where others want the cores too
    "OPENBLAS_NUM_THREADS": "1",
}
"""What the libraries' threads are told before they load, unless the environment says otherwise."""


def parsed_options(words: Sequence[str] | None, program: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=program, description="Explore layer redundancy in vision-language models."
    )
    add = parser.add_argument
    add(
        "--model",
        default=ENV.get("SVL_MODEL", "demo"),
        help='"demo" (bundled), a Hugging Face id or a local folder',
    )
    add(
        "--host",
        default=ENV.get("SVL_HOST"),
        help="address to listen on (default 127.0.0.1; 0.0.0.0 for all)",
    )
    add(
        "--port",
        default=ENV.get("SVL_PORT"),
        help="port (default: the first free one from 7860)",
    )
    add(
        "--share",
        action="store_true",
        default=ENV.get("SVL_SHARE") == "1",
        help="also open a public link",
    )
    add(
        "--public",
        action="store_true",
        default=ENV.get("SVL_PUBLIC", "1" if "SPACE_ID" in ENV else "") == "1",
        help="limits for strangers: listed models only, safetensors only, sizes, times and queue"
        " bounded; logs without their words",
    )
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None, program: str | None = None) -> None:
    """Serves the page until the process is told to end.

    words: the options (default: the process's).
    program: what the person typed before them (default: the process's name).
    """
    options = parsed_options(words, program)
    for name, value in THREADS.items():
        ENV.setdefault(name, value)
    if ENV.get("SPACES_ZERO_GPU"):
        import spaces  # noqa: F401  (before anything that may touch CUDA)
    from svl_core import ui  # after the arguments, so that --help is instant

    ui.few_arenas()
    try:
        port = ui.checked_port(options.host, options.port)
        limits = ui.from_environment(options.public)
    except ui.InputError as error:
        name = program or os.path.basename(sys.argv[0])
        print(f"{name}:", error, file=sys.stderr)
        sys.exit(2)
    if "SPACE_ID" in ENV:  # behind the Space's proxy, which tells the visitors' addresses
        ENV.setdefault("FORWARDED_ALLOW_IPS", "127.0.0.1,10.0.0.0/8")
    folder = None
    if options.public:
        ui.structured()
        server = port or ENV.get("GRADIO_SERVER_PORT") or os.getpid()
        if not ENV.get("GRADIO_TEMP_DIR"):
            folder = ui.upload_folder(server)
            ENV["GRADIO_TEMP_DIR"] = str(folder)
        print("Public:", *limits.lines(), sep="\n  ", flush=True)
    page = ui.build(options.model, limits=limits)
    page.launch(
        prevent_thread_lock=True,
        server_name=options.host,
        server_port=port,
        share=options.share,
        **ui.launch_options(limits),
    )
    ui.until_told(page)
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
