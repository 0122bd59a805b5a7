"""`python -m facekit distill`: teaches facenet-mini the embeddings of FaceNet."""

from __future__ import annotations

from facekit.transfer.distill import distill

__all__ = ["distill"]
