"""Number formats of weights and activations: one file each, and its name in `NAMES`.

A format says which weights it takes, how rows are quantised, what multiplies them and how files spell it. Nobody else
asks which format it is.
"""

# By which users choose them; each is a module here that makes its format under its name in capitals. Without torch.
NAMES = ("fp8",)
