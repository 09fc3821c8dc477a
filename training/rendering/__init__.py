"""Pages, grids of pictures and plots."""
