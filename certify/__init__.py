"""Certification: grades whoever claims to speak the protocol, with real engines and recorded evidence (DESIGN §9)."""
