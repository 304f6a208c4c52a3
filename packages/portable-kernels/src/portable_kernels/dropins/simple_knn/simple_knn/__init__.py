"""The import name of simple_knn 1.0.0, served by portable-kernels. As in the original, all is in `_C`."""
