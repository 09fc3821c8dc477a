"""GANimation (Pumarola et al., ECCV 2018, arXiv 1807.09251).

G predicts colours C and an attention mask A, I = A∘I_y_r + (1 − A)∘C, so that an edit only changes
the relevant regions. Conditions are intensities in [0, 1] of the paper's 17 action units.
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, Self, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from training.core.config import (
    DataConfig,
    Decay,
    JudgeConfig,
    Layers,
    Positive,
    Rate,
    Share,
    TrainConfig,
    Units,
    Weight,
)
from training.data.batch import Batch
from training.data.labels import UNITS, Kind, LabelSpace
from training.models.base import (
    DEFAULT_OPTIONS,
    Adversarial,
    Ahead,
    Diagnostic,
    EditOptions,
    Losses,
    Model,
    Nets,
    Optim,
    Phase,
    Preset,
    Preview,
)
from training.models.kernels import ToImage
from training.models.layers import (
    Labelled,
    LabelNorms,
    Output,
    Upsampling,
    changed,
    check_halvings,
    narrow_normal,
    start_as_copy,
    tiled,
)
from training.models.losses import (
    AdversarialLoss,
    R1Weight,
    balance_of,
    fooled,
    gradient_penalty,
    label_loss,
    told_apart,
    zero_centred,
)
from training.models.shared_presets import demo, smoke
from training.models.stargan import Discriminator, projected, projection_weights, trunk

STEPS = (0.0, 1 / 3, 2 / 3, 1.0)  # label values in the sweep preview
FRAMES = 13  # of the interpolation preview
EMOTIONET = 6_000_000  # 30 epochs of 200,000


class Generator(nn.Module):
    """Images (n, 3, s, s) in [-1, 1] and c̃ (n, c) -> edits and masks A (n, 1, s, s) in [0, 1].

    A is 1 where the input is kept, as in the published code; the paper's two versions disagree.
    With a residual `output` the colours are the input plus a change, at first 0.
    """

    def __init__(
        self,
        labels: int,
        dim: int,
        repeat: int,
        upsampling: Upsampling = "transposed",
        output: Output = "image",
        norms: bool = False,
    ) -> None:
        super().__init__()
        self.residual, self.norms = output == "residual", norms
        layers = trunk(labels, dim, repeat, upsampling, norms)
        self.main = Labelled(layers) if norms else nn.Sequential(*layers)
        self.colour = ToImage(dim, 3)
        self.attention = ToImage(dim, 1)

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        mask, colours = self.maps(x, c)
        return mask * x + (1 - mask) * colours, mask

    def maps(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """The mask A (n, 1, s, s) in [0, 1] and the colours C (n, 3, s, s) in [-1, 1]."""
        h = torch.cat([x, tiled(c, x)], 1)
        h = self.main(h, c) if self.norms else self.main(h)
        raw = self.colour(h)
        colours = changed(x, raw.float()) if self.residual else torch.tanh(raw).float()
        return torch.sigmoid(self.attention(h)).float(), colours


def total_variation(mask: Tensor) -> Tensor:
    """Mean |A(x+1) − A(x)| plus mean |A(y+1) − A(y)|: L1 as in the code; squared in the paper."""
    horizontal = (mask[..., 1:] - mask[..., :-1]).abs().mean()
    return horizontal + (mask[..., 1:, :] - mask[..., :-1, :]).abs().mean()


@dataclass(frozen=True)
class GANimation(Model):
    """Hyper-parameters of GANimation; defaults are the paper's, for losses that are means.

    The published code divides the mean squared error by the batch size again and sums the total
    variation: with its batch of 25 at 128 px, 4,000/25 = 160 and 1e-5·25·128·127 ≈ 4.1.
    `fidelity` selects the paper's single update of D or the code's two.
    """

    conv_dim: Annotated[Units, Field(description="channels of G's first layer")] = 64
    repeat_num: Annotated[Layers, Field(description="residual blocks of G")] = 6
    d_conv_dim: Annotated[Units, Field(description="channels of D's first layer")] = 64
    d_repeat_num: Annotated[Layers, Field(description="strided layers of D")] = 6
    lambda_cond: Annotated[Weight, Field(description="weight of the action units' loss")] = 160.0
    lambda_cyc: Annotated[Weight, Field(description="weight of the cycle loss")] = 10.0
    lambda_mask: Annotated[Weight, Field(description="weight of the attention mask's size")] = 0.1
    lambda_tv: Annotated[
        Weight, Field(description="weight of the attention mask's total variation")
    ] = 4.1
    lambda_gp: Annotated[Weight, Field(description="weight of the gradient penalty")] = 10.0
    noise: Annotated[
        Share, Field(description="half-width of the uniform noise on target intensities")
    ] = 0.1
    n_critic: Annotated[Positive, Field(description="updates of D for one of G")] = 5
    g_lr: Annotated[Rate, Field(description="learning rate of G")] = 1e-4
    d_lr: Annotated[Rate, Field(description="learning rate of D")] = 1e-4
    beta1: Annotated[Decay, Field(description="Adam's decay of the first moment")] = 0.5
    beta2: Annotated[Decay, Field(description="Adam's decay of the second moment")] = 0.999
    averages: Annotated[bool, Field(description="keep moving averages of G (not in the paper)")] = (
        False
    )
    fidelity: Annotated[
        Literal["paper", "repo"],
        Field(
            description="paper: D's loss includes its gradient penalty; repo: D takes a second "
            "step for the penalty, as in the published code"
        ),
    ] = "paper"
    # Not in the paper, for short trainings; the papers' presets keep the defaults.
    upsampling: Upsampling = "transposed"
    output: Output = "image"
    label_norms: LabelNorms = False
    d_projection: Annotated[
        bool,
        Field(
            description="D's critic also judges whether the image matches its intensities "
            "(projection), which keeps G from painting just what D_y reads"
        ),
    ] = False
    loss: AdversarialLoss = "wgan-gp"
    lambda_r1: R1Weight = 1.0
    targets: Annotated[
        Literal["image", "uniform"],
        Field(
            description="intensities to translate to: another image's (published); or each unit's "
            "drawn from 0 to 1 with probability 1/2 and otherwise the image's own, since strong "
            "single units are rare in images"
        ),
    ] = "image"

    label_kinds: ClassVar[tuple[Kind, ...]] = ("continuous", "binary", "onehot")

    @property
    def adversarial(self) -> Adversarial:
        return balance_of(self.loss)

    @classmethod
    def presets(cls) -> dict[str, Preset]:
        base = demo(
            # Departs from the paper, which needs a GPU's hours: docs/models/ganimation.md. With
            # lambda_cond 160, G paints what only D takes for action units.
            cls(
                conv_dim=16, repeat_num=3, d_conv_dim=32, d_repeat_num=4, n_critic=1, g_lr=8e-4,
                d_lr=8e-4, beta1=0.0, beta2=0.99, averages=True, upsampling="resize",
                output="residual", label_norms=True, d_projection=True, loss="logistic-r1",
                lambda_cond=15.0, lambda_cyc=4.0, lambda_mask=0.05, lambda_tv=0.8,
            ),
            images=32_000, decay_images=12_000, warmup_images=0, ema=0.99,
            sample_images=4_000, checkpoint_images=4_000,
        )  # fmt: skip
        small = replace(
            base,
            # Of the 16 units of the synthetic faces, those clearly visible at 64 px.
            data=replace(base.data, attributes=("AU02", "AU04", "AU06", "AU12", "AU25", "AU26")),
            judge=JudgeConfig(images=(9_600,), batch=32),  # units change few pixels
            eval=replace(base.eval, min_success=0.3),  # a third of some units' edits succeed
        )
        paper = Preset(
            cls(),
            DataConfig(attributes=UNITS),
            TrainConfig(images=EMOTIONET, decay_images=EMOTIONET // 3, batch=25, ema=0.0),
        )
        return {"demo": small, "smoke": smoke(small), "units-128": paper}

    @classmethod
    def tiny(cls) -> Self:
        return cls(
            conv_dim=4, repeat_num=1, d_conv_dim=4, d_repeat_num=2, n_critic=2, averages=True
        )

    def networks(self, space: LabelSpace, size: int) -> Nets:
        """G and D; weights from N(0, 0.02), biases 0. Raises ValueError for an unsupported size."""
        check_halvings(size, self.d_repeat_num)
        nets: Nets = {
            "G": Generator(
                space.dim_g,
                self.conv_dim,
                self.repeat_num,
                self.upsampling,
                self.output,
                self.label_norms,
            ),
            "D": Discriminator(
                space.dim_d,
                size,
                self.d_conv_dim,
                self.d_repeat_num,
                projection=self.d_projection,
            ),
        }
        for net in nets.values():
            narrow_normal(net)
        if self.output == "residual":
            start_as_copy(cast(Generator, nets["G"]).colour)
        return nets

    def phases(self, space: LabelSpace) -> list[Phase]:
        """D, in two steps with `fidelity` repo, then G, all on one batch."""
        d = Phase(
            "d",
            ("D",),
            lambda nets, batch: self.d_loss(nets, batch, space),
            keep_grad=("G",),
            ahead=Ahead(("G",), lambda nets, batch: self.fakes(nets, batch, space)),
        )
        p = Phase(
            "p", ("D",), lambda nets, batch: self.p_loss(nets, batch, space), keep_grad=("G",)
        )
        g = Phase("g", ("G",), lambda nets, batch: self.g_loss(nets, batch, space), self.n_critic)
        return [d, p, g] if self.fidelity == "repo" else [d, g]

    def warmup(self, space: LabelSpace) -> list[Phase]:
        """Not in the paper: the colours learn to copy before the mask can hide them."""
        return [Phase("warmup", ("G",), self.copy_loss)]

    def optim(self, space: LabelSpace) -> dict[str, Optim]:
        betas = (self.beta1, self.beta2)
        return {"G": Optim(self.g_lr, betas), "D": Optim(self.d_lr, betas)}

    def averaged(self, space: LabelSpace) -> tuple[str, ...]:
        return ("G",) if self.averages else ()

    def noisy_target(self, batch: Batch, space: LabelSpace) -> Tensor:
        """y_g: another image's intensities plus noise, not clipped; other label kinds unchanged.

        targets=uniform: of each unit U(0, 1) with probability ½, else the image's own, plus noise.
        """
        if space.sets[batch.dataset].kind != "continuous":
            return batch.target
        part = space.slice(batch.dataset)
        target = (batch.target if batch.other is None else batch.other).clone()
        width = part.stop - part.start
        if self.targets == "uniform":
            drawn, moved = batch.noise("y_u", (width,)), batch.noise("y_m", (width,)) < 0.5
            target[:, part] = torch.where(moved, drawn, batch.source[:, part])
        target[:, part] += self.noise * (2 * batch.noise("y_g", (width,)) - 1)
        return target

    def fake(self, nets: Nets, batch: Batch, space: LabelSpace) -> tuple[Tensor, Tensor]:
        """G(I, y_g) and its mask, computed once per batch."""
        fake = batch.shared.get("fake")
        trains_g = next(nets["G"].parameters()).requires_grad
        if fake is None or (trains_g and not fake.requires_grad):
            batch.shared.update(self.fakes(nets, batch, space))
        return batch.shared["fake"], batch.shared["mask"]

    def fakes(self, nets: Nets, batch: Batch, space: LabelSpace) -> dict[str, Tensor]:
        """G(I, y_g) and its mask, as D's loss shares them."""
        fake, mask = nets["G"](batch.image, self.noisy_target(batch, space))
        return {"fake": fake, "mask": mask}

    def d_loss(self, nets: Nets, batch: Batch, space: LabelSpace) -> Losses:
        """L_D = −E[D(I)] + E[D(G(I,y_g))] + λ_gp·GP + λ_y·‖D_y(I) − y_r‖² (eqs 1, 3).

        With `fidelity` repo without GP, which is `p_loss`. logistic-r1: E[softplus(−D(I))] +
        E[softplus(D(G(I,y_g)))] + λ_r1/2·R1 of the mean of the patch scores instead; r3gan:
        E[softplus(D(G(I,y_g)) − D(I))] + λ_r1/2·(R1 + R2).
        """
        x = batch.image
        fake = self.fake(nets, batch, space)[0].detach()
        src, cls = nets["D"](torch.cat([x, fake]))
        if self.d_projection:
            shown = torch.cat([batch.source, self.noisy_target(batch, space)])
            src = projected(src, shown, batch.dataset, space)
        n = len(x)
        terms = told_apart(src[:n], src[n:], self.loss)
        cond = label_loss(cls[:n], batch.source, batch.dataset, space)
        terms["cond"] = self.lambda_cond * cond
        if self.fidelity == "paper":
            terms |= self.penalty(nets, batch, space)
        return terms

    def p_loss(self, nets: Nets, batch: Batch, space: LabelSpace) -> Losses:
        """λ_gp·GP alone, with gradients of 0 for the label head.

        Adam moves the head by its moments, as the published code's did with torch 0.3; DDP waits
        for a gradient of every parameter.
        """
        idle = 0 * nets["D"](batch.image[:1])[1].sum()
        return {name: term + idle for name, term in self.penalty(nets, batch, space).items()}

    def penalty(self, nets: Nets, batch: Batch, space: LabelSpace) -> Losses:
        """λ_gp·GP (eq. 1), or λ_r1/2·R1, or λ_r1/2·(R1 + R2)."""

        def weights(labels: Tensor) -> Tensor | float:
            """Of D's maps for these labels."""
            if not self.d_projection:
                return 1.0
            return projection_weights(labels, batch.dataset, space)

        d, x, own = nets["D"], batch.image, weights(batch.source)
        fake = self.fake(nets, batch, space)[0].detach()
        if self.loss == "wgan-gp":
            alpha = batch.noise("alpha", (1, 1, 1))
            return {"gp": self.lambda_gp * gradient_penalty(d, x, fake, alpha, own)}
        patches = (x.shape[2] >> self.d_repeat_num) ** 2
        asked = weights(self.noisy_target(batch, space)) / patches if self.loss == "r3gan" else None
        return zero_centred(d, x, fake, self.loss, self.lambda_r1, own / patches, asked)

    def g_loss(self, nets: Nets, batch: Batch, space: LabelSpace) -> Losses:
        """L_G = −E[D] + λ_y·‖D_y(G(I,y_g)) − y_g‖² + λ_idt·‖G(G(I,y_g),y_r) − I‖₁ (eqs 1, 3, 4)
        + λ_A·E[A] + λ_TV·TV(A) of both masks (eq. 2).
        """
        fake, mask = self.fake(nets, batch, space)
        src, cls = nets["D"](fake)
        back, back_mask = nets["G"](fake, batch.source)
        target = self.noisy_target(batch, space)
        if self.d_projection:
            src = projected(src, target, batch.dataset, space)

        def real() -> Tensor:
            scores: Tensor = nets["D"](batch.image)[0]
            if not self.d_projection:
                return scores
            return projected(scores, batch.source, batch.dataset, space)

        return {
            "fake": fooled(src, self.loss, real),
            "cond": self.lambda_cond * label_loss(cls, target, batch.dataset, space),
            "cyc": self.lambda_cyc * F.l1_loss(back, batch.image),
            "mask": self.lambda_mask * (mask.mean() + back_mask.mean()),
            "tv": self.lambda_tv * (total_variation(mask) + total_variation(back_mask)),
        }

    def copy_loss(self, nets: Nets, batch: Batch) -> Losses:
        """λ_idt·‖G(I, y_r) − I‖₁, and a term that keeps A at ½."""
        picture, mask = nets["G"](batch.image, batch.source)
        return {
            "cyc": self.lambda_cyc * F.l1_loss(picture, batch.image),
            "mask": (mask - 0.5).square().mean(),
        }

    def validate(self, nets: Nets, batch: Batch, space: LabelSpace) -> Tensor:
        """−(λ_y·L_y + λ_idt·L_idt) on held-out images, without noise on the intensities."""
        fake, _ = nets["G"](batch.image, batch.target)
        _, cls = nets["D"](fake)
        back, _ = nets["G"](fake, batch.source)
        cond = label_loss(cls, batch.target, batch.dataset, space)
        return -(self.lambda_cond * cond + self.lambda_cyc * F.l1_loss(back, batch.image))

    @torch.no_grad()
    def diagnostics(self, nets: Nets, image: Tensor, target: Tensor) -> list[Diagnostic]:
        """Collapse of the mask to 1 (output equals input) or to 0 (the whole image is replaced).

        Edits may be small, so collapse to 1 is measured on the 1 % of pixels with the lowest mask.
        With a residual output the colours keep the input as well, so that 0 is no collapse.
        """
        least = 0.0 if self.output == "residual" else 0.05
        mask = nets["G"](image, target)[1].flatten(1)
        lowest = mask.topk(max(1, mask.shape[1] // 100), largest=False).values
        return [
            Diagnostic("attention", float(mask.mean()), least, 1.0,
                    "the mask is near 0: the whole image is replaced"),
            Diagnostic("attention_where_painted", float(lowest.mean()), 0.0, 0.9,
                    "the mask is near 1 everywhere: the output is the input"),
        ]  # fmt: skip

    def translate(
        self,
        nets: Nets,
        image: Tensor,
        source: Tensor | None,
        target: Tensor,
        options: EditOptions = DEFAULT_OPTIONS,
    ) -> Tensor:
        """A∘I + (1 − A)∘C at the target's intensities."""
        out: Tensor = nets["G"](image, target)[0]
        return out

    def paint(
        self,
        nets: Nets,
        image: Tensor,
        source: Tensor | None,
        target: Tensor,
        options: EditOptions = DEFAULT_OPTIONS,
    ) -> tuple[Tensor, Tensor]:
        """The mask A and the colours C."""
        return cast(Generator, nets["G"]).maps(image, target)

    def previews(self, nets: Nets, batch: Batch, space: LabelSpace) -> dict[str, Preview]:
        """A sweep of each label, masks and colours, and an interpolation to other labels."""
        part, x, source = space.slice(batch.dataset), batch.image[:4], batch.source[:4]
        names = space.sets[batch.dataset].names
        one, rows = x[:1].expand(len(STEPS), -1, -1, -1), []
        for k in range(part.start, part.stop):
            c = source[:1].repeat(len(STEPS), 1)  # the first image's labels except one
            c[:, k] = torch.tensor(STEPS)
            rows.append(torch.cat([x[:1], self.translate(nets, one, None, c)]))
        target = batch.target[:4]
        mask, colours = self.paint(nets, x, source, target)
        edited = self.translate(nets, x, source, target)
        parts = torch.stack([x, (2 * mask - 1).expand_as(x), colours, edited], 1)
        frames = [
            self.translate(nets, x, source, torch.lerp(source, target, t))
            for t in torch.linspace(0, 1, FRAMES).tolist()
        ]
        return {
            "sweep": Preview(
                torch.stack(rows), ("input", "0", "1/3", "2/3", "1"),
                "Each label from 0 to 1, all others unchanged.", names,
            ),
            "attention": Preview(
                parts, ("input", "attention", "colours", "edited"),
                "Attention mask and colours: the edit is the input where the mask is white and the "
                "colours where it is black.",
            ),
            "interpolation": Preview(
                torch.stack(frames), (), "Interpolation from each image's to another's labels.",
                moves=True,
            ),
        }  # fmt: skip
