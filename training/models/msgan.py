"""MSGAN (Mao et al., CVPR 2019, arXiv 1903.05628): mode seeking, on the networks of DRIT.

The paper adds one term to conditional GANs; its faces, animals and seasons are DRIT with that term.
"""

from dataclasses import dataclass

from training.models.drit import DRIT
from training.models.losses import ModeSeekingWeight


@dataclass(frozen=True)
class MSGAN(DRIT):
    """Hyper-parameters of MSGAN on DRIT; defaults as in the published code.

    λ_ms / (‖I₁ − I₂‖₁ / ‖z₁ − z₂‖₁ + 1e-5) pushes the images of two latents apart. The D of random
    attributes judges both.
    """

    lambda_ms: ModeSeekingWeight = 1.0
