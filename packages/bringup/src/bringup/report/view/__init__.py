"""Meshes and Gaussian scenes as pictures: read without numpy, shown in one page without network."""
