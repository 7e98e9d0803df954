"""From content values to the tensors that ImageBind's and Point-Bind's encoders take.

Pure functions, one module a modality. They know constants of the released models and no weights;
files are opened by `anybind.media` alone.
"""
