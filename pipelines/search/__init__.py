"""Search of settings: the space, its trials, the study with its page, and the same for Katib."""
