"""The meta room works where nothing but torch is installed."""

import subprocess
import sys

SCRIPT = """
import importlib.metadata as metadata, re, sys

allowed, queue = set(), ["torch"]
while queue:  # torch and what it requires
    name = queue.pop()
    if name in allowed:
        continue
    allowed.add(name)
    try:
        needs = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        continue
    queue += [re.split("[ ;<>=!~\\\\[]", r)[0].lower() for r in needs if "extra ==" not in r]
packages = {}
for module, owners in metadata.packages_distributions().items():
    if not any(o.lower().replace("_", "-") in allowed for o in owners) and module != "dilkit":
        packages[module] = owners

from importlib.machinery import PathFinder

class Uninstalled:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] in packages else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Uninstalled
assert "numpy" in packages and "pydantic" in packages
import torch, dilkit.meta
from torch import nn

net = dilkit.meta(nn.Sequential(nn.Linear(2, 3), nn.Dropout(), nn.Linear(3, 2)))
data = [(torch.ones(4, 2), torch.zeros(4, 2))]
got = net.meta.grad(nn.MSELoss(), data, inner=torch.optim.Adam, steps=2, trajectory="star")
got.apply(net)
net.eval().meta.tasks(nn.MSELoss(), [(data[0], data[0])] * 2)
net.meta.implicit(nn.MSELoss(), data[0], outer_batch=data[0])
dilkit.meta.of(net).step({}, nn.MSELoss(), data[0])
import dilkit.meta.check, dilkit.meta.first_order
print("fine", *sorted(m for m in sys.modules if m in packages))
"""


def test_gradients_tasks_and_checks_without_any_other_package():
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert out.stdout.split() == ["fine"]
