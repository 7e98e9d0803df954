"""Training of the weights that this room ships; nothing here runs in anybind itself."""
