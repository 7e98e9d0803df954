"""What nano is trained on: conversations about what its encoders give, made by rule and seed.

`python -m anybind.core_model.training.nano_data --help` writes them; docs/nano-data.md is the
datasheet. Importing this loads no torch.
"""
