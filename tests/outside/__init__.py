"""Layers as somebody would write them in a repository of their own, with the public names only."""
