"""Serve the page: `python app.py [--model NAME] [--host HOST] [--port PORT] [--share] [--public]`.

Each option has an environment variable too: SVL_MODEL, SVL_HOST, SVL_PORT, SVL_SHARE, SVL_PUBLIC.
--public is for a server that strangers can reach: it turns every limit on and prints them;
SVL_LIMIT_<NAME> changes one.
"""

import argparse
import os


def main() -> None:
    env = os.environ
    parser = argparse.ArgumentParser(
        description="Explore layer redundancy in vision-language models."
    )
    parser.add_argument(
        "--model",
        default=env.get("SVL_MODEL", "demo"),
        help='"demo" (bundled), a Hugging Face id or a local folder',
    )
    parser.add_argument(
        "--host",
        default=env.get("SVL_HOST"),
        help="address to listen on (default 127.0.0.1; 0.0.0.0 for all)",
    )
    parser.add_argument(
        "--port",
        type=int,
        default=int(env["SVL_PORT"]) if env.get("SVL_PORT") else None,
        help="port (default: the first free one from 7860)",
    )
    parser.add_argument(
        "--share",
        action="store_true",
        default=env.get("SVL_SHARE") == "1",
        help="also open a public link",
    )
    parser.add_argument(
        "--public",
        action="store_true",
        default=env.get("SVL_PUBLIC", "1" if "SPACE_ID" in env else "") == "1",
        help=(
            "limits for strangers: listed models only, safetensors only, sizes, times and queue"
            " bounded; logs without their words"
        ),
    )
    options = parser.parse_args()

    env.setdefault(
        "OMP_WAIT_POLICY",
        "PASSIVE",
        # torch's threads sleep while they wait for each other: spinning, on cores that others want too,
        # makes passes twenty times as long
    )
    if env.get("SPACES_ZERO_GPU"):
        import spaces  # noqa: F401  (before anything that may touch CUDA)
    from svl_core.ui import (
        build,
        few_arenas,
        from_environment,
        launch_options,
        structured,
        upload_folder,
    )  # after the arguments, so that --help is instant

    few_arenas()
    limits = from_environment(options.public)
    if options.public:
        structured()
        env["GRADIO_TEMP_DIR"] = env.get("GRADIO_TEMP_DIR") or str(
            upload_folder(options.port or env.get("GRADIO_SERVER_PORT") or os.getpid())
        )
        print("Public:", *limits.lines(), sep="\n  ", flush=True)
    build(options.model, limits=limits).launch(
        server_name=options.host,
        server_port=options.port,
        share=options.share,
        **launch_options(limits),
    )


if __name__ == "__main__":
    main()
