"""How the nano picture generator is made: data, autoencoder, diffusion, export, measures.

Each step is a module with a command line (``python -m anybind.generators.training.<step> --help``),
resumes from its own checkpoint, and writes only into the run folder it is given. ``README.md``
beside this file has the commands in order. Nothing here is imported at use time.
"""
