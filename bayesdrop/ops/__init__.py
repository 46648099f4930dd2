"""Pure tensor mathematics that everything above may use."""
