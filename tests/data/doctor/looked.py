"""The doctor's look at one split."""

from __future__ import annotations

from typing import Any

from editkit.data.doctor.diagnose import diagnose
from editkit.data.doctor.findings import Findings
from editkit.data.examples import Dataset


def check_dataset(dataset: Dataset[Any], workers: int | None = 1) -> Findings:
    """Errors and warnings of a split that is looked at alone."""
    return diagnose({"train": dataset}, workers=workers).splits["train"]
