"""What a file carries: ELF and PE sections, fat binaries, needed and undefined symbols. Knows nobody."""
