"""HTML pages, image grids and plots."""
