"""Every metric can be named in a configuration: jsonargparse finds its options, and no others."""

import pytest
from torchmetrics import Metric

from mi_metrics.metrics import base
from tests.lightning.marks import lightning_cli

jsonargparse = pytest.importorskip("jsonargparse")

# Options without which a metric is not built.
NEEDED = {
    "BinnedConditionalMutualInformation": {"num_conditions": 2},
    "MutualInformationMatrix": {"num_x": 2, "num_y": 2},
    "MutualInformationGap": {"num_latents": 2, "num_factors": 2},
}
NAMES = (
    "BinnedMutualInformation",
    "GaussianMutualInformation",
    "KDEMutualInformation",
    "KNNConditionalMutualInformation",
    "KNNMutualInformation",
    *NEEDED,
)


@lightning_cli
@pytest.mark.parametrize("name", NAMES)
def test_a_metric_is_built_by_its_name(name):
    parser = jsonargparse.ArgumentParser()
    parser.add_subclass_arguments(Metric, "metric")
    given = {"class_path": f"mi_metrics.{name}", "init_args": NEEDED.get(name, {})}
    config = parser.parse_object({"metric": given})
    assert isinstance(parser.instantiate_classes(config).metric, base.MutualInformationMetric)
