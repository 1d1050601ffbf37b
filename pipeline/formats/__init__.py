"""Number formats of weights and activations: one file each, registered by name in `registry`.

A format says which weights it takes, how rows are quantised, what multiplies them and how files spell it. Nobody else
asks which format it is.
"""
