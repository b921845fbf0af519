"""Frames in packet captures: read, written, and broken on purpose, with Scapy. Nothing else in the product needs it."""
