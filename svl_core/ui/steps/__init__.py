"""The steps of the page, a file for each: its layout, its events and its handlers.

`layout(page)` lays out what a step shows and names it; `wire(page)` attaches its events, once every
step is laid out. A fold of some size is a file of its own beside its step.
"""
