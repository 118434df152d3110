"""Tiny models of entries of transformers' mapping that no other file builds: those from "aria" to "granite_docling"."""

ZOO: dict = {}
