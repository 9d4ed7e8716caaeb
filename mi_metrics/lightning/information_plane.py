"""The information plane: what the layers of a network tell about the class, epoch by epoch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torchmetrics.utilities.distributed import gather_all_tensors

from mi_metrics.functional import knn_mutual_information
from mi_metrics.functional.cautions import caution
from mi_metrics.functional.options import check_choice, check_integer, check_number
from mi_metrics.functional.symbols import counts, entropy_of, rows_of_bins, shared_by, symbols
from mi_metrics.functional.tables.sampling import ALONE
from mi_metrics.lightning.trajectories import plot_trajectories
from mi_metrics.plotting import require_matplotlib

Stage = Literal["validation", "test"]
STAGES = ("validation", "test")


class InformationPlane(Callback):
    r"""Log what the layers of a network tell about the class, and how much they hold, and draw the
    trajectory of both.

    A layer's output is flattened to ``(N, d)``. Each coordinate is cut into ``num_bins`` equal bins
    over its range, and a row of bins is a symbol T. Logged after each epoch, in nats and from the
    samples of all processes: ``mi/<layer>``, the plug-in information I(T; Y) with the class Y, and
    ``entropy/<layer>``, the plug-in entropy H(T).

    Conventions:
        Not logged: I(X; T), the information with the input. For a network without noise and a
        continuous input it is infinite, or constant, whatever the network has learned. The
        entropy of the *binned* layer, which is often called so, is that of a picture of the layer
        through bins: it falls as units saturate or cluster (Saxe 2018, Goldfeld 2019), and it
        depends on ``num_bins``.
        Bias: a symbol that a single sample has tells its class, whatever it is. With d units and 30
        bins nearly all of a few thousand samples are alone: then I(T; Y) is H(Y), and a
        :class:`mi_metrics.MutualInformationWarning` ("undersampled") says so, once per layer. Look
        at narrow layers, use fewer bins, or let ``max_symbols`` be less: above it I(T; Y) is
        estimated from nearest neighbours of the layer itself (``knn_mutual_information`` with
        ``discrete_y=True``), H(T) remains that of symbols.
        Exact over ranks: bit for bit, if each sample is on one rank (see
        :class:`mi_metrics.UnpaddedDistributedSampler`).
        Memory: the outputs of the layers for all samples of an epoch, on every process those of
        all. The sanity check adds nothing.

    The figure ``figures/information_plane/epoch_000.png``, in the folder of the first logger, has
    one line per layer through all epochs so far; TensorBoard has it too. The second such callback
    of a trainer draws in ``figures/information_plane_2``, and so on. A ``fast_dev_run`` draws
    nothing.

    Args:
        layers: Where the layers are in the LightningModule, by the name that they are logged under:
            ``{"hidden": "net.2"}``. Each is called once per batch. A second such callback of the
            trainer, for the same stage, has other names.
        target: Key or index of the classes in a batch: whole numbers, ``(N,)``.
        num_bins: Bins of each unit.
        max_symbols: Most distinct rows of bins that are counted against the classes.
        stage: ``"validation"`` or ``"test"``.
        every_n_epochs: Least number of epochs from one evaluation to the next while fitting.
        value_range: Range of all units, or by layer: ``[-1, 1]`` for tanh. By default each unit's
            own, from the samples of the epoch.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.
        TypeError: If an option has the wrong type.
        ValueError: If there is no layer, or an option is out of its range.

    References:
        A. M. Saxe et al., "On the information bottleneck theory of deep learning" (2018),
        https://openreview.net/forum?id=ry_WPG-A-. Z. Goldfeld et al., "Estimating information flow
        in deep neural networks" (2019), arXiv:1810.05728. R. Shwartz-Ziv, N. Tishby, "Opening the
        black box of deep neural networks via information" (2017), arXiv:1703.00810.
    """

    def __init__(
        self,
        layers: dict[str, str],
        target: str | int,
        *,
        num_bins: int = 30,
        max_symbols: int = 65536,
        stage: Stage = "validation",
        every_n_epochs: int = 1,
        value_range: Sequence[float] | dict[str, Sequence[float]] | None = None,
    ) -> None:
        require_matplotlib()
        if not isinstance(layers, Mapping) or not layers:
            raise ValueError(
                "Expected `layers` as names and dotted paths, for example "
                f'{{"hidden": "net.2"}}, but got {layers!r}.'
            )
        check_choice("stage", stage, STAGES)
        self.layers, self.target, self.stage = dict(layers), target, stage
        self.num_bins = check_integer("num_bins", num_bins, 1)
        self.max_symbols = check_integer("max_symbols", max_symbols, 1)
        self.every_n_epochs = check_integer("every_n_epochs", every_n_epochs, 1)
        self.value_range = value_range
        self._ranges = {name: self._range(name) for name in layers}
        # By layer: epoch, entropy and information of each evaluation.
        self.trajectory: dict[str, list[tuple[int, float, float]]] = {name: [] for name in layers}
        self.last_figure: Path | None = None
        self._hooks: list[Any] = []
        self._outputs: dict[str, list[Tensor]] = {}
        self._labels: list[Tensor] = []
        self._warned: set[str] = set()
        self._last_epoch: int | None = None

    @property
    def state_key(self) -> str:
        """The name under which a checkpoint holds the trajectory."""
        return self._generate_state_key(stage=self.stage, layers=sorted(self.layers.items()))

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check that the module has the layers, under names of their own, before any time is spent
        on training.
        """
        for name in self.layers:
            self._find(pl_module, name)
        others = [plane for plane in _planes(trainer) if plane is not self]
        taken = {name for plane in others if plane.stage == self.stage for name in plane.layers}
        if shared := sorted(taken & set(self.layers)):
            raise ValueError(
                "Expected the information planes of a trainer to name layers apart, but two of "
                f"them would log mi/{shared[0]} in {self.stage}. Rename the layer in one of them, "
                f'for example {{"{shared[0]}_{self.num_bins}_bins": '
                f'"{self.layers[shared[0]]}"}}.'
            )

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget an earlier fit, but for what a checkpoint has brought."""
        if trainer.current_epoch == 0:
            self.trajectory = {name: [] for name in self.layers}
            self._last_epoch = None

    def state_dict(self) -> dict[str, Any]:
        """Return the trajectory, for a checkpoint."""
        return {"trajectory": self.trajectory, "last_epoch": self._last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with a trajectory."""
        self.trajectory = {
            name: [tuple(point) for point in state_dict["trajectory"].get(name, [])]
            for name in self.layers
        }
        self._last_epoch = state_dict["last_epoch"]

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Watch the layers, if this epoch is due."""
        if self.stage == "validation" and self._is_due(trainer):
            self._watch(pl_module)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keep the classes of a batch."""
        self._take(batch)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log and draw."""
        self._finish(trainer, pl_module)

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Watch the layers."""
        if self.stage == "test":
            self._watch(pl_module)

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keep the classes of a batch."""
        self._take(batch)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log and draw."""
        self._finish(trainer, pl_module)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Leave the layers alone."""
        self._release()

    # -- from the layers to symbols ----------------------------------------------------------------

    def _range(self, name: str) -> tuple[float, float] | None:
        given = self.value_range
        found = given.get(name) if isinstance(given, Mapping) else given
        if found is None:
            return None
        if len(found) != 2 or not check_number("value_range", found[0]) < check_number(
            "value_range", found[1]
        ):
            raise ValueError(
                f"Expected `value_range` of a layer as [lo, hi] with lo < hi, but got {found!r}."
            )
        return float(found[0]), float(found[1])

    def _find(self, pl_module: pl.LightningModule, name: str) -> nn.Module:
        try:
            return pl_module.get_submodule(self.layers[name])
        except AttributeError:
            known = [path for path, _ in pl_module.named_modules() if path]
            raise ValueError(
                f"Expected `layers` to name modules of {type(pl_module).__name__}, but got "
                f"{self.layers[name]!r} for {name!r}. It has: {', '.join(known[:30])}."
            ) from None

    def _is_due(self, trainer: pl.Trainer) -> bool:
        if trainer.sanity_checking:
            return False
        epoch, last = trainer.current_epoch, self._last_epoch
        if trainer.state.fn != TrainerFn.FITTING:
            return True
        return last is None or epoch == last or epoch - last >= self.every_n_epochs

    def _watch(self, pl_module: pl.LightningModule) -> None:
        self._release()
        self._outputs = {name: [] for name in self.layers}
        for name in self.layers:

            def keep(module: nn.Module, args: Any, output: Any, name: str = name) -> None:
                if not isinstance(output, Tensor):
                    raise TypeError(
                        f"Expected the layer {self.layers[name]!r} to return a tensor, but got "
                        f"{type(output).__name__}. Name a layer whose output is one."
                    )
                self._outputs[name].append(output.detach().flatten(1).float())

            self._hooks.append(self._find(pl_module, name).register_forward_hook(keep))

    def _take(self, batch: Any) -> None:
        if not self._hooks:
            return
        labels = batch[self.target]
        whole = isinstance(labels, Tensor) and not labels.is_floating_point()
        if not whole or labels.numel() != len(labels):
            raise ValueError(
                "Expected `target` to lead to whole numbers of shape (N,), the classes, but got "
                f"{labels.dtype if isinstance(labels, Tensor) else type(labels).__name__}"
                f"{list(labels.shape) if isinstance(labels, Tensor) else ''} at {self.target!r}. "
                "Number the classes in the dataset."
            )
        self._labels.append(labels.detach().flatten().long())
        rows = sum(map(len, self._labels))
        for name, outputs in self._outputs.items():
            if len(outputs) != len(self._labels) or sum(map(len, outputs)) != rows:
                raise ValueError(
                    f"Expected the layer {self.layers[name]!r} to be called once per batch, with a "
                    f"row for each of {len(labels)} samples, but it was called {len(outputs)} "
                    f"times in {len(self._labels)} batches. Name a layer that sees each sample "
                    "once."
                )

    def _release(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._outputs, self._labels = [], {}, []

    def _finish(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._hooks:
            return
        labels = _gathered(self._labels, torch.zeros(0, dtype=torch.int64), pl_module.device)
        found = {}
        for name, outputs in self._outputs.items():
            values = _gathered(outputs, torch.zeros(0, 0), pl_module.device)
            found[name] = self._measured(name, values, labels)
        self._release()
        epoch = trainer.current_epoch
        for name, (entropy, information) in found.items():
            # All ranks have the same number, of which the largest is that number to the bit.
            options: dict[str, Any] = {"sync_dist": True, "reduce_fx": torch.max}
            pl_module.log(f"mi/{name}", information, **options)
            pl_module.log(f"entropy/{name}", entropy, **options)
            if trainer.state.fn == TrainerFn.FITTING:
                points = [point for point in self.trajectory[name] if point[0] < epoch]
                self.trajectory[name] = [*points, (epoch, float(entropy), float(information))]
        self._last_epoch = epoch if trainer.state.fn == TrainerFn.FITTING else self._last_epoch
        self._draw(trainer, found)

    def _measured(self, name: str, values: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return entropy and information of a layer."""
        if not bool(values.isfinite().all()):
            self._warn(
                name,
                "no samples",
                f"The layer {name!r} has NaN or infinite outputs, so its values are NaN. Check "
                "that the training has not diverged.",
            )
            nothing = torch.full((), torch.nan, dtype=torch.float64, device=values.device)
            return nothing, nothing
        y = torch.unique(labels, return_inverse=True)[1]
        t = symbols(rows_of_bins(values, self.num_bins, self._ranges[name]))
        entropy, both = entropy_of(t), shared_by(t, y)
        if int(t.max()) + 1 > self.max_symbols:
            return entropy, knn_mutual_information(values, y, discrete_y=True)
        alone = float((counts(both) == 1).sum()) / len(y)
        if alone > ALONE["none"] and int(y.max()) > 0:
            self._warn(
                name,
                "undersampled",
                f"{100 * alone:.0f} % of {len(y)} samples are alone in their symbol of the layer "
                f"{name!r}, so mi/{name} says little but that. Use fewer bins or a narrower layer, "
                f"or a smaller `max_symbols`, for an estimate from nearest neighbours.",
            )
        return entropy, entropy + entropy_of(y) - entropy_of(both)

    def _warn(self, name: str, kind: Any, message: str) -> None:
        if (key := f"{kind}/{name}") not in self._warned:
            self._warned.add(key)
            caution(kind, message)

    def _draw(self, trainer: pl.Trainer, found: dict[str, tuple[Tensor, Tensor]]) -> None:
        fits = trainer.state.fn == TrainerFn.FITTING
        epoch = trainer.current_epoch
        name = f"epoch_{epoch:03d}" if fits else self.stage
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        # The name of the folder waits for all processes.
        title = self._title(trainer)
        folder = Path(trainer.log_dir or ".") / "figures" / title
        if not trainer.is_global_zero:
            return
        points = (
            self.trajectory
            if fits
            else {layer: [(epoch, float(h), float(i))] for layer, (h, i) in found.items()}
        )
        figure = plot_trajectories(points)
        folder.mkdir(parents=True, exist_ok=True)
        self.last_figure = folder / f"{name}.png"
        figure.savefig(self.last_figure, dpi=120)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_figure(title, figure, trainer.global_step)

    def _title(self, trainer: pl.Trainer) -> str:
        """Return the name of the figures, which no other callback of the trainer has."""
        place = next(i for i, plane in enumerate(_planes(trainer), 1) if plane is self)
        return "information_plane" if place == 1 else f"information_plane_{place}"


def _planes(trainer: pl.Trainer) -> list[InformationPlane]:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return [callback for callback in callbacks if isinstance(callback, InformationPlane)]


def _gathered(parts: list[Tensor], nothing: Tensor, device: torch.device) -> Tensor:
    """Return the rows of all processes, of which some may have none."""
    own = torch.cat(parts) if parts else nothing.to(device)
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return own
    return torch.cat([rows for rows in gather_all_tensors(own) if rows.numel()])
