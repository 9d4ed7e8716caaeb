"""A pair of images that only mutual information can register: two stains of one tissue slide, from
scikit-image.
"""

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mi_metrics.examples.affine import compose, mean_displacement, pixel_grid, sample
from mi_metrics.functional.options import require

# The divisor of width and height. The pixels of the photograph are finer than what the stains
# share: at full resolution the map of largest mutual information is 0.5 to 1.1 pixels off the true
# one, at half of it 0.3 to 0.8 of the larger pixels.
SHRINK = 2
# The linear against the translational part of the deformation: rotation, scale and shear of some
# per cent.
LINEAR_PART = 0.4

Pair = tuple[Tensor, Tensor, Tensor]


class StainsDataModule(pl.LightningDataModule):
    """Serve two stains of one slide, one of them deformed by a known affine map.

    The slide is scikit-image's ``immunohistochemistry``: colon tissue, cell nuclei stained blue by
    haematoxylin, a protein around them stained brown by DAB. Colour deconvolution of the
    photograph, halved to 256 by 256 pixels, gives the two stains as two images, registered by
    construction. They share outlines, not intensities (their correlation is negative and weak), so
    no difference of grey levels is small when they fit.

    A batch is ``(fixed, moving, truth)``. ``fixed`` is the middle of the haematoxylin image and
    ``moving`` the DAB image as seen through the deformation, both ``(1, 1, size, size)`` in [0, 1].
    ``truth`` ``(1, 2, 3)`` is the deformation in coordinates from -1 to 1: ``moving(x) =
    DAB(truth(x))``, so a map T registers the pair if ``truth(T(x))`` is x. Training repeats the
    pair ``steps_per_epoch`` times, validation has it once.

    Args:
        seed: Which deformation: a random translation with rotation, scale and shear.
        displacement: How far the deformation moves the pixels in the mean, in pixels.
        size: Width and height of both images; what is left of the 256 pixels is where ``moving``
            comes from.
        steps_per_epoch: Optimisation steps per epoch.

    Raises:
        ValueError: If so large a deformation cannot be cut out of the slide.
    """

    def __init__(
        self, seed: int = 0, displacement: float = 11.0, size: int = 208, steps_per_epoch: int = 50
    ) -> None:
        super().__init__()
        self.seed = seed
        self.displacement = displacement
        self.size = size
        self.steps_per_epoch = steps_per_epoch
        self._pair: Pair | None = None

    def setup(self, stage: str | None = None) -> None:
        """Load the slide, separate the stains and deform one of them.

        Args:
            stage: What is about to run; it makes no difference.
        """
        if self._pair is not None:
            return
        stains = load_stains()
        share = self.size / stains.shape[-1]
        truth = self._deformation(share)
        # The frame in the slide, in the slide's own coordinates.
        frame = torch.tensor([[share, 0, 0], [0, share, 0]])
        grid = pixel_grid(self.size)
        fixed = sample(stains[:1], frame, grid, mode="bicubic")[0]
        moving = sample(stains[1:], compose(frame, truth), grid, mode="bicubic")[0]
        # Cubic interpolation overshoots at edges.
        self._pair = fixed[0].clamp(0, 1), moving[0].clamp(0, 1), truth

    def train_dataloader(self) -> DataLoader[Pair]:
        """Return the pair, once for each step."""
        return self._loader(self.steps_per_epoch)

    def val_dataloader(self) -> DataLoader[Pair]:
        """Return the pair."""
        return self._loader(1)

    def _deformation(self, share: float) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        grid, identity = pixel_grid(self.size), torch.eye(2, 3)
        for _ in range(100):
            step = torch.randn(2, 3, generator=generator) * torch.tensor(
                [LINEAR_PART, LINEAR_PART, 1]
            )
            step *= self.displacement / mean_displacement(identity + step, grid)
            # Otherwise the deformed image would have a border that gives the deformation away.
            if (grid @ (identity + step).T).abs().max() * share < 1:
                return identity + step
        raise ValueError(
            "Expected a deformation that stays inside the slide, but 100 random ones of "
            f"{self.displacement} pixels did not with images of {self.size} pixels. Lower "
            "`displacement` or `size`."
        )

    def _loader(self, times: int) -> DataLoader[Pair]:
        if self._pair is None:
            raise RuntimeError(
                "Expected setup() before the batches are asked for. A Trainer calls it."
            )
        return DataLoader([self._pair] * times, batch_size=1)  # type: ignore[arg-type]


def load_stains() -> Tensor:
    """Return the haematoxylin and DAB of the slide, ``(2, 1, 256, 256)`` in [0, 1], without a
    download.

    Raises:
        ModuleNotFoundError: If scikit-image is not installed, with the extra that installs it.
    """
    hdx_from_rgb = require("skimage.color", "demo", "The stains").hdx_from_rgb
    slide = require("skimage.data", "demo", "The stains").immunohistochemistry()
    rgb = torch.as_tensor(slide)
    rgb = rgb.permute(2, 0, 1).float() / 255
    rgb = nn.functional.avg_pool2d(rgb, SHRINK)
    # Light is absorbed in proportion to its own intensity, so stains add up in the logarithm (Beer
    # and Lambert). `separate_stains` would set to 0 what is negative, and with that a tenth of the
    # weaker stain.
    density = -rgb.clamp(min=1 / 255).log()
    unmix = torch.as_tensor(hdx_from_rgb, dtype=torch.float32)
    stains = torch.einsum("chw,cs->shw", density, unmix)[:2]
    lowest, highest = stains.flatten(1).quantile(torch.tensor([0.005, 0.995]), 1)[..., None, None]
    scaled: Tensor = ((stains - lowest) / (highest - lowest)).clamp(0, 1)
    return scaled.unsqueeze(1)
