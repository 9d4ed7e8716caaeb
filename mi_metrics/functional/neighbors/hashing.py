"""SplitMix64 in wrapping int64 tensors: chance without a random number generator, the same on every
device.

References:
    G. L. Steele, D. Lea, C. H. Flood, "Fast splittable pseudorandom number generators" (2014),
    doi:10.1145/2660193.2660195.
"""

import torch
from torch import Tensor

# 0x9E3779B97F4A7C15 and the multipliers of the finaliser, as what they wrap to.
STEP = -7046029254386353131
MULTIPLIERS = ((30, -4658895280553007687), (27, -7723592293110705685))


def mix(words: Tensor) -> Tensor:
    """Return int64 words mixed so that every bit depends on every bit: one step of SplitMix64."""
    words = words + STEP
    for places, multiplier in MULTIPLIERS:
        words ^= shift(words, places)
        words *= multiplier
    return words.bitwise_xor_(shift(words, 31))


def centred_uniform(words: Tensor) -> Tensor:
    """Return float64 numbers between -0.5 and 0.5 from the upper 53 bits of int64 words."""
    return shift(words, 11).double().add_(0.5).mul_(2.0**-53).sub_(0.5)


def shift(words: Tensor, places: int) -> Tensor:
    """Shift words to the right as if they had no sign."""
    # The shift of int64 copies the sign; the mask takes it away.
    return (words >> places).bitwise_and_((1 << (64 - places)) - 1)


def mixed(number: int) -> int:
    """Return one mixed word as an int."""
    return int(mix(torch.tensor([number])))
