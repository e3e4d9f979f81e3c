"""What there is to say about a dataset."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from dilkit.confounders.store import Store


def summarize(path: str | Path) -> dict[str, Any]:
    """How a dataset was made and what is in it, JSON-able."""
    store = Store(path)
    attrs, index = store.attrs, store.index
    files = [Store(shard).head.regions for shard in store.head.shards] or [store.head.regions]
    sizes = Counter(f"{h}x{w}" for h, w in zip(index["h"].tolist(), index["w"].tolist(), strict=True))

    def nbytes(name: str) -> int:
        return sum(regions[name].nbytes for regions in files if name in regions)

    views = [{**vars(view), "bytes": nbytes(f"distorted/{view.label}")} for view in store.head.views]
    return {
        "file": str(path),
        "bytes": Path(path).stat().st_size,
        **{name: attrs[name] for name in ("layout", "expression", "hash", "seed", "coupling", "storage")},
        **{name: attrs[name] for name in ("policy", "licence", "shard")},
        "settings": json.loads(attrs["settings"]),
        "versions": json.loads(attrs["versions"]),
        "clean": {"dtype": store.clean(0).dtype.name, "bytes": nbytes("clean")},
        "shards": [shard.name for shard in store.head.shards],
        "items": {
            "count": len(store),
            "images": len(set(index["image"].tolist())),
            "sizes": dict(sizes.most_common()),
            "splits": dict(Counter(index["split"].astype(str).tolist())),
        },
        "confounders": views,
    }
