"""MAML on several processes: torchrun --standalone --nproc-per-node 2 docs/examples/meta_ddp.py"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import dilkit

dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
torch.manual_seed(0)  # the same weights and data everywhere
net = nn.Sequential(nn.Linear(1, 40), nn.Tanh(), nn.Linear(40, 1)).double()
ddp = DistributedDataParallel(net)
optimizer = torch.optim.Adam(ddp.parameters(), lr=1e-2)
for _ in range(5):
    x, phase = torch.rand(2, 8, 1, dtype=torch.float64) * 10 - 5, 3 * torch.rand(1, dtype=torch.float64)
    support, query = ((part[rank::world], torch.sin(part[rank::world] + phase)) for part in x)  # its share
    got = dilkit.meta.of(ddp).grad(F.mse_loss, [support], inner=0.1, steps=3, outer_batches=[query])
    got.apply(ddp)  # averaged over the processes already
    optimizer.step()
if rank == 0:
    print(*(f"{p.detach().sum():.15f}" for p in net.parameters()))
dist.destroy_process_group()
