"""Making data sets from data specs."""

from __future__ import annotations

from pathlib import Path

__all__ = ["build"]


def build(spec_path: str, out: str | None = None, limit: int = 0, engine: str = "local") -> Path:
    """Builds the data set that a spec describes; see `editkit.build.pipeline.build_spec`."""
    from editkit.build.pipeline import build_spec

    return build_spec(Path(spec_path), Path(out) if out else None, limit, engine)
