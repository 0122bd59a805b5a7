"""Backbones: networks that turn photos of faces into embeddings, and how they are made fast."""
