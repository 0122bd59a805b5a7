"""Rendered portraits: drawn faces of people who do not exist, with exact labels."""

from facekit.data.portraits.bench import bench_portraits
from facekit.data.portraits.render import render_portraits

__all__ = ["bench_portraits", "render_portraits"]
