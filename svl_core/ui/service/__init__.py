"""Between visitors and models: limits, guests, tasks, stores, and where a model computes.

Knows nothing of how the page looks.
"""
