"""The networks that generators draw with: named by their cards, each loaded once and shared."""

import threading
from functools import cached_property, partial
from typing import TYPE_CHECKING

from models.requests.network_names import NetworkNames

if TYPE_CHECKING:
    import torch

    from models.clip.encoder import ClipNetwork
    from models.networks.dalle_model import Dalle
    from models.networks.min_dalle.min_dalle_model import MinDalle
    from models.networks.prior import Prior
    from models.networks.transformer import Transformer
    from models.networks.unclip.unclip_model import Unclip
    from models.networks.vqgan.vqgan_model import Vqgan
    from models.runtime.batched_steps import StepScheduler


class Networks:
    """Networks by name, each loaded at its first use and kept: one object for all generators of a worker.

    Args:
        joined: how many drawings of several threads share passes of the networks on a GPU, see
            `models.runtime.batched_steps`; below 2: each has its own.
        compiled: `scheduler` is a `models.runtime.compile.Compiled`, which can be warmed up.
        graphs: what is compiled is captured, too (`models.runtime.cuda_graphs`).
    """

    def __init__(
        self, names: NetworkNames, *, joined: int = 1, compiled: bool = False, graphs: bool = False
    ) -> None:
        self.names = names
        self._joined, self._compiled, self._graphs = joined, compiled, graphs
        self._lock = threading.RLock()
        self._clips: dict[str, ClipNetwork] = {}

    @cached_property
    def device(self) -> "torch.device":
        """Where the networks run."""
        from models.clip.encoder import pick_device

        return pick_device(self.names.device)

    @cached_property
    def scheduler(self) -> "StepScheduler":
        """Runs the steps of the drawings that share the device."""
        from models.runtime.batched_steps import Batched, RoundRobin
        from models.runtime.compile import Compiled
        from models.runtime.compile import compiled as prepare

        most = self._joined if self.device.type != "cpu" else 1
        scheduler = Batched() if most > 1 else RoundRobin()
        if not self._compiled:
            return scheduler
        return Compiled(scheduler, partial(prepare, graphs=self._graphs), most=most)

    def clip(self, name: str) -> "ClipNetwork":
        """A CLIP.

        Raises:
            UnknownClip, WeightsMissing, WeightsCorrupt: as `models.clip.load`.
        """
        from models.clip.encoder import load_network

        with self._lock:
            if name not in self._clips:
                self._clips[name] = load_network(name, self.names.weights, str(self.device), self.names.dtype)
            return self._clips[name]

    def guides(self) -> "list[ClipNetwork]":
        """The CLIPs that guide drawing."""
        return [self.clip(name) for name in self.names.clips]

    def held_out(self) -> "ClipNetwork | None":
        """The CLIP that scores drawings and guides none; none: there is none."""
        return None if self.names.held_out is None else self.clip(self.names.held_out)

    def vqgan(self) -> "Vqgan":
        """The VQGAN.

        Raises:
            UnknownVqgan, WeightsMissing, WeightsCorrupt, WeightsMismatch: as `models.networks.vqgan.load`.
        """
        with self._lock:
            return self._vqgan

    def prior(self) -> "Prior | None":
        """The prior of the VQGAN's card; none: it has none.

        Raises:
            WeightsMissing, WeightsCorrupt, WeightsMismatch: likewise.
        """
        with self._lock:
            return self._prior

    def dalle(self) -> "Dalle | None":
        """What draws texts on the VQGAN's codes; none: its card has none. Errors as `prior`."""
        with self._lock:
            return self._dalle

    def transformer(self) -> "Transformer | None":
        """The VQGAN's own transformer; none: its card has none. Errors as `prior`."""
        with self._lock:
            return self._transformer

    def min_dalle(self) -> "MinDalle":
        """DALL-E mini or mega.

        Raises:
            UnknownMinDalle, WeightsMissing, WeightsCorrupt, WeightsUnusable: as `min_dalle.load`.
        """
        with self._lock:
            return self._min_dalle

    def unclip(self) -> "Unclip":
        """An unCLIP.

        Raises:
            UnknownUnclip, WeightsMissing, WeightsCorrupt, WeightsUnusable: as `models.networks.unclip.load`.
        """
        with self._lock:
            return self._unclip

    @cached_property
    def _vqgan(self) -> "Vqgan":
        from models.networks.vqgan import load

        return load(self.names.vqgan, self.names.weights, str(self.device), self.names.dtype)

    @cached_property
    def _prior(self) -> "Prior | None":
        from models.networks.vqgan import load_prior

        return load_prior(self.names.vqgan, self.names.weights, str(self.device))

    @cached_property
    def _dalle(self) -> "Dalle | None":
        from models.networks.vqgan import load_dalle

        return load_dalle(self.names.vqgan, self.names.weights, str(self.device), self.names.dtype)

    @cached_property
    def _transformer(self) -> "Transformer | None":
        from models.networks.vqgan import load_transformer

        return load_transformer(self.names.vqgan, self.names.weights, str(self.device), self.names.dtype)

    @cached_property
    def _min_dalle(self) -> "MinDalle":
        from models.networks.min_dalle import load

        return load(self.names.min_dalle, self.names.weights, str(self.device), self.names.dtype)

    @cached_property
    def _unclip(self) -> "Unclip":
        from models.networks.unclip import load

        return load(self.names.unclip, self.names.weights, str(self.device), self.names.dtype)
