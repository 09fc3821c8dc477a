"""Adam and AdamW as torch has them, without torch.compile's front end at every start.

torch's optimisers load `torch._dynamo` when they are made and when they step, to tell it that they
are not to be compiled. Nothing here is, and loading it takes 3 s.
"""

import inspect

import torch

for _method in vars(torch.optim.Optimizer).values():
    if _inner := getattr(_method, "__wrapped__", None):
        _inner.__dynamo_disable = _inner  # as torch/_compile.py leaves it after the first call


class Adam(torch.optim.Adam):
    """`step` is torch's own, under no_grad, since no step is differentiated."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))


class AdamW(torch.optim.AdamW):
    """As `Adam`."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))
