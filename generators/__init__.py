"""Generators: they make content from a joint embedding, a text, or both.

`plugin` offers them to the registry and loads nothing; `unclip` makes pictures with diffusers' own
latent unCLIP pipeline; `starts` finds where its denoising may begin. `training` made nano's
weights.
"""
