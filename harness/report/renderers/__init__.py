"""Renders grids as text, as a LaTeX document and as a page for the browser."""
