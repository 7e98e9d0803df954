"""Encoders: one modality each into the joint space, behind `anybind.contracts.Encoder`."""
