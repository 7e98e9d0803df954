"""Tools: what the model may call by name, in the protocol of GPT4Tools.

`plugin` hands them to the registry; `arguments` reads a call; `langchain` is a bridge both ways.
The other modules hold the tools (`looking`, `finding`, `editing`, `outlining`, `making`,
`pretrained`) and the
picture work behind them (`cutout`, `inpaint`, `compose`, `contours`, `regions`, `quality`).
"""
