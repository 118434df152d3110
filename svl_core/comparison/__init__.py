"""Answers, their fidelity to the full model, and accuracy on labelled questions."""
