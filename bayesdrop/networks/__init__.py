"""Ordinary ``nn.Module`` networks."""
