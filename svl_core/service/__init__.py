"""Between visitors and models: limits, uploads, tasks, stores, and where a model computes.

Knows nothing of how the page looks, and imports no gradio.
"""
