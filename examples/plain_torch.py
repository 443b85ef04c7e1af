"""R2MAE in your own loop: two schemes side by side on a table of numbers, compared at fixed ratios."""

import torch
from torch import nn

from r2mae_core import Fixed, Uniform, exact_mask

STEPS = 300
generator = torch.Generator().manual_seed(0)
rows = torch.randn(1024, 4, generator=generator) @ torch.randn(4, 24, generator=generator)
train, held_out = rows[:896], rows[896:]


def loss_of(net: nn.Module, batch: torch.Tensor, ratio: float, seed: int) -> torch.Tensor:
    """Hide a fraction of the features of each row, and return the error of their prediction."""
    hidden = exact_mask(batch.shape, ratio, generator=torch.Generator().manual_seed(seed))
    seen = torch.cat([batch.masked_fill(hidden, 0.0), hidden.float()], dim=1)
    return (net(seen) - batch)[hidden].square().mean()


losses = {}
for name, sampler in {"fixed 0.3": Fixed(0.3), "R2MAE": Uniform(0.1, 0.9, seed=0)}.items():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(48, 128), nn.GELU(), nn.Linear(128, 24))
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    for step in range(STEPS):
        batch = train[torch.randint(len(train), (64,), generator=torch.Generator().manual_seed(step))]
        loss = loss_of(net, batch, sampler.sample(step, STEPS), seed=step)  # a fresh ratio, a fresh mask
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        losses[name] = {ratio: float(loss_of(net, held_out, ratio, seed=-1)) for ratio in (0.1, 0.3, 0.6, 0.9)}
    print(f"{name:10}", "  ".join(f"{loss:.3f} at {ratio:g}" for ratio, loss in losses[name].items()))

assert losses["R2MAE"][0.9] < losses["fixed 0.3"][0.9] < held_out.var()
