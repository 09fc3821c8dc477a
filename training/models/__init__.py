"""Every model by name. A new one: its file and one line here."""

from training.models.stargan import StarGAN

MODELS = {
    "stargan": StarGAN,
}
