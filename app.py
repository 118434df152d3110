"""Serve the page: `python app.py [--model NAME] [--host HOST] [--port PORT] [--share]`.

Each option has an environment variable too: SVL_MODEL, SVL_HOST, SVL_PORT, SVL_SHARE.
"""

import argparse
import os


def main() -> None:
    env = os.environ
    parser = argparse.ArgumentParser(description="Explore layer redundancy in vision-language models.")
    parser.add_argument("--model", default=env.get("SVL_MODEL", "demo"), help='"demo" (bundled), a Hugging Face id or a local folder')
    parser.add_argument("--host", default=env.get("SVL_HOST"), help="address to listen on (default 127.0.0.1; 0.0.0.0 for all)")
    parser.add_argument("--port", type=int, default=int(env["SVL_PORT"]) if env.get("SVL_PORT") else None, help="port (default: the first free one from 7860)")
    parser.add_argument("--share", action="store_true", default=env.get("SVL_SHARE") == "1", help="also open a public link")
    options = parser.parse_args()

    from svl_core.ui import build, launch_options  # after the arguments, so that --help is instant

    build(options.model).launch(server_name=options.host, server_port=options.port, share=options.share, **launch_options())


if __name__ == "__main__":
    main()
