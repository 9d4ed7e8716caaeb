"""What must work where the package is installed without any extra; run by itself, not by pytest."""

import importlib.resources
import sys

import torch

from mi_metrics import BinnedMutualInformation

x = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
metric = BinnedMutualInformation("auto", bias_correction="grassberger")
metric.update(x, 0.6 * x + 0.8 * torch.randn(10_000, generator=torch.Generator().manual_seed(1)))
assert 0.2 < metric.compute().item() < 0.25

assert not {"lightning", "matplotlib", "sklearn"} & set(sys.modules), "an extra was imported"
package = importlib.resources.files("mi_metrics")
assert package.joinpath("py.typed").is_file()
assert package.joinpath("configs", "validation_metric.yaml").is_file()
print("bare installation works")
