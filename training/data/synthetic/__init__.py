"""Drawn faces and scenes, so that the pipeline runs without real photos."""
