"""The two container images of the steps. A release pins both by digest in the YAML it emits."""

STEPS_IMAGE = "stargan-steps:0.2.0"  # data, registry
TRAIN_IMAGE = "stargan-train:0.2.0"  # everything that runs a network
