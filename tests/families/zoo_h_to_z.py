"""Tiny models of entries of transformers' mapping that no other file builds: those from "hunyuan_vl" to "video_llava"."""

ZOO: dict = {}
