"""Transfers of tensors and caches: offer, credit, resend, resume (C1, E4, G4). `docs/spec/transfers.md` is the rule."""
