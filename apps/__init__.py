"""Pages for trying models in the browser: thin, over the same functions as the command line."""

from __future__ import annotations

import importlib

from editkit.errors import UserError

APPS = {"edit": "apps.edit", "pairs": "apps.pairs", "plan_refine": "apps.plan_refine"}


def launch(which: str, run: str | None, host: str, port: int) -> None:
    """Starts a page.

    Args:
        which: a key of `APPS`.
        run: what to load, a model or a data set; None = the page's default.
        host: address to listen on.
        port: port to listen on.
    """
    if which not in APPS:
        raise UserError(f'demo: found "{which}"; expected one of {", ".join(APPS)}')
    try:
        module = importlib.import_module(APPS[which])
    except ModuleNotFoundError as error:
        if error.name == "gradio":
            raise UserError('the demo needs gradio, which is not installed; pip install "editkit[demo]"') from error
        raise
    module.launch(run, host, port)
