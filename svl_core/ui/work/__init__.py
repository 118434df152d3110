"""The work that events of several steps start: analysing, ranking, letting both models answer.

Each file holds the handlers of one, and how events start them.
"""
