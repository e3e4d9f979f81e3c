"""The native engine: trajectories swapped into the module, and their adjoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from dilkit.meta.adjoint import Adjoint
from dilkit.meta.guards import replay_tolerance, require_finite, require_replayed, size
from dilkit.meta.inner import State, fresh
from dilkit.meta.setting import Setting
from dilkit.meta.swap import clones
from dilkit.meta.tape import Tape
from dilkit.meta.trajectory import Order, Record, Sum, Swapped, Term, Trajectory, walk


class Engine:
    """Runs trajectories of one module from its present weights."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    def run(
        self,
        steps: Sequence[Sequence[Term]],
        outer: Mapping[int, Sequence[Term]],
        *,
        order: Order = "exact",
        state: State | None = None,
    ) -> Trajectory:
        """One trajectory.

        Args:
            steps: the terms of each inner step; its loss is their weighted sum, taken one at a time.
            outer: the terms of the outer loss at phi_k, by k (0 is theta, len(steps) the last).
            order: see `Trajectory.grads`.
            state: the inner optimiser's state to start from (a constant), or None for a fresh one.

        Raises:
            DilkitError: a NaN or an infinity, by the name of its term; a forward pass that cannot be
                replayed.
            UsageError: a module that would give wrong gradients (see `dilkit.meta.guards`).
        """
        setting, record = self._setting, Record()
        tape = Tape(setting, len(steps)) if order == "exact" else None
        hyper, change = {}, None
        with torch.enable_grad():
            walked = Swapped(setting, state or fresh(setting.names), tape)
            walk(walked, steps, {} if order == "reptile" else outer, record)
            require_finite(record.scalars, where=setting.where)
            if tape is not None:
                adjoint = Adjoint(setting, steps, walked, tape)
                stop = max(0, len(steps) - (setting.truncate or len(steps)))
                for k in reversed(range(stop, len(steps))):
                    before = clones(adjoint.lam) if k == stop > 0 else []
                    adjoint.back(k)
                if stop:
                    change = float(size(torch._foreach_sub(adjoint.lam, before)) / size(adjoint.lam))
                    for left in walked.outer.values():
                        torch._foreach_add_(adjoint.lam, left.total(setting.reduce))
                grads, hyper = adjoint.lam, adjoint.hyper
                require_finite({"the meta-gradient": size(grads)}, where=setting.where)
                tolerance = replay_tolerance(next(iter(record.inner.values())), setting.net)
                require_replayed(adjoint.replays, tolerance=tolerance)
            elif order == "fomaml":
                total = Sum()
                for part in walked.outer.values():
                    total.add(part.total(setting.reduce))
                grads = total.total()
            else:
                grads = list(torch._foreach_sub([p.detach() for p in setting.theta], walked.phi))
        return Trajectory(
            dict(zip(setting.names, grads, strict=True)),
            hyper,
            dict(zip(setting.outside, walked.outside.total(setting.reduce), strict=False)),
            record.inner,
            record.outer,
            dict(zip(setting.names, walked.phi, strict=True)),
            walked.state,
            walked.buffers,
            change,
        )
