"""Readers: photos and their labels as other people keep them, one file a data set."""
