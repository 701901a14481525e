"""Steps compiled before a worker takes jobs, for the sizes of its settings."""

import time
from collections.abc import Mapping, Sequence

import structlog

from models.generators import complete, find
from models.networks.shared_networks import Networks
from models.requests.generator import Drawing, Generate
from models.requests.options import DrawingOptions
from models.requests.prompts import parse
from models.runtime.compile import Compiled

log = structlog.get_logger(__name__)


def compile_steps(networks: Networks, generators: Mapping[str, Generate], sizes: Sequence[str]) -> None:
    """Draw two steps of each size with each generator's defaults, compiling what they ask of the networks.

    What fails is told in the log; drawing goes on as if there were none of this.

    Args:
        sizes: such as 256x256: width, height.
    """
    scheduler, started_s = networks.scheduler, time.monotonic()
    assert isinstance(scheduler, Compiled)
    try:
        with scheduler.warm_up():
            for size in sizes:
                width, height = map(int, size.split("x"))
                for name, generator in generators.items():
                    if not issubclass(find(name).Options, DrawingOptions):
                        continue  # it has no steps of that kind, and perhaps no such size
                    request = complete(
                        networks.names,
                        generator=name,
                        prompts=parse("a house"),
                        width=width,
                        height=height,
                        steps=2,
                        seed=0,
                    )
                    for step in generator(Drawing(request, seed=0)):
                        step.render()
    except Exception:  # a compiler, and what it makes, fail in ways of their own
        log.exception("steps could not be compiled; drawing without")
        return
    log.info("steps compiled", shapes=scheduler.shapes, seconds=round(time.monotonic() - started_s, 1))
