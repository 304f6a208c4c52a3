"""Carrying a plan out: small, idempotent steps on a Target, with a journal and a proof."""
