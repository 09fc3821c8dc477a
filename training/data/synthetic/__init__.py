"""Drawn faces and scenes, so that the pipeline runs without anybody's photos."""
