"""The optimisers are torch's own, started without its compiler."""

import subprocess
import sys

import pytest
import torch

from training.models import optim as adam


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_steps_and_state_equal_torchs(name: str) -> None:
    """Bit for bit, and each loads what the other has saved."""
    made = []
    for module in (torch.optim, adam):
        torch.manual_seed(0)
        net = torch.nn.Conv2d(3, 4, 3)
        optimiser = getattr(module, name)(net.parameters(), 0.01, weight_decay=0.1, fused=True)
        for _ in range(3):
            optimiser.zero_grad()
            net(torch.randn(2, 3, 8, 8)).square().sum().backward()
            optimiser.step()
        made.append((net, optimiser))
    (theirs, one), (ours, other) = made
    assert all(map(torch.equal, theirs.parameters(), ours.parameters()))
    assert other.state_dict()["param_groups"] == one.state_dict()["param_groups"]
    other.load_state_dict(one.state_dict())
    assert torch.equal(other.state[ours.weight]["exp_avg"], one.state[theirs.weight]["exp_avg"])


def test_programs_do_not_import_unused_frameworks() -> None:
    """Steps that only read labels, and the launcher, without torch; a step without its compiler."""
    code = """
import sys
import training.data.preprocess, training.data.unify, training.data.validate, training.launch
assert "torch" not in sys.modules
import torch
from training.models.optim import Adam
net = torch.nn.Linear(2, 2)
optimiser = Adam(net.parameters(), fused=True)
net(torch.ones(1, 2)).sum().backward()
optimiser.step()
optimiser.load_state_dict(optimiser.state_dict())
assert "torch._dynamo" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
