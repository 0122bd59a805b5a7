"""Rendered portraits: drawn faces of people who do not exist, with exact labels."""

from facekit.data.portraits.render import render_portraits

__all__ = ["render_portraits"]
