"""Accelerations, one a file: each is put around the stack of layers, a matrix or a stage from outside.

A wrapper is a function `wrap(parts, recipe)`; `pipeline.recipe` lists them in the order in which they nest. Each works
alone. There are four places to stand:

- `parts.transformer.stack` is a `Stack`: it runs any range of layers (`pipeline.model.stack`). What has to be
  remembered from step to step, the drawing that asks and the step that is taken are in `conditioning.rows`: a `Branch`
  (`pipeline.drawing`) a row, which is one image's prompt or its negative one.
- `places(parts.transformer)` tells where each matrix of the checkpoint is at work: a side path is a forward hook there
  (`pipeline.matrices`).
- `parts.encode` gives the features of a prompt.
- `parts.presence[part]()` is entered while a part's weights have to be on the device.
"""
