"""Serve the page: `python app.py [--model NAME] [--host HOST] [--port PORT] [--share] [--public]`.

The same as `svl page`; `svl_core/page.py` explains the options and their environment variables.
"""

from svl_core.page import main

if __name__ == "__main__":
    main(program="app.py")
