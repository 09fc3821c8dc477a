"""torch's Adam and AdamW without importing torch.compile's front end.

torch's optimisers import `torch._dynamo` on creation and on each step to exclude themselves from
compilation. Nothing here is compiled, and the import takes 3 s.
"""

import inspect

import torch

for _method in vars(torch.optim.Optimizer).values():
    if _inner := getattr(_method, "__wrapped__", None):
        _inner.__dynamo_disable = _inner  # as torch/_compile.py leaves it after the first call


class Adam(torch.optim.Adam):
    """torch.optim.Adam with its original `step` under no_grad."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))
    # The first steps of a training that is recorded as CUDA graphs are not, as intended.
    _warned_capturable_if_run_uncaptured = True


class AdamW(torch.optim.AdamW):
    """torch.optim.AdamW with its original `step` under no_grad."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))
