"""Mutual information in Lightning: callbacks, intervals, and the command line's `fit`, `validate`
and `test`.

Needs ``pip install "mi-metrics[lightning]"``. The metrics, losses and samplers themselves work
without Lightning.

**Resuming within an epoch.** By default a checkpoint holds no metric's state, which is right for
validation and test, and for checkpoints after an epoch. A metric of training steps goes on in one
process with a training dataloader that saves its position (it has ``state_dict`` and
``load_state_dict``), ``ModelCheckpoint(every_n_train_steps=...)`` and::

    def __init__(self):
        ...
        self.train_mi = BinnedMutualInformation()
        self.train_mi.persistent(True)

    def training_step(self, batch, batch_idx):
        if batch_idx == 0:
            self.train_mi.reset()
        ...

Without the reset, a checkpoint from the end of an epoch adds that epoch's samples to the next one,
because Lightning saves before it resets. What was logged then has the value of the uninterrupted
run, to the last bit; only of an epoch whose last batch was in the checkpoint nothing is logged
again. A checkpoint of several processes holds the state of rank 0, and each rank would load it:
there, leave metrics as they are and save after the epoch.
"""

from mi_metrics.functional.options import require
from mi_metrics.moved import forwarding

require("lightning", "lightning", "Callbacks and commands of Lightning")

from mi_metrics.lightning.callbacks import EpochTable, JointDistributionLogger  # noqa: E402
from mi_metrics.lightning.information_plane import InformationPlane  # noqa: E402
from mi_metrics.lightning.intervals import log_interval  # noqa: E402
from mi_metrics.lightning.matrices import log_matrix  # noqa: E402

__all__ = [
    "EpochTable",
    "InformationPlane",
    "JointDistributionLogger",
    "log_interval",
    "log_matrix",
]

__getattr__ = forwarding(__name__)
