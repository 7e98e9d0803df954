"""Converters: other people's weight formats, read once, written as safetensors.

Each is a function (source, target) that `anybind convert` and the fetcher run in a process of
their own, with memory and time limits.
"""
