"""Building CUDA extensions: source → wheel that carries the wanted architectures, or a clear refusal."""
