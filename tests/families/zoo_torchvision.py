"""Tiny models of entries of transformers' mapping that no other file builds: those whose image processor needs torchvision."""

ZOO: dict = {}
