"""StarGAN (Choi et al., CVPR 2018, arXiv 1711.09020).

One generator G(x, c) for all domains, one discriminator D with a patch critic D_src and a label
head D_cls; the mask vector in c̃ allows training on several data sets (eq. 7).
"""

from dataclasses import dataclass, replace
from typing import Annotated, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from training.core.config import (
    DataConfig,
    Decay,
    EvalConfig,
    JudgeConfig,
    Layers,
    Positive,
    Rate,
    TrainConfig,
    Units,
    Weight,
)
from training.data.batch import Batch
from training.data.labels import LabelSpace
from training.models.base import (
    DEFAULT_OPTIONS,
    Adversarial,
    Ahead,
    EditOptions,
    Losses,
    Model,
    Nets,
    Optim,
    Phase,
    Preset,
)
from training.models.kernels import FromImage, Norm, ToImage, wide_conv
from training.models.layers import (
    Labelled,
    LabelNorm,
    LabelNorms,
    LabelResidual,
    Output,
    Residual,
    Upsampling,
    autocast_off,
    changed,
    check_halvings,
    doubled,
    start_as_copy,
    tiled,
)
from training.models.losses import (
    AdversarialLoss,
    R1Weight,
    balance_of,
    fooled,
    gradient_penalty,
    told_apart,
    zero_centred,
)
from training.models.shared_presets import CELEBA, RAFD, demo, smoke


