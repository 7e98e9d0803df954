"""Training: the pipeline of stages (`anybind train`), and one command per other trained part."""
