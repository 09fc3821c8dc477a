"""MSGAN (Mao et al., CVPR 2019, arXiv 1903.05628): mode seeking, on the networks of DRIT.

The paper adds one term to conditional GANs; its faces, animals and seasons are DRIT with that term.
"""

from dataclasses import dataclass, replace

from training.models.base import Preset
from training.models.drit import DRIT
from training.models.losses import ModeSeekingWeight
from training.models.shared_presets import smoke


@dataclass(frozen=True)
class MSGAN(DRIT):
    """Hyper-parameters of MSGAN on DRIT; defaults as in the published code.

    λ_ms / (‖I₁ − I₂‖₁ / ‖z₁ − z₂‖₁ + 1e-5) pushes the images of two latents apart. The D of random
    attributes judges both.
    """

    lambda_ms: ModeSeekingWeight = 1.0

    @classmethod
    def presets(cls) -> dict[str, Preset]:
        """DRIT's, but for the demo: with λ_ms = 1 its few images end in torn faces."""
        rows = super().presets()
        demo = rows["demo"]
        small = replace(
            demo,
            model=cls(**{**vars(demo.model), "lambda_ms": 0.1}),
            train=replace(demo.train, images=2_400, decay_images=1_200, warmup_images=480),
        )
        return rows | {"demo": small, "smoke": smoke(small)}