def trunk(
    labels: int, dim: int, repeat: int, upsampling: Upsampling = "transposed", norms: bool = False
) -> list[nn.Module]:
    """G's layers except the output layer: (n, 3 + labels, s, s) -> (n, dim, s, s).

    With `norms` the norms take the labels as well; the layers are for `Labelled`.
    """

    def norm() -> nn.Module:
        return LabelNorm(dim, labels) if norms else Norm(dim)

    layers: list[nn.Module] = [
        FromImage(3 + labels, dim),
        norm(),
        nn.ReLU(inplace=True),
    ]
    for _ in range(2):
        layers += [nn.Conv2d(dim, dim * 2, 4, 2, 1, bias=False)]
        dim *= 2
        layers += [norm(), nn.ReLU(inplace=True)]
    layers += [LabelResidual(dim, labels) if norms else Residual(dim) for _ in range(repeat)]
    for _ in range(2):
        layers += [doubled(dim, dim // 2, upsampling)]
        dim //= 2
        layers += [norm(), nn.ReLU(inplace=True)]
    return layers


class Generator(nn.Module):
    """(n, 3, s, s) in [-1, 1] and labels (n, c) -> (n, 3, s, s) in [-1, 1].

    Zero padding is required: with reflection, the norm would remove the constant label planes.
    With `residual` the last layer gives the change of x, at first 0; with `norms` G's norms take
    the labels as well.
    """

    def __init__(
        self,
        labels: int,
        dim: int,
        repeat: int,
        upsampling: Upsampling = "transposed",
        residual: bool = False,
        norms: bool = False,
    ) -> None:
        super().__init__()
        layers = [*trunk(labels, dim, repeat, upsampling, norms), ToImage(dim, 3)]
        if residual:
            start_as_copy(layers[-1])
        else:
            layers += [nn.Tanh()]
        self.main = Labelled(layers) if norms else nn.Sequential(*layers)
        self.residual, self.norms = residual, norms

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        h = torch.cat([x, tiled(c, x)], 1)
        out: Tensor = (self.main(h, c) if self.norms else self.main(h)).float()
        return changed(x, out) if self.residual else out


def signed(labels: Tensor, dataset: int, space: LabelSpace) -> Tensor:
    """c̃ (n, dim_g) of one data set's images -> its labels from 0…1 to −1…1, others 0 (n, dim_d)."""
    part = space.slice(dataset)
    return F.pad(2 * labels[:, part] - 1, (part.start, space.dim_d - part.stop))


def projected(scores: Tensor, labels: Tensor, dataset: int, space: LabelSpace) -> Tensor:
    """D_src (n, 1, h, w) of a critic with a projection, whose maps are (n, 1 + k, h, w).

    The first map plus the sum of the others, each times its label in c̃ (n, dim_g), from 0…1 to
    −1…1, or 0 if unknown (Miyato & Koyama 2018, eq. 5).
    """
    signs = signed(labels, dataset, space)[:, :, None, None]
    return scores[:, :1] + (scores[:, 1:] * signs).sum(1, keepdim=True)


def projection_weights(labels: Tensor, dataset: int, space: LabelSpace) -> Tensor:
    """(n, 1 + k, 1, 1): the weights of the maps in `projected`."""
    signs = signed(labels, dataset, space)
    return torch.cat([torch.ones_like(signs[:, :1]), signs], 1)[:, :, None, None]


class Discriminator(nn.Module):
    """(n, 3, s, s) -> patch scores (n, 1, s/2^r, s/2^r) and label logits (n, c); no norm.

    With `branches` the scores are (n, c, s/2^r, s/2^r), one map per label, without logits; with
    `projection` (n, 1 + c, s/2^r, s/2^r), the last c to be weighted by the labels.
    """

    def __init__(
        self,
        labels: int,
        size: int,
        dim: int,
        repeat: int,
        branches: bool = False,
        projection: bool = False,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for _ in range(repeat):
            layers += [wide_conv(channels, dim, 4, 2, 1), nn.LeakyReLU(0.01, inplace=True)]
            channels, dim = dim, dim * 2
        self.main = nn.Sequential(*layers)
        maps = labels if branches else 1 + labels if projection else 1
        self.src = nn.Conv2d(channels, maps, 3, 1, 1, bias=False)
        if not branches:
            self.cls = nn.Conv2d(channels, labels, size >> repeat, bias=False)
        self.branches = branches

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.main(x)
        with autocast_off(h):
            h = h.float()
            logits = h.new_zeros(len(h), 0) if self.branches else self.cls(h).flatten(1)
            return self.src(h), logits

    def score_path(self) -> nn.Module:
        return nn.Sequential(self.main, self.src)


JOINT = ("celeba", "rafd")
# The reference code's 200,000 iterations of 16; joint training draws two batches per iteration.
REPOSITORY = 3_200_000


def _paper(model: Model, length: int, data: DataConfig, batch: int = 16) -> Preset:
    """The paper's schedule: the learning rate decays over the second half."""
    return Preset(model, data, TrainConfig(images=length, decay_images=length // 2, batch=batch))


@dataclass(frozen=True)
class StarGAN(Model):
    """Hyper-parameters of StarGAN; defaults are the paper's.

    `fidelity` selects paper or reference code where the code differs by mistake.
    """

    conv_dim: Annotated[Units, Field(description="channels of G's first layer")] = 64
    repeat_num: Annotated[Layers, Field(description="residual blocks of G")] = 6
    d_conv_dim: Annotated[Units, Field(description="channels of D's first layer")] = 64
    d_repeat_num: Annotated[Layers, Field(description="strided layers of D")] = 6
    lambda_cls: Annotated[Weight, Field(description="weight of the classification loss")] = 1.0
    lambda_rec: Annotated[Weight, Field(description="weight of the reconstruction loss")] = 10.0
    lambda_gp: Annotated[Weight, Field(description="weight of the gradient penalty")] = 10.0
    n_critic: Annotated[Positive, Field(description="updates of D for one of G")] = 5
    g_lr: Annotated[Rate, Field(description="learning rate of G")] = 1e-4
    d_lr: Annotated[Rate, Field(description="learning rate of D")] = 1e-4
    beta1: Annotated[Decay, Field(description="Adam's decay of the first moment")] = 0.5
    beta2: Annotated[Decay, Field(description="Adam's decay of the second moment")] = 0.999
    fidelity: Annotated[
        Literal["paper", "repo"],
        Field(
            description="paper: the learning rate decays to 0; repo: the reference code's decay, "
            "which hardly changes the rate"
        ),
    ] = "paper"
    gp_patches: Annotated[
        Literal["sum", "mean"],
        Field(
            description="gradient penalty on the sum of the patch scores (published) or their mean"
        ),
    ] = "sum"
    d_branches: Annotated[
        bool,
        Field(
            description="B in StarGAN v2's table 1: D has one critic branch per class and no label "
            "head"
        ),
    ] = False
    # Not in the paper, for short trainings; the papers' presets keep the defaults.
    upsampling: Upsampling = "transposed"
    output: Output = "image"
    label_norms: LabelNorms = False
    d_projection: Annotated[
        bool,
        Field(
            description="D's critic also judges whether the image matches its labels (projection, "
            "Miyato & Koyama 2018), which keeps G from painting just what the label head reads"
        ),
    ] = False
    loss: AdversarialLoss = "wgan-gp"
    targets: Annotated[
        Literal["permuted", "different"],
        Field(
            description="labels to translate to: the batch's, permuted (published), or of another "
            "image with other labels, so that no image of a small batch keeps its own"
        ),
    ] = "permuted"
    lambda_adv: Annotated[Weight, Field(description="weight of G's adversarial loss")] = 1.0
    lambda_r1: R1Weight = 1.0

    @property
    def adversarial(self) -> Adversarial:
        return balance_of(self.loss)

    @classmethod
    def presets(cls) -> dict[str, Preset]:
        narrow = cls(
            conv_dim=16, repeat_num=3, d_conv_dim=32, d_repeat_num=4, n_critic=1, lambda_rec=15,
            g_lr=8e-4, d_lr=8e-4,
        )  # fmt: skip
        small = demo(narrow)  # the paper's form
        clear = replace(
            narrow, upsampling="resize", output="residual", label_norms=True, d_projection=True,
            loss="logistic-r1", gp_patches="mean", targets="different", lambda_adv=2, lambda_rec=12,
            beta1=0.0, beta2=0.99,
        )  # fmt: skip
        short = demo(
            clear, images=14_000, decay_images=5_600, warmup_images=0, ema=0.99,
            sample_images=3_500, checkpoint_images=3_500,
        )  # fmt: skip
        joint = replace(
            small,
            # Of twenty drawn people of RaFD four for testing: the gate's realism needs three.
            data=replace(small.data, datasets=JOINT, test_share=0.2),
            # Eight expressions of few people need more and smaller steps than hair colours.
            judge=JudgeConfig(images=(3_200, 6_400), batch=16),
        )
        return {
            # Departs from the paper, which needs a GPU's hours: docs/models/stargan.md.
            "demo": short,
            # The same form for 1,000 to 50,000 photographs, which need longer training.
            "small": replace(
                short,
                data=DataConfig(size=64),
                train=replace(
                    short.train, images=72_000, decay_images=28_800, ema=0.995,
                    sample_images=8_000, checkpoint_images=8_000,
                ),
                judge=JudgeConfig(images=(9_600,)),
                eval=EvalConfig(limit=1_000),
            ),
            "demo-joint": replace(
                joint,
                train=replace(small.train, images=6_400, decay_images=2_400),
                eval=replace(small.eval, min_success=0.3),  # 8 of 13 edits start at 1/8
            ),
            # In the form of "demo", too: in the paper's the expressions of a few people fail.
            "demo-long": replace(
                joint,
                model=clear,
                train=replace(
                    short.train, images=32_000, decay_images=16_000,
                    sample_images=4_000, checkpoint_images=4_000,
                ),
            ),
            "smoke": smoke(small),
            "celeba-128": _paper(cls(), CELEBA, DataConfig()),
            # Not in the paper: four times the batch, for several GPUs. Higher rates measured worse.
            "celeba-128-large": _paper(cls(), CELEBA, DataConfig(), batch=64),
            "celeba-256": _paper(cls(), CELEBA, DataConfig(size=256)),
            "rafd-128": _paper(cls(), RAFD, DataConfig(datasets=("rafd",))),
            "joint-128": _paper(cls(), 2 * REPOSITORY, DataConfig(datasets=JOINT)),
            "joint-256": _paper(cls(), 2 * REPOSITORY, DataConfig(size=256, datasets=JOINT)),
            # Settings of the reference code: its length, random split and ineffective decay.
            "celeba-128-repo": _paper(
                cls(fidelity="repo"),
                REPOSITORY,
                DataConfig(split="paper", interpolation="bilinear"),
            ),
        }  # fmt: skip

    @classmethod
    def tiny(cls) -> Self:
        return cls(conv_dim=4, repeat_num=1, d_conv_dim=4, d_repeat_num=2, n_critic=2)

    def networks(self, space: LabelSpace, size: int) -> Nets:
        """G and D for images of `size` × `size` px, a multiple of 2^d_repeat_num.

        Raises ValueError for any other size, for `d_branches` without a single data set of
        classes, and for `d_branches` with `d_projection`.
        """
        check_halvings(size, self.d_repeat_num)
        if self.d_branches and self.d_projection:
            raise ValueError("d_branches and d_projection: D has one of them; leave one out")
        if self.d_branches and [part.kind for part in space.sets] != ["onehot"]:
            raise ValueError(
                "d_branches: one data set of classes is needed; turn attributes into classes with "
                "data.domains"
            )
        return {
            "G": Generator(
                space.dim_g,
                self.conv_dim,
                self.repeat_num,
                self.upsampling,
                residual=self.output == "residual",
                norms=self.label_norms,
            ),
            "D": Discriminator(
                space.dim_d,
                size,
                self.d_conv_dim,
                self.d_repeat_num,
                self.d_branches,
                self.d_projection,
            ),
        }

    def phases(self, space: LabelSpace) -> list[Phase]:
        return [
            Phase(
                "d",
                ("D",),
                lambda nets, batch: self.d_loss(nets, batch, space),
                keep_grad=("G",),
                ahead=Ahead(("G",), self.fakes),
            ),
            Phase("g", ("G",), lambda nets, batch: self.g_loss(nets, batch, space), self.n_critic),
        ]

    def warmup(self, space: LabelSpace) -> list[Phase]:
        """Not in the paper: G first learns the identity, so that early edits are faces."""
        return [Phase("warmup", ("G",), self.copy_loss)]

    def optim(self, space: LabelSpace) -> dict[str, Optim]:
        betas = (self.beta1, self.beta2)
        return {"G": Optim(self.g_lr, betas), "D": Optim(self.d_lr, betas)}

    def averaged(self, space: LabelSpace) -> tuple[str, ...]:
        """Not in the paper; the average does not affect training, only inference."""
        return ("G",)

    def lr_scale(self, images: int, length: int, decay: int) -> float:
        """Factor on the learning rate after `images` of `length` images.

        paper: constant, then linear to 0 over the last `decay` images. repo: every 1,000 iterations
        of 16 the reference code subtracts the decay of one iteration, so the factor ends at 0.999.
        """
        if not decay:
            return 1.0
        decayed = max(0, images - (length - decay))
        if self.fidelity == "paper":
            return max(0.0, 1.0 - decayed / decay)
        return 1.0 - (decayed // 16_000) * (16 / decay)

    def classification(
        self, logits: Tensor, labels: Tensor, batch: Batch, space: LabelSpace
    ) -> Tensor:
        """L_cls on the current data set's slice of the labels (section 3.3); mean over the batch.

        Binary: cross entropy, one-hot: softmax cross entropy, continuous: squared error, each
        summed over labels.
        """
        part = space.slice(batch.dataset)
        logits, labels = logits[:, part], labels[:, part]
        kind = space.sets[batch.dataset].kind
        if kind == "binary":
            loss = F.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
        elif kind == "onehot":
            loss = F.cross_entropy(logits, labels.argmax(1), reduction="sum")
        else:
            loss = F.mse_loss(logits, labels, reduction="sum")
        return loss / len(logits)

    def fake(self, nets: Nets, batch: Batch) -> Tensor:
        """G(x, c), computed once per batch, since D's update does not change G."""
        fake = batch.shared.get("fake")
        trains_g = next(nets["G"].parameters()).requires_grad
        if fake is None or (trains_g and not fake.requires_grad):
            fake = batch.shared["fake"] = self.fakes(nets, batch)["fake"]
        return fake

    def fakes(self, nets: Nets, batch: Batch) -> dict[str, Tensor]:
        """G(x, c), as D's loss shares it."""
        return {"fake": nets["G"](batch.image, self.target(batch))}

    def target(self, batch: Batch) -> Tensor:
        """c (n, dim_g): the labels that the batch is translated to."""
        if self.targets == "different" and batch.other is not None:  # none outside of training
            return batch.other
        return batch.target

    def d_loss(self, nets: Nets, batch: Batch, space: LabelSpace) -> Losses:
        """L_D = −E[D_src(x)] + E[D_src(G(x,c))] + λ_gp·GP + λ_cls·L_cls(D_cls(x), c') (eqs 5, 8).

        logistic-r1: E[softplus(−D_src(x))] + E[softplus(D_src(G(x,c)))] + λ_r1/2·R1 instead of the
        first three; r3gan: E[softplus(D_src(G(x,c)) − D_src(x))] + λ_r1/2·(R1 + R2). Real and fake
        images share one forward pass of D: without a norm, rows are independent. The label logits
        of fakes are unused.
        """
        x = batch.image
        fake = self.fake(nets, batch).detach()
        src, cls = nets["D"](torch.cat([x, fake]))
        src = self.score(src, torch.cat([batch.source, self.target(batch)]), batch, space)
        n = len(x)
        weights = self.penalty_weights(batch.source, batch, space)
        if self.loss == "wgan-gp":
            alpha = batch.noise("alpha", (1, 1, 1))
            gp = self.lambda_gp * gradient_penalty(nets["D"], x, fake, alpha, weights)
            penalty = {"gp": gp}
        else:
            of_fake: Tensor | float | None = None
            if self.loss == "r3gan":
                of_fake = self.penalty_weights(self.target(batch), batch, space)
            penalty = zero_centred(nets["D"], x, fake, self.loss, self.lambda_r1, weights, of_fake)
        losses = told_apart(src[:n], src[n:], self.loss)
        if not self.d_branches:
            cls = self.classification(cls[:n], batch.source, batch, space)
            losses["cls"] = self.lambda_cls * cls
        return losses | penalty

    def g_loss(self, nets: Nets, batch: Batch, space: LabelSpace) -> Losses:
        """L_G = −E[D_src(G(x,c))] + λ_cls·L_cls(D_cls(G(x,c)), c) + λ_rec·L_rec (eq. 6).

        logistic-r1: E[softplus(−D_src(G(x,c)))] instead of the first, r3gan:
        E[softplus(D_src(x) − D_src(G(x,c)))]; the first is weighted by λ_adv.
        L_rec = ‖x − G(G(x,c),c')‖₁ (eq. 4).
        """
        fake, target = self.fake(nets, batch), self.target(batch)
        src, cls = nets["D"](fake)
        back = nets["G"](fake, batch.source)
        src = self.score(src, target, batch, space)

        def real() -> Tensor:
            return self.score(nets["D"](batch.image)[0], batch.source, batch, space)

        losses = {"fake": self.lambda_adv * fooled(src, self.loss, real)}
        if not self.d_branches:
            cls = self.classification(cls, target, batch, space)
            losses["cls"] = self.lambda_cls * cls
        return losses | {"rec": self.lambda_rec * F.l1_loss(back, batch.image)}

    def score(self, scores: Tensor, labels: Tensor, batch: Batch, space: LabelSpace) -> Tensor:
        """D_src (n, 1, h, w) of D's maps (n, k, h, w) for each row's labels c̃ (n, dim_g).

        With branches the map of the class, with the projection that of `projected`.
        """
        if self.d_branches:
            return scores.take_along_dim(labels.argmax(1)[:, None, None, None], 1)
        if self.d_projection:
            return projected(scores, labels, batch.dataset, space)
        return scores

    def penalty_weights(self, labels: Tensor, batch: Batch, space: LabelSpace) -> Tensor | float:
        """Of the maps in a penalty: those of `score` for the labels; 1/patches for means."""
        side = batch.image.shape[2] >> self.d_repeat_num
        weight = 1.0 if self.gp_patches == "sum" else 1 / side**2
        if self.d_branches:
            return weight * labels[:, :, None, None]
        if self.d_projection:
            return weight * projection_weights(labels, batch.dataset, space)
        return weight

    def copy_loss(self, nets: Nets, batch: Batch) -> Losses:
        """λ_rec·‖x − G(x, c')‖₁."""
        return {
            "rec": self.lambda_rec * F.l1_loss(nets["G"](batch.image, batch.source), batch.image)
        }

    def validate(self, nets: Nets, batch: Batch, space: LabelSpace) -> Tensor:
        """−(λ_cls·L_cls + λ_rec·L_rec) on held-out images, with the current D."""
        losses = self.g_loss(nets, batch, space)
        return -(losses.get("cls", 0.0) + losses["rec"])

    def translate(
        self,
        nets: Nets,
        image: Tensor,
        source: Tensor | None,
        target: Tensor,
        options: EditOptions = DEFAULT_OPTIONS,
    ) -> Tensor:
        """G(x, c); StarGAN does not use the source labels."""
        out: Tensor = nets["G"](image, target)
        return out
