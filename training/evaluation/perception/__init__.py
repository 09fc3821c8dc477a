"""The networks of published distances: Inception v3 for the FID, AlexNet and VGG-16 for LPIPS.

`public` turns the usual weight files into ours, which `stored` loads; no weights come with the
project.
"""
